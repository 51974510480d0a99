"""The evidence of a recipe as one HTML page and one Markdown file: `python -m benchmarks.report --recipe NAME`.

Everything comes from the JSON files that the other parts wrote; missing parts are named. Variants of the methods are
included if `--methods` names them.
"""
import os
import sys
from typing import Any, Callable, Dict, List, Optional, Sequence, Tuple

from ..detection import table as detection
from ..detection.recipes import SCRATCH
from ..methods import METHODS, find
from ..recipes import RECIPES
from ..suite.budget import budget, is_of, recipe_args
from ..suite.cli import add_methods, create_parser, mistakes
from ..suite.results import RESULTS
from ..suite.runs import DIGEST_LENGTH, Runs, all_records, by_method, read_result, read_runs
from . import figures, map_figures
from .metrics import TABLES, num_tests, verdicts
from .page import Section, to_html, to_markdown
from .provenance import caption, hardware, missing, versions

KINDS = ('accuracy', 'robustness', 'ood', 'embedding_space', 'attention')
_VERDICT = (
    "Differences of means. A win or a loss is a difference with p < 0.05 in Welch's t-test: it is large compared with "
    'the spread over the seeds, on these test images. There is no correction for the number of comparisons, {count}: '
    'if all methods were equal, one in twenty would still be significant. The best of the others is chosen for each '
    'metric after the fact, which favours it. All methods have the learning rate of the recipe, which need not be the '
    'best for any of them. There is no third split: the defaults of MultiMix were chosen on held-out images of '
    'CIFAR-10. Arrows show which direction is better.')
_ACCURACY = 'Points are seeds, bars are their means; after the last epoch.'
_ATTACKS = (
    'The pixels are in [0, 1] and the normalisation is part of the attacked model. FGSM takes one step of the radius; '
    'PGD takes {steps} steps of a quarter of the radius from a random start, without restarts. {images} test images.')
_CORRUPTIONS = (
    'noise: standard deviation, for pixels in [0, 1]; blur: standard deviation, in pixels; contrast: factor; '
    'jpeg: quality.')
_SCORES = (
    'Test images are the positive class. A set has as many images as there are test images, or fewer if it is smaller, '
    'so AUPR depends on the set. FPR95 is the share of outliers above the threshold that 95 % of the test images '
    'reach. ECE has 15 bins.')
_OUTLIERS = 'Filled: maximum softmax probability; open: energy. Bars are means over the seeds; 50 % is chance.'
_EMBEDDINGS = (
    'Test embeddings of length 1. Alignment: mean squared distance within a class; uniformity: log mean exp(-2 d²) '
    'over all pairs; spread: mean distance to the centre of the class; separation: mean distance between centres.')
_PICTURE = 'Test embeddings of one seed, projected by t-SNE or PCA; colours are classes.'
_ATTENTION = (
    'Attention of Dense MultiMix (its default, with the mean embedding) over test images, on the model of each method; '
    'the largest value of an image is the brightest.')
_TUPLES = (
    'Rows are tuples that Dense MultiMix drew from these images: the examples with the largest weights, with their '
    'weights at every position (bright is 1), and the class with the largest share of the mixed target at every '
    'position, more solid for a larger share. Weights are drawn anew at every position, and attention scales them.')
_DETECTION = 'These backbones, fine-tuned in detectors on one budget; scratch starts from random weights.'


def title(recipe: str) -> str:
    return f'MultiMix: the evidence ({recipe})'


def build(recipe: str, results: str, methods: Sequence[str] = tuple(METHODS)) -> List[Section]:
    """Build all sections from the results of these methods in the folder `results`."""
    parts = {kind: read_runs(recipe, os.path.join(results, kind), methods) for kind in KINDS}
    if not parts['accuracy']:
        raise ValueError(f'--results {results} has no runs of {recipe} yet')
    _check(recipe, parts)
    sections = [_verdict_section(parts, recipe), *_table_sections(parts, recipe)]

    def figure(heading: str, kind: str, draw: Callable[[Runs], Any], *text: str, first: str = '') -> None:
        """Draw all seeds, or with `first` only the first result of each method that has this key."""
        runs = parts[kind]
        if first:
            runs = by_method((record for record in all_records(runs) if first in record['result']), runs)
            runs = {method: records[:1] for method, records in runs.items()}
        if runs:
            sections.append(Section(heading, list(text), png=figures.to_png(draw(runs)), caption=caption(runs, recipe)))
        else:
            sections.append(Section(heading, [f'Not measured yet: no results of {kind}.']))

    figure('Accuracy', 'accuracy', figures.accuracy, _ACCURACY)
    sections.append(_step_time_section(parts['accuracy'], recipe, results))
    figure('Attacks', 'robustness', figures.attacks, *_attack_text(parts['robustness']))
    figure('Corruptions', 'robustness', figures.corruptions, _CORRUPTIONS)
    figure('Outliers and calibration', 'ood', figures.outliers, _OUTLIERS)
    figure('Embedding space in numbers', 'embedding_space', figures.embedding_numbers, _EMBEDDINGS)
    figure('Embedding space in pictures', 'embedding_space', figures.embedding_pictures, _PICTURE, first='picture')
    figure('Attention', 'attention', map_figures.attention_maps, _ATTENTION, first='attention')
    dense = parts['attention'].get('dense-multimix')
    if dense:
        sections.append(Section(
            'Tuples of Dense MultiMix', [_TUPLES], png=figures.to_png(map_figures.mixed_tuples(dense[0])),
            caption=caption({'dense-multimix': dense[:1]}, recipe)))
    sections += _detection_sections(parts, os.path.join(results, 'detection'))
    records = [record for runs in parts.values() for record in all_records(runs)]
    sections.append(Section('Versions', [f'{versions(records)}.']))
    lacking = missing(parts, methods)
    sections.append(Section('What is missing', lacking or ['Nothing: all methods, parts and seeds.']))
    return sections


def _check(recipe: str, parts: Dict[str, Runs]) -> None:
    """Check that every run had this budget, and that all parts measured its weights in the same way on the same images.

    Older results lack some of these settings.
    """
    trained: Dict[str, Dict[str, Any]] = {}
    seen: Dict[Tuple[str, str], Tuple[Any, str]] = {}
    for kind, runs in parts.items():
        for settings in (record['settings'] for record in all_records(runs)):
            run = '{method}-{seed}'.format(**settings)
            if kind == 'accuracy':
                trained[run] = settings
                expected = budget(recipe, settings['method'], settings['seed'])
                if not is_of(settings['flags'], expected):
                    raise ValueError(f'--results must have {run} with flags {expected!r}, got {settings["flags"]!r}')
            if run not in trained:
                raise ValueError(f'--results must have accuracy of {run}, of which it has {kind}')
            weights = trained[run]['checkpoint']
            if settings['checkpoint'] != weights:
                raise ValueError(
                    f'--results must have {kind} of the checkpoint of accuracy, {weights}, got '
                    f'{settings["checkpoint"]} for {run}')
            for name, value in settings.items():
                before, first = seen.setdefault(('' if name == 'data' else kind, name), (value, run))
                if value != before and name not in ('method', 'seed', 'checkpoint', 'flags'):
                    raise ValueError(
                        f'--results must have {kind} with the same {name}, got {before!r} for {first} and {value!r} '
                        f'for {run}')


def _verdict_section(parts: Dict[str, Runs], recipe: str) -> Section:
    heading, rows = 'Where MultiMix wins and loses', verdicts(parts, 100. / recipe_args(recipe).num_classes)
    if not rows:
        return Section(heading, ['No MultiMix run to compare yet.'])
    header = ['metric', 'method', 'against plain', 'best of the others', 'against that']
    return Section(heading, [_VERDICT.format(count=num_tests(rows))], [header, *rows])


def _table_sections(parts: Dict[str, Runs], recipe: str) -> List[Section]:
    sections = []
    texts = ([], _attack_text(parts['robustness']), [_CORRUPTIONS], [_SCORES], [_EMBEDDINGS])
    for (heading, metrics), text in zip(TABLES.items(), texts, strict=True):
        runs = parts[metrics[0].kind]
        if runs:
            rows = [
                [find(method).label, *(metric.cell(parts, method) for metric in metrics)]
                for method in parts['accuracy']]
            header = ['method', *(metric.title for metric in metrics)]
            sections.append(Section(heading, text, [header, *rows], caption=caption(runs, recipe)))
    return sections


def _step_time_section(runs: Runs, recipe: str, results: str) -> Section:
    heading, path = 'Step time against accuracy', os.path.join(results, 'step_time', f'{recipe}.json')
    if not os.path.exists(path):
        return Section(heading, ['Not measured yet: no results of step_time.'])
    record = read_result(path)
    run = record['result']['runs'][0]
    text = f'{run["model"]}, batches of {run["batch_size"]}; all methods in turn in one process.'
    untimed = [method for method in runs if method not in run['methods']]
    if untimed:
        text += f' Not timed: {", ".join(find(method).label for method in untimed)}.'
    return Section(
        heading, [text], png=figures.to_png(figures.step_times(runs, run['methods'])),
        caption=f'{caption(runs, recipe)} Step time: {hardware([record])}.')


def _attack_text(runs: Runs) -> List[str]:
    if not runs:
        return []
    result = all_records(runs)[0]['result']
    return [_ATTACKS.format(steps=max(row['steps'] for row in result['attacks']), images=result['images'])]


def _detection_sections(parts: Dict[str, Runs], results: str) -> List[Section]:
    """Build a table and a figure for each setting in which backbones of these runs were fine-tuned."""
    checkpoints = {record['settings'].get('checkpoint') for runs in parts.values() for record in all_records(runs)}

    def is_of_these(record: Dict[str, Any]) -> bool:
        settings = record['settings']
        return settings['method'] == SCRATCH or settings['checkpoint']['sha256'][:DIGEST_LENGTH] in checkpoints

    sections = []
    for setting in sorted(os.listdir(results)) if os.path.isdir(results) else []:
        found = detection.read_runs(setting, results)
        runs = by_method(filter(is_of_these, all_records(found)), found)
        if not runs.keys() - {SCRATCH}:
            continue
        others = len(all_records(found)) - len(all_records(runs))
        text = _DETECTION + (f' {others} runs on other weights are left out.' if others else '')
        made = detection.caption(runs)
        figure = figures.to_png(detection.draw(runs, f'Object detection ({setting})'))
        sections += [
            Section(f'Object detection ({setting})', [text], detection.table(runs), caption=made),
            Section(f'Object detection in a figure ({setting})', png=figure, caption=made)]
    return sections or [Section('Object detection', ['Not measured yet: no results of detection on these runs.'])]


def main(argv: Optional[List[str]] = None) -> int:
    parser = create_parser(__doc__, prog='benchmarks.report')
    parser.add_argument('--recipe', required=True, choices=RECIPES)
    parser.add_argument('--results', default=RESULTS, help='folder of the JSON files, with a folder for each part')
    add_methods(parser)
    parser.add_argument('--report', help='folder to write RECIPE.html and RECIPE.md into (RESULTS/report)')
    args = parser.parse_args(argv)
    with mistakes(parser):
        sections = build(args.recipe, args.results, args.methods)
    folder = args.report or os.path.join(args.results, 'report')
    os.makedirs(folder, exist_ok=True)
    for suffix, write in (('html', to_html), ('md', to_markdown)):
        path = os.path.join(folder, f'{args.recipe}.{suffix}')
        with open(path, 'w', encoding='utf-8') as file:
            file.write(write(title(args.recipe), sections))
        print(path)
    return 0


if __name__ == '__main__':
    sys.exit(main())
