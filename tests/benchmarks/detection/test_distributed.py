"""Two gloo processes: one result, equal weights, and the average precision that one process computes."""
import json
import socket

import pytest
import torch

from benchmarks.detection.backbone import create_features
from benchmarks.detection.data import DetectionDataset, read_voc
from benchmarks.detection.detector import create_detector
from benchmarks.detection.evaluate import evaluate

from .tiny import RECIPE, one_of_two

pytest.importorskip('sklearn')
pytest.importorskip('torchmetrics')
pytest.importorskip('pycocotools')


@pytest.mark.slow
def test_two_processes_agree_with_each_other_and_with_one(tmp_path):
    with socket.socket() as probe:
        probe.bind(('127.0.0.1', 0))
        port = probe.getsockname()[1]
    torch.multiprocessing.spawn(one_of_two, args=(str(tmp_path), port), nprocs=2)
    result = json.loads((tmp_path / 'results' / 'tiny' / 'scratch-0.json').read_text())['result']
    assert result['processes'] == 2 and len(result['epochs']) == 1
    first, second = (torch.load(tmp_path / f'{rank}.pt') for rank in range(2))
    assert all(torch.equal(first[name], second[name]) for name in first if 'num_batches' not in name)

    folder = str(tmp_path / 'output' / 'data' / 'tiny')
    source = read_voc(folder, RECIPE.eval_sets, read_voc(folder, RECIPE.train_sets).classes)
    features, data_config = create_features(RECIPE.model)
    detector = create_detector(features, len(source.classes), RECIPE, data_config)
    detector.load_state_dict(first)
    alone = evaluate(detector, DetectionDataset(source, False), torch.device('cpu'))
    assert {name: result[name] for name in alone} == pytest.approx(alone, abs=1e-6)
