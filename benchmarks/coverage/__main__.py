"""Which of timm's models MultiMix supports, each checked: `python -m benchmarks.coverage --output FILE`.

Every model is built with random weights (large ones with fewer blocks) and run on two random images, small ones if the
model takes them. The logits of every model are checked; training steps are taken with the first model of each kind
(class of model, head and pooling), as the column 'stepped' says. One JSON line is appended per model; models that the
file already has are not run again.
"""
import collections
import csv
import gc
import json
import os
import traceback
from typing import Any, Dict, List, Sequence

import timm
import torch

from ..suite.cli import create_parser
from ..suite.results import COMMIT, write_result
from .checks import check_model

_MODEL_COLUMNS = (
    'name', 'architecture', 'pooled', 'dense', 'layout', 'prefix_tokens', 'positions', 'linear_classifier',
    'batch_norms_in_head', 'mean_is_pooled', 'stepped', 'shrunk', 'commit', 'reason',
)
_ARCHITECTURE_COLUMNS = ('architecture', 'names', 'pooled', 'dense', 'layout', 'reason')


def write_models(rows: List[Dict[str, Any]], path: str) -> None:
    """Write one line per model."""
    rows = [{**row, 'reason': _reason(row), 'shrunk': row.get('shrunk') or ''} for row in rows]
    _write_csv(path, _MODEL_COLUMNS, sorted(rows, key=lambda row: row['name']))


def write_architectures(rows: List[Dict[str, Any]], path: str) -> None:
    """Write one line per class of model: how many names are served in each mode, and why others are not."""
    groups: Dict[str, List[Dict[str, Any]]] = {}
    for row in rows:
        groups.setdefault(row['architecture'], []).append(row)
    _write_csv(path, _ARCHITECTURE_COLUMNS, [
        dict(
            architecture=architecture,
            names=len(group),
            pooled=sum(row['pooled'] == 'served' for row in group),
            dense=sum(row['dense'] == 'served' for row in group),
            layout='/'.join(sorted({row['layout'] for row in group if row.get('layout')})),
            reason='; '.join(sorted({_reason(row).split(': ', 1)[-1] for row in group} - {''})),
        )
        for architecture, group in sorted(groups.items())
    ])


def _reason(row: Dict[str, Any]) -> str:
    return row.get('dense_reason') or row.get('pooled_reason') or ''


def _write_csv(path: str, columns: Sequence[str], rows: List[Dict[str, Any]]) -> None:
    with open(path, 'w', newline='', encoding='utf-8') as file:
        writer = csv.DictWriter(file, columns, restval='', extrasaction='ignore', lineterminator='\n')
        writer.writeheader()
        writer.writerows(rows)


def main() -> None:
    parser = create_parser(__doc__, prog='benchmarks.coverage')
    parser.add_argument('--output', required=True, help='file of JSON lines to append to')
    parser.add_argument('--results', help='folder to write coverage.json and the two CSV tables into')
    parser.add_argument('--models', nargs='+', help='names or patterns of timm models (all)')
    parser.add_argument('--threads', type=int, default=1)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    names = timm.list_models(args.models or '')
    rows: List[Dict[str, Any]] = []
    if os.path.exists(args.output):
        with open(args.output, encoding='utf-8') as file:
            rows = [json.loads(line) for line in file]
    done = {row['name'] for row in rows}
    stepped = {row['kind'] for row in rows if row.get('stepped')}
    with open(args.output, 'a', encoding='utf-8') as file:
        for index, name in enumerate(names):
            if name in done:
                continue
            try:
                row = check_model(name, stepped)
            except Exception:
                reason = traceback.format_exc(limit=-3)
                row = dict(name=name, architecture='?', pooled='crashed', dense='crashed', pooled_reason=reason)
            row['commit'] = COMMIT
            rows.append(row)
            file.write(json.dumps(row) + '\n')
            file.flush()
            states = f'pooled {row["pooled"]}, dense {row["dense"]}'
            print(f'[{index + 1}/{len(names)}] {name}: {states} {_reason(row)}', flush=True)
            gc.collect()
    counts = {
        mode: dict(sorted(collections.Counter(row[mode] for row in rows).items())) for mode in ('pooled', 'dense')}
    print(counts)
    if args.results:
        commits = sorted({row['commit'] for row in rows})
        settings = dict(models=args.models, threads=args.threads, commits=commits)
        write_result(os.path.join(args.results, 'coverage.json'), 'coverage', settings, dict(counts=counts))
        write_models(rows, os.path.join(args.results, 'coverage_models.csv'))
        write_architectures(rows, os.path.join(args.results, 'coverage_architectures.csv'))


if __name__ == '__main__':
    main()
