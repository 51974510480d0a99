"""The runs of `benchmarks.detection` as a table and a figure: `python -m benchmarks.detection.table --setting NAME`."""
import glob
import operator
import os
import sys
from typing import Any, Dict, List, Optional

from benchmarks.methods import METHODS, find
from benchmarks.report.page import markdown_table
from benchmarks.report.provenance import hardware, seeds
from benchmarks.suite.cli import create_parser
from benchmarks.suite.runs import Runs, all_records, by_method, cell, read_result, seeds_of

from .recipes import SCRATCH
from .run import RESULTS

_COLUMNS = (('ap', 'AP'), ('ap50', 'AP50'), ('ap75', 'AP75'))


def read_runs(setting: str, results: str = RESULTS) -> Runs:
    """Read the results of a setting by method: scratch first, then in the order of `METHODS`, then others."""
    records = [read_result(path) for path in sorted(glob.glob(os.path.join(results, setting, '*.json')))]
    return by_method(records, [SCRATCH, *METHODS, *(record['settings']['method'] for record in records)])


def table(runs: Runs) -> List[List[str]]:
    """A header, and a row per method: mean and standard deviation over the seeds, in percent."""
    rows = [['backbone', *(f'{name} (%)' for _, name in _COLUMNS), 'seeds']]
    for method, records in runs.items():
        cells = [cell([record['result'][metric] for record in records], 1) for metric, _ in _COLUMNS]
        rows.append([find(method).label, *cells, seeds_of(records)])
    return rows


def caption(runs: Runs) -> str:
    """Describe how the runs were made: seeds, each budget that occurs, hardware."""
    records = all_records(runs)
    budgets = dict.fromkeys(_budget(record) for record in records)
    return f'{seeds(runs)}. Budget: {" and ".join(budgets)}. {hardware(records)}.'


def _budget(record: Dict[str, Any]) -> str:
    budget, images = record['settings']['budget'], record['result']['images']
    return (
        f'{budget["detector"]} on {budget["model"]}, {budget["epochs"]} epochs, batches of {budget["batch_size"]}, '
        f'{budget["opt"]} with lr {budget["lr"]:g}, {images["train"]} images to train on, {images["evaluate"]} to '
        'evaluate on')


def draw(runs: Runs, title: str, caption: str = '') -> Any:
    """Draw AP and AP50 of every run and their means, with the caption below, as a matplotlib figure."""
    from benchmarks.report import figures  # needs matplotlib, the table does not
    metrics = {f'{name} (%)': operator.itemgetter(metric) for metric, name in _COLUMNS[:2]}
    return figures.points(runs, metrics, title, caption)


def main(argv: Optional[List[str]] = None) -> int:
    parser = create_parser(__doc__)
    parser.add_argument('--setting', required=True, help="recipe of the runs, or their --setting")
    parser.add_argument('--results', default=RESULTS, help='folder of the JSON files')
    parser.add_argument('--figure', help='PNG file to write')
    args = parser.parse_args(argv)
    runs = read_runs(args.setting, args.results)
    if not runs:
        parser.error(f'--results {args.results} has no runs of {args.setting} yet')
    print(markdown_table(table(runs)))
    if args.figure:
        draw(runs, f'Fine-tuned for detection: {args.setting}', caption(runs)).savefig(args.figure, dpi=120)
    return 0


if __name__ == '__main__':
    sys.exit(main())
