"""Every number between the result marks of a page, in order, is that of the result files; settings stand as text."""
import json
import re
import statistics
from functools import lru_cache

import pytest
from scipy.stats import ttest_rel

from benchmarks.recipes import REGIMES
from tests.docs.pages import PAGES, ROOT, text

RESULTS = ROOT / 'benchmarks/results'
FIRST = {  # judging seed
    'short': 1, 'vit': 2, 'fitted': 11, 'noisy': 2, 'finetune-few': 1, 'finetune': 2, 'fitted, noisy': 1,
    'background': 11, 'background, fitted': 11}
PLAIN, SMOOTH, MIXUP, BOTH, HALF = 'plain', 'label-smoothing', 'mixup', 'mixup-cutmix', 'mixup-half'
DENSE, OURS, AUTO = 'dense-multimix', 'mixup+dense-multimix', 'strength'
NINE = (PLAIN, SMOOTH, MIXUP, 'cutmix', BOTH, HALF, DENSE, OURS, AUTO)
# not a number of its own: part of a name (ResNet-18, ViT-Ti/16), a code span, a link, a list mark
NAMES = re.compile(r'`[^`]*`|\]\([^)]*\)|\b[A-Za-z][A-Za-z-]*[-/]?\d[\w/-]*')
NUMBER = re.compile(r'[-+]?\d[\d,]*(?:\.\d+)*')


def measured(name, measure):
    return json.loads((RESULTS / f'{name}.json').read_text())['measures'][measure]['result']


def accuracy_of(name, metric='top1'):
    return measured(name, 'embeddings' if metric == 'map' else 'accuracy')[metric]


@lru_cache(None)
def values(regime, method, metric='top1', seeds=3):
    """A metric of a method over the judging seeds."""
    return [accuracy_of(f'runs/{REGIMES[regime]}/{method}-{FIRST[regime] + i}', metric) for i in range(seeds)]


def mean(*run):
    return statistics.fmean(values(*run))


def of(regime, method):
    """Mean and standard deviation over five seeds."""
    found = values(regime, method, seeds=5)
    return [statistics.fmean(found), statistics.stdev(found)]


def ahead(regime, method, other, metric='top1', seeds=5):
    """Mean difference over seeds."""
    return mean(regime, method, metric, seeds) - mean(regime, other, metric, seeds)


def mixed(regime):
    """Mean share of the batches that strength auto mixed, in percent."""
    runs = (read(f'runs/{REGIMES[regime]}/{AUTO}-{FIRST[regime] + i}.json', 'training') for i in range(3))
    return 100. * statistics.fmean(epoch['train_strength'] for run in runs for epoch in run['epochs'])


def gain(regime, method, metric='top1'):
    return ahead(regime, method, PLAIN, metric, 3)


def gains(regimes, method, metric='top1'):
    """The least and the largest lead over plain training."""
    each = [gain(regime, method, metric) for regime in regimes]
    return [min(each), max(each)]


def rank(method, metric, sign):
    """Mean rank among the nine methods that all regimes have."""
    return statistics.fmean(
        1 + sum(sign * mean(regime, other, metric) > sign * mean(regime, method, metric) for other in NINE)
        for regime in REGIMES)


def p(regime, method, other, metric='top1', seeds=5):
    return ttest_rel(values(regime, method, metric, seeds), values(regime, other, metric, seeds)).pvalue


def lead(*comparison):
    """A lead and its p-value."""
    return [ahead(*comparison), p(*comparison)]


def read(name, part='result'):
    return json.loads((RESULTS / name).read_text())[part]


def steps(model, method, name='timing/step_cpu.json'):
    """The ratio of a step to one of plain training, and its quartiles."""
    run, = (run['methods'][method] for run in read(name)['runs'] if run['model'] == model)
    return [run['ratio'], *run['ratio_quartiles']]


def content():
    """Return the numbers of each block: text for settings, a tuple for results that are written as one number."""
    resnet, vit = 'resnet18', 'vit_tiny_patch16_224'
    distilled, dense_distilled = 'multimix-distilled', 'dense-multimix-distilled'
    scratch, tuned = ('short', 'vit', 'noisy'), ('finetune-few', 'finetune')
    pictures, few, wrong = 'background', 'background, fitted', 'fitted, noisy'
    cases = ('fitted', wrong, *scratch, *tuned, few, pictures)
    fitted, unfitted = ('fitted', wrong, few), (*scratch, *tuned, pictures)
    worst = min(gain(case, method) for case in unfitted for method in (MIXUP, 'cutmix', BOTH))
    teachers = [
        method['teacher_forwards'] for run in read('timing/step_cpu.json')['runs']
        for method in run['methods'].values() if 'teacher_forwards' in method]
    loss, drop_in = read('timing/loss_cpu.json'), read('timing/drop_in_cpu.json')['runs'][0]['methods']
    faster = [statistics.median(size['ratio']['chunked']) for size in loss['sizes'] if 'ratio' in size]
    literal = 'dense-multimix-paper+mixup'
    coverage = read('coverage.json')['counts']
    served, dense = (coverage[form]['served'] for form in ('pooled', 'dense'))
    models = served + coverage['pooled']['refused']
    screened, cam = f'screening/tiny20/{DENSE}-100', f'screening/tiny20/{DENSE}@attention=cam{{}}-100'.format
    longer = 'screening/tiny20/{}@epochs=120,warmup-epochs=24,val-interval=30-100'.format
    # Dense MultiMix over plain training, on the judging seeds, and how far it was behind on the choosing one
    moved = [gain(pictures, DENSE), accuracy_of('screening/tiny20/plain-100') - accuracy_of(screened)]
    attention = measured(screened, 'boxes')['attention']
    return {
        'README.md: why': [
            '1,250', *(x for method in (AUTO, PLAIN, MIXUP) for x in of('fitted', method)), '5',
            '5,000', *(x for method in (AUTO, PLAIN) for x in of('short', method)), -gain('short', MIXUP)],
        'README.md: setting': [],
        'README.md: accuracy': [
            *(x for case in cases for x in [
                *({'noisy': ['40'], 'fitted, noisy': ['40'], 'finetune-few': ['30']}.get(case, [])),
                *(mean(case, method) for method in (PLAIN, SMOOTH, MIXUP, BOTH, HALF, AUTO)),
                gain(case, AUTO, 'loss')]),
            '3', *gains(fitted, AUTO), *gains(fitted, HALF), *gains(fitted, MIXUP), gain(wrong, BOTH),
            *gains(unfitted, AUTO), *gains(cases, DENSE), moved[1]],
        'README.md: models': [served, models, '1.0.31', dense],
        'docs/faq.md: models': [dense, models, '1.0.31'],
        'README.md: cost': [
            '1', steps(resnet, 'multimix')[0], steps(resnet, DENSE)[0], steps(resnet, dense_distilled)[0], '0.03'],
        'docs/evidence.md: regimes': [
            *(x for case in ('short', 'vit', 'fitted', 'noisy', *tuned, wrong, pictures, few)
              for x in (mean(case, method) for method in (PLAIN, SMOOTH, MIXUP, BOTH, HALF, DENSE, OURS, AUTO))),
            '5', *lead('fitted', AUTO, PLAIN), *lead('fitted', AUTO, BOTH), *lead('fitted', AUTO, HALF),
            *lead(few, AUTO, PLAIN), *lead(few, MIXUP, AUTO),
            -ahead('vit', AUTO, PLAIN), tuple(-ahead(case, AUTO, PLAIN) for case in ('short', 'noisy')),
            *lead('noisy', DENSE, AUTO),
            '3', gain(wrong, AUTO), gain(wrong, BOTH), -gain('noisy', AUTO), gains(unfitted, AUTO)[1],
            *map(mixed, ('short', *tuned)), *gains(tuned, AUTO, 'loss'), mixed(pictures),
            '0.5', *(rank(method, 'top1', 1) for method in (AUTO, DENSE)),
            tuple(rank(method, 'loss', -1) for method in (AUTO, DENSE)), '2', -ahead(wrong, AUTO, BOTH, seeds=3),
            '5', *lead('fitted', OURS, PLAIN), *lead('fitted', OURS, BOTH), *lead('fitted', OURS, HALF),
            ahead(few, OURS, HALF, seeds=3),
            '1,000', ahead('fitted', f'{DENSE}@tuples=1000', DENSE, seeds=6), '6',
            p('fitted', f'{DENSE}@tuples=1000', DENSE, seeds=6),
            '5', *lead('noisy', DENSE, PLAIN), gain(tuned[0], DENSE, 'loss'), ahead('noisy', OURS, SMOOTH),
            -worst,
            *(ahead(case, PLAIN, literal, 'top1', 3) for case in ('short', 'fitted'))],
        'docs/evidence.md: background': [
            *(mean(few, method, 'loss') for method in (PLAIN, AUTO, BOTH)), -gain(pictures, AUTO, 'loss'),
            *(mean(pictures, method, 'map') for method in (DENSE, PLAIN)), p(pictures, DENSE, PLAIN, 'map', 3),
            *(mean(few, method, 'map') for method in (AUTO, PLAIN)), gain(pictures, DENSE),
            '100', accuracy_of(screened), accuracy_of('screening/tiny20/plain-100'),
            attention['gap_entropy'], attention['gap_inside'], attention['area'],
            min(measured(f'screening/tiny20/ls-epoch{epoch}-0', 'boxes')['attention']['gap_entropy']
                for epoch in (4, 9, 19, 29, 39)), accuracy_of(cam('')),
            accuracy_of(cam(',device-modules=benchmarks.row_weights')), '3', '9', accuracy_of(cam(',clean-weight=9')),
            '1,000', accuracy_of(cam(',tuples=1000')),
            '120', accuracy_of(longer(DENSE)), accuracy_of(longer(PLAIN)),
            accuracy_of(longer(DENSE), 'loss'), accuracy_of(longer(PLAIN), 'loss'), '2'],
        'docs/evidence.md: cost-full': [
            '16', '224', (steps(resnet, DENSE)[0], steps(vit, DENSE)[0]),
            (steps(resnet, dense_distilled)[0], steps(vit, dense_distilled)[0]), '0',
            *(steps(model, AUTO, 'timing/step_strength.json')[0] for model in (resnet, vit)),
            min(faster), max(faster)],
        'docs/when-to-use.md: when': [
            '70', '95', *(gain(case, method) for method in (AUTO, BOTH, MIXUP, HALF) for case in ('fitted', few)),
            gain(wrong, AUTO), gain(wrong, BOTH),
            *gains(scratch, AUTO), *gains(scratch, SMOOTH), *gains(scratch, DENSE), ahead('noisy', DENSE, AUTO), '5',
            p('noisy', DENSE, AUTO),
            *gains(tuned, AUTO), *gains(tuned, AUTO, 'loss'),
            *(tuple(ahead(case, DENSE, PLAIN, metric) for case in tuned) for metric in ('top1', 'loss')), '5',
            '100', '1,250', '1,000', gain(pictures, AUTO), *moved],
        'docs/methods/dense-multimix.md: cost-dense': [
            *steps(resnet, DENSE), '224', '49', *steps(vit, DENSE), '196',
            *steps('cifar_resnet14', DENSE, 'timing/step_cifar5000-pad-sgd.json'), '14', '64',
            (drop_in['drop-in']['peak_memory'] - drop_in['plain']['peak_memory']) / 2 ** 20,
            *steps('resnet18', 'drop-in', 'timing/drop_in_cpu.json'), '8', '224', '1,000'],
        'docs/methods/self-distillation.md: cost-distillation': [
            steps(resnet, distilled)[0], steps(resnet, dense_distilled)[0],
            steps(vit, distilled)[0], steps(vit, dense_distilled)[0],
            *(steps('cifar_resnet14', each, 'timing/step_cifar5000-pad-sgd.json')[0]
              for each in (distilled, dense_distilled)), '14', '32', min(teachers), max(teachers)],
    }


BLOCKS = {
    f'{page}: {name}': block for page in PAGES if page.startswith(('README', 'docs/'))
    for name, block in re.findall(r'<!-- results: ([a-z-]+) -->(.*?)<!-- /results -->', text(page), re.DOTALL)}


@pytest.mark.parametrize('block', BLOCKS)
def test_numbers_are_those_of_the_results(block):
    shown, expected = NUMBER.findall(NAMES.sub('', BLOCKS[block])), content()[block]
    assert len(shown) == len(expected), (shown, expected)
    for number, value in zip(shown, expected):
        if isinstance(value, str):
            assert number == value
            continue
        unit = 10. ** -len(number.partition('.')[2])
        for each in value if isinstance(value, tuple) else (value,):
            assert abs(float(number.replace(',', '')) - each) <= 0.5001 * unit, f'{number} is {each}'


def test_every_checked_block_is_on_its_page():
    assert set(content()) == set(BLOCKS)
