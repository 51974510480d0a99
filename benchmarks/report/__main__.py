"""Tables and figures of results: `python -m benchmarks.report FOLDER...`.

Reads what benchmarks.evaluate and benchmarks.timing wrote into the folders, by default those of the repository, and
writes into OUTPUT: a page of tables for each recipe, one of all regimes, one of variants and one of timing; runs.csv
with a row per checkpoint, means.csv with a row per method; and figures. With --pages, each block of a page between
`<!-- results: NAME -->` and `<!-- /results -->` whose NAME is that of a table becomes this table.
"""
import argparse
import glob
import logging
import os
import re
import sys
from typing import Dict, List, Optional

import pandas as pd

from timm_multimix import UsageError

from ..evaluate import add_arguments, find_checkpoints, subject_of
from ..records import RESULTS, create_parser, mistakes, read_record
from . import figures, tables
from .frame import read_results

_logger = logging.getLogger('benchmarks')
_BLOCK = re.compile(r'(<!-- results: ([\w-]+) -->\n)(.*?)(<!-- /results -->)', re.DOTALL)


class Report:
    """Tables by page and name, and figures by name, both written to a folder."""

    def __init__(self, folder: str):
        self.folder = folder
        self.tables: Dict[str, tables.Rows] = {}
        os.makedirs(folder, exist_ok=True)

    def add_page(self, name: str, content: Dict[str, tables.Rows], *text: str) -> None:
        """Write a page with these tables; without rows a table is left out."""
        content = {title: rows for title, rows in content.items() if len(rows) > 1 and len(rows[0]) > 1}
        self.tables.update(content)
        if content:
            blocks = [f'# {name}', *map(tables.to_markdown, content.values()), *filter(None, text)]
            path = os.path.join(self.folder, f'{name}.md')
            with open(path, 'w', encoding='utf-8') as file:
                file.write('\n\n'.join(blocks) + '\n')
            _logger.info(path)

    def add_figure(self, name: str, figure: figures.Figure) -> None:
        figure.savefig(os.path.join(self.folder, f'{name}.png'), dpi=110)
        figures.plt.close(figure)
        _logger.info(os.path.join(self.folder, f'{name}.png'))

    def fill(self, page: str) -> None:
        """Write the tables into the blocks of a page that have their names."""
        with open(page, encoding='utf-8') as file:
            text = file.read()
        filled = _BLOCK.sub(
            lambda found: f'{found[1]}{tables.to_markdown(self.tables[found[2]])}\n{found[4]}'
            if found[2] in self.tables else found[0], text)
        if filled != text:
            with open(page, 'w', encoding='utf-8') as file:
                file.write(filled)
            _logger.info(page)


def add_results(report: Report, frame: pd.DataFrame, args: argparse.Namespace) -> None:
    """Add everything that compares trained models."""
    for recipe, rows in frame.groupby('recipe', sort=True):
        content = {recipe: tables.accuracy_table(rows, args.against)}
        content.update({f'{recipe}-{name}': tables.measure_table(rows, name) for name in tables.MEASURES})
        report.add_page(recipe, content, tables.published(recipe), tables.origin(rows))
        if args.figures:
            report.add_figure(recipe, figures.accuracy(rows))
    scores = [tables.Regimes(frame, metric) for metric in tables.ACCURACY]
    names = ('top-1', 'test-loss', 'calibration-error')
    content = {f'regimes-{name}': score.table() for name, score in zip(names, scores)}
    content['best-three'] = scores[0].best_three()
    for name, score in zip(names[:2], scores):
        content[f'recommended-{name}'] = score.recommendation_vs_baselines()
    report.add_page('regimes', content, tables.origin(frame))
    report.add_page('variants', dict(variants=tables.variants_table(frame)))
    if args.figures:
        report.add_figure('regimes', figures.regimes(scores[:2]))
    frame.drop(columns='path').to_csv(os.path.join(report.folder, 'runs.csv'), index=False)
    numbers = frame.filter(regex=rf'^(accuracy|{"|".join(tables.MEASURES)})\.').columns
    means = frame.groupby(['recipe', 'method'], sort=False)[list(numbers)].agg(['count', 'mean', 'std'])
    means.stack(0, future_stack=True).dropna(subset='mean').rename_axis(['recipe', 'method', 'metric']).to_csv(
        os.path.join(report.folder, 'means.csv'))


def main(argv: Optional[List[str]] = None) -> int:
    parser = create_parser(__doc__, prog='benchmarks.report')
    parser.add_argument('folders', nargs='*', metavar='FOLDER', help='folders of results (those of the repository)')
    parser.add_argument('--output', metavar='DIR', help='(output/report, or benchmarks/results/tables)')
    parser.add_argument('--pages', nargs='*', default=[], metavar='FILE', help='pages whose blocks are written')
    parser.add_argument('--against', nargs='*', default=['plain', 'mixup+dense-multimix'], metavar='METHOD',
                        help='methods that the others are compared with (%(default)s)')
    parser.add_argument('--figures', action='store_true', help='draw figures, too')
    parser.add_argument('--attention', nargs='+', default=[], metavar='CHECKPOINT',
                        help='only draw the attention of these models over images; takes the flags of evaluate')
    add_arguments(parser)
    args = parser.parse_args(argv)
    logging.basicConfig(format='%(message)s')
    _logger.setLevel(logging.INFO)
    folders = args.folders or [os.path.join(RESULTS, name) for name in ('runs', 'timing')]
    with mistakes(parser):
        report = Report(args.output or (
            'output/report' if args.folders or args.attention else os.path.join(RESULTS, 'tables')))
        if args.attention:
            paths = find_checkpoints(args.attention)
            names = [os.path.basename(os.path.dirname(os.path.abspath(path))) for path in paths]
            subjects = {name: subject_of(path, args) for name, path in zip(names, paths)}
            report.add_figure('attention', figures.attention(subjects))
            return 0
        for folder in folders:
            if not os.path.isdir(folder):
                raise UsageError(f'no folder {folder}')
        paths = [
            path for folder in folders
            for path in sorted(glob.glob(os.path.join(glob.escape(folder), '**', '*.json'), recursive=True))]
        kinds = {path: read_record(path)['benchmark'] for path in paths}
        timed = [path for path, kind in kinds.items() if kind in ('loss', 'step')]
        if 'evaluate' in kinds.values():
            add_results(report, read_results(paths), args)
        elif not timed:
            raise UsageError(f'no results of benchmarks.evaluate or benchmarks.timing in {", ".join(folders)}')
        report.add_page('timing', tables.timing_tables(timed))
        for path in [path for path in timed if kinds[path] == 'loss' and args.figures]:
            report.add_figure(os.path.basename(path)[:-5], figures.loss_times(read_record(path)['result']))
        for page in args.pages:
            report.fill(page)
    return 0


if __name__ == '__main__':
    sys.exit(main())
