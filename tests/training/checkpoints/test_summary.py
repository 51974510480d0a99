"""`summary.csv` of a resumed run."""
import pytest

from tests.support.training_runs import rows_of
from timm_multimix.checks import UsageError
from timm_multimix.training.records import Summary


def test_repeated_headers_and_remains_of_a_crash_are_skipped(tmp_path):
    path = tmp_path / 'summary.csv'
    path.write_bytes(b'epoch,train_loss,lr\n0,2.0,0.1\nepoch,train_loss,lr\n1,1.5,0.1\n\n2,1.0,0.1\n\0\0\0\n,,\n')
    summary = Summary(str(path), 2)
    summary.add_epoch(2, dict(train_loss=0.5, lr=0.05))
    assert [tuple(row.values()) for row in rows_of(tmp_path)] == [
        ('0', '2.0', '0.1'), ('1', '1.5', '0.1'), ('2', '0.5', '0.05')]


def test_a_table_of_another_kind_is_refused_and_left_alone(tmp_path):
    path = tmp_path / 'summary.csv'
    path.write_text('name,value\na,1\n')
    with pytest.raises(UsageError, match='summary.csv: not the summary of a run'):
        Summary(str(path), 0)
    assert path.read_text() == 'name,value\na,1\n'
