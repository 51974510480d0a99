"""Tables and figures of measured times: `python -m benchmarks.report.timing_tables [--figures FOLDER]`.

Reads what `loss_time` and `step_time` wrote and prints Markdown.
"""
import os
import sys
from typing import Any, Dict, List, Optional

from ..loss_time import Size
from ..methods import find
from ..suite.cli import create_parser
from ..suite.memory import MIB
from ..suite.results import RESULTS
from ..suite.runs import read_result
from .page import markdown_table
from .provenance import hardware

_AXES = dict(tuples='n', positions='r', classes='c', batch_size='b')


def loss_table(record: Dict[str, Any]) -> str:
    """A row per size: the literal time, each implementation with its ratio, sampling, and each loss alone."""
    result = record['result']
    timed = result['sizes'][0]['seconds']
    names = [name for name in timed if name not in ('literal', 'sampling') and not name.endswith(' alone')]
    alone = {name: f'{name} alone' for name in names if f'{name} alone' in timed}
    rows = [[
        'b', 'c', 'n', 'r', 'literal', *(f'{name} (times faster)' for name in names), 'sampling',
        *(f'loss alone, {name} (times its floor)' for name in alone)]]
    for row in sorted(result['sizes'], key=lambda row: tuple(row['size'].values())):
        size, seconds = Size(**row['size']), row['seconds']
        cells = [f'{value:,}' for value in (size.batch_size, size.classes, size.tuples, size.positions)]
        cells.append(_milliseconds(seconds.get('literal')))
        for name in names:
            ratio = row.get('ratio', {}).get(name)
            faster = '' if ratio is None else f' ({ratio[1]:.1f}: {ratio[0]:.1f} to {ratio[2]:.1f})'
            cells.append(_milliseconds(seconds[name]) + faster)
        cells.append(_milliseconds(seconds.get('sampling')))
        for key in alone.values():
            over = '' if key not in seconds else f' ({seconds[key] / row["floor"]:.1f})'
            cells.append(_milliseconds(seconds.get(key)) + over)
        rows.append(cells)
    return markdown_table(rows)


def step_table(record: Dict[str, Any]) -> str:
    """A row per model, batch size and method: the step, its ratio to plain training, what a teacher adds, memory."""
    rows = [[
        'model', 'batch', 'method', 'step', 'over plain (quartiles)', 'teacher adds, in its passes', 'peak memory']]
    for run in record['result']['runs']:
        plain = run['methods']['plain']['peak_memory']
        for method, row in run['methods'].items():
            low, high = row['ratio_quartiles']
            peak = row['peak_memory']
            memory = '' if peak is None else f'{peak / MIB:,.0f} MiB ({100. * (peak / plain - 1.):+.1f} %)'
            teacher = ''
            if 'teacher_forwards' in row:
                least, most = row['teacher_forwards_quartiles']
                teacher = f'{row["teacher_forwards"]:.2f} ({least:.2f} to {most:.2f})'
            rows.append([
                run['model'], str(run['batch_size']), find(method).label, _milliseconds(row['seconds']),
                f'{row["ratio"]:.3f} ({low:.3f} to {high:.3f})', teacher, memory])
    return markdown_table(rows)


def plot_loss(record: Dict[str, Any], plt: Any) -> Any:
    """Plot the time over each size, with the others at their base."""
    result = record['result']
    base, axes = result['base'], [axis for axis in _AXES if axis in result['slopes']]
    figure, panels = plt.subplots(
        1, len(axes), figsize=(4. * len(axes), 4.), sharey=True, constrained_layout=True, squeeze=False)
    for axis, panel in zip(axes, panels[0]):
        rows = [row for row in result['sizes'] if all(row['size'][key] == base[key] for key in base if key != axis)]
        rows.sort(key=lambda row: row['size'][axis])
        for name in [*dict.fromkeys(name for row in rows for name in row['seconds']), 'floor']:
            times = [(row['size'][axis], dict(row['seconds'], floor=row['floor']).get(name)) for row in rows]
            style = dict(linestyle='--', color='gray') if name == 'floor' else dict(marker='o')
            panel.plot(*zip(*[point for point in times if point[1] is not None]), label=name, **style)
        panel.set(xscale='log', yscale='log', xlabel=f'{_AXES[axis]} ({axis})')
        panel.grid(alpha=0.3)
    panels[0, 0].set_ylabel('seconds, forward and backward')
    panels[0, 0].legend()
    others = ', '.join(f'{key} {value}' for key, value in base.items())
    figure.suptitle(f'{_hardware(record)}; otherwise {others}')
    return figure


def plot_steps(record: Dict[str, Any], plt: Any) -> Any:
    """Plot the ratio of each method's step time to plain training, with quartiles."""
    runs = record['result']['runs']
    figure, panels = plt.subplots(1, len(runs), figsize=(5. * len(runs), 4.), squeeze=False, constrained_layout=True)
    for run, panel in zip(runs, panels[0]):
        methods = [method for method in run['methods'] if method != 'plain']
        for index, method in enumerate(methods):
            row = run['methods'][method]
            low, high = row['ratio_quartiles']
            errors = [[max(row['ratio'] - low, 0.)], [max(high - row['ratio'], 0.)]]
            panel.barh(index, row['ratio'] - 1., left=1., xerr=errors, color=find(method).color)
        panel.set_yticks(range(len(methods)), [find(method).label for method in methods])
        panel.invert_yaxis()
        panel.axvline(1., color='gray')
        panel.set(title=f'{run["model"]}, batch {run["batch_size"]}', xlabel='step time over plain training')
        panel.grid(axis='x', alpha=0.3)
    figure.suptitle(_hardware(record))
    return figure


def _milliseconds(seconds: Optional[float]) -> str:
    return '' if seconds is None else f'{seconds * 1e3:,.1f} ms'


def _hardware(record: Dict[str, Any]) -> str:
    return f'{hardware([record])}, torch {record["environment"]["torch"]}'


def main(argv: Optional[List[str]] = None) -> int:
    parser = create_parser(__doc__)
    parser.add_argument('--results', default=RESULTS, help='folder of the JSON files')
    parser.add_argument('--figures', help='folder for PNG files')
    args = parser.parse_args(argv)
    found = False
    for benchmark, table, plot in (('loss_time', loss_table, plot_loss), ('step_time', step_table, plot_steps)):
        for device in ('cpu', 'cuda'):
            path = os.path.join(args.results, f'{benchmark}_{device}.json')
            if not os.path.exists(path):
                continue
            found = True
            record = read_result(path)
            print(f'{benchmark}, {_hardware(record)}, commit {record["environment"]["commit"]}\n\n{table(record)}\n')
            if args.figures:
                from .figures import plt  # needs matplotlib, the tables do not
                os.makedirs(args.figures, exist_ok=True)
                plot(record, plt).savefig(os.path.join(args.figures, f'{benchmark}_{device}.png'), dpi=120)
    if not found:
        parser.error(f'--results {args.results} has no loss_time_*.json or step_time_*.json yet')
    return 0


if __name__ == '__main__':
    sys.exit(main())
