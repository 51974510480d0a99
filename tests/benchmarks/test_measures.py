"""The measures by loops and counting, and on made data whose values are known."""
import argparse
import math

import numpy as np
import pytest
import timm
import torch
import torch.nn.functional as F
from PIL import Image

from benchmarks.measures import accuracy, boxes
from benchmarks.measures.embeddings import few_shot, measure_space
from benchmarks.measures.outliers import MADE, SCORES, detection_metrics, make_outliers
from benchmarks.measures.subject import PixelModel, Subject, class_map, look
from timm_multimix import MultiMixHead

CORNERS = torch.eye(4).repeat_interleave(3, dim=0)  # four classes, each at one point
LABELS = torch.arange(4).repeat_interleave(3)


class Images(Subject):
    """A subject whose images are given, without files."""

    def images(self, folder=None):
        return self.data_config['images']


def subject(logits, labels):
    """A model that looks its logits up by the first pixel."""
    images = [(torch.full((3, 1, 1), index, dtype=torch.uint8), label) for index, label in enumerate(labels)]
    return Images(lambda pixels: logits[(pixels[:, 0, 0, 0] * 255.).round().long()], dict(images=images),
                  torch.device('cpu'), '', '', batch_size=7)


def test_accuracy_is_that_of_all_images_at_once():
    from torchmetrics.functional.classification import multiclass_calibration_error  # takes a second
    logits, labels = torch.randn(50, 8), torch.randint(8, (50,))
    found = accuracy.measure(subject(logits, labels), None)
    order = logits.argsort(dim=-1, descending=True)
    assert found['top1'] == pytest.approx(100. * (order[:, 0] == labels).float().mean().item())
    assert found['top5'] == pytest.approx(100. * (order[:, :5] == labels[:, None]).any(dim=-1).float().mean().item())
    assert found['loss'] == pytest.approx(F.cross_entropy(logits, labels).item(), rel=1e-5)
    assert found['ece'] == pytest.approx(
        multiclass_calibration_error(logits.softmax(dim=-1), labels, num_classes=8, n_bins=15).item())


def test_a_diverged_model_has_no_loss_and_a_wrong_number_of_classes_is_refused():
    logits, labels = torch.randn(20, 3), torch.arange(20) % 3
    logits[13] = float('nan')
    found = accuracy.measure(subject(logits, labels), None)
    assert (found['loss'], found['ece'], found['images']) == (None, None, 20)
    with pytest.raises(ValueError, match='the model has 2 classes, but .* has label 2'):
        accuracy.measure(subject(logits[:, :2], labels), None)


@pytest.fixture
def space():
    return F.normalize(torch.randn(12, 5, generator=torch.Generator().manual_seed(0)), dim=-1), torch.tensor(
        [0, 0, 0, 0, 0, 1, 1, 1, 2, 2, 2, 2])


def test_the_space_by_loops(space):
    embeddings, labels = space
    found = measure_space(embeddings, labels, neighbours=3)
    pairs = [(i, j) for i in range(12) for j in range(12) if i != j]
    squares = {(i, j): float((embeddings[i] - embeddings[j]).square().sum()) for i, j in pairs}
    same = [squares[i, j] for i, j in pairs if labels[i] == labels[j]]
    assert found['alignment'] == pytest.approx(sum(same) / len(same), rel=1e-5)
    potentials = [math.exp(-2. * each) for each in squares.values()]
    assert found['uniformity'] == pytest.approx(math.log(sum(potentials) / len(potentials)), rel=1e-4)
    centres = [embeddings[labels == label].mean(dim=0) for label in range(3)]
    assert found['separation'] == pytest.approx(
        sum(float((centres[i] - centres[j]).norm()) for i, j in ((0, 1), (0, 2), (1, 2))) / 3., rel=1e-5)
    recall, precision, votes = 0, 0., 0
    for i in range(12):
        order = sorted((j for j in range(12) if j != i), key=lambda j: squares[i, j])
        hits = [bool(labels[j] == labels[i]) for j in order]
        recall += hits[0]
        precision += sum(sum(hits[:k + 1]) / (k + 1) for k in range(11) if hits[k]) / sum(hits)
        voted = [int(labels[j]) for j in order[:3]]
        votes += max(voted, key=lambda label: (voted.count(label), -voted.index(label))) == labels[i]
    assert found['recall1'] == pytest.approx(100. * recall / 12.)
    assert found['map'] == pytest.approx(100. * precision / 12., rel=1e-5)
    assert found['knn'] == pytest.approx(100. * votes / 12.)


def test_a_perfect_space():
    found = measure_space(CORNERS, LABELS, neighbours=2)
    assert found['alignment'] == found['spread'] == 0. and found['separation'] == pytest.approx(2. ** 0.5)
    assert found['recall1'] == found['map'] == found['knn'] == 100.
    assert few_shot(CORNERS, LABELS, 1) == few_shot(CORNERS, LABELS, 2) == 100.
    shuffled = CORNERS[torch.randperm(12, generator=torch.Generator().manual_seed(1))]
    assert few_shot(shuffled, LABELS, 1, draws=200) < 60.


def test_detection_metrics_by_counting():
    rng = np.random.default_rng(0)
    inside, outside = rng.normal(1., 1., 200), rng.normal(0., 1., 100)
    metrics = detection_metrics(inside, outside)
    assert metrics['auroc'] == pytest.approx(np.mean(inside[:, None] > outside[None]))
    assert metrics['fpr95'] == pytest.approx(np.mean(outside >= np.sort(inside)[::-1][189]))  # 190 of 200 pass
    thresholds = np.concatenate([inside, outside])
    assert metrics['accuracy'] == pytest.approx(max(
        (np.mean(inside >= each) + np.mean(outside < each)) / 2. for each in thresholds))
    order = np.argsort(-np.concatenate([inside, outside]))
    for name, hits in (('aupr_in', order < 200), ('aupr_out', order[::-1] >= 200)):
        precision = np.cumsum(hits) / np.arange(1, 301)
        assert metrics[name] == pytest.approx(precision[hits].mean())


def test_scores():
    logits = torch.tensor([[0., 0.], [3., 0.], [3., 3.]])
    torch.testing.assert_close(SCORES['msp'](logits), torch.tensor([0.5, 1. / (1. + np.exp(-3.)), 0.5]).float())
    assert SCORES['energy'](logits).tolist() == pytest.approx([np.log(2.), np.log(1. + np.exp(3.)), 3. + np.log(2.)])


@pytest.mark.parametrize('name', MADE)
def test_made_outliers_are_distinct_images_and_seeded(name):
    images, again, others = (
        [np.asarray(image) for image in make_outliers(name, 6, (16, 12), seed)] for seed in (0, 0, 1))
    assert all(image.shape == (16, 12, 3) and image.std() > 1. for image in images)
    assert all(map(np.array_equal, images, again)) and not all(map(np.array_equal, images, others))
    assert len({image.tobytes() for image in images}) == 6


def test_the_largest_region_gives_the_box():
    mask = np.zeros((8, 10), dtype=bool)
    mask[0, :3] = mask[4:7, 5] = mask[6, 5:9] = True
    expected = np.zeros_like(mask)
    expected[4:7, 5:9] = True
    assert np.array_equal(boxes.largest_box(mask), expected)


@pytest.mark.parametrize('name, size', [('test_resnet', 64), ('test_vit', 160)])
def test_the_map_of_a_class_is_where_its_logit_is_large(name, size):
    torch.manual_seed(0)
    model = timm.create_model(name, num_classes=2).eval()
    images = Subject(PixelModel(model, (0.5,) * 3, (0.5,) * 3), {}, torch.device('cpu'), '', '')
    head = MultiMixHead(model, 'dense-multimix', input_size=(3, size, size))
    image = torch.from_numpy(np.asarray(Image.linear_gradient('L').convert('RGB').resize((size, size))).copy())
    outputs, grid = look(images, head, image.permute(2, 0, 1)[None] / 255., torch.tensor([1]))
    heat = class_map(outputs.dense_logits[0, :, 1], grid, (size, size))
    assert heat.shape == (size, size) and heat.min() == 0. and heat.max() == pytest.approx(1.)
    features = model.forward_features((image.permute(2, 0, 1)[None] / 255. - 0.5) / 0.5)
    logits = head.dense(features)[0][0, :, 1].detach()
    side = round(len(logits) ** 0.5)
    row, column = (each * side // size for each in divmod(int(heat.argmax()), size))
    spread = logits.max() - logits.min()
    assert logits[row * side + column] > logits.max() - 0.05 * spread  # interpolation may prefer a neighbour


def test_attention_and_the_map_of_boxes(tmp_path):
    """One of four positions is in the box."""
    torch.manual_seed(0)
    model = timm.create_model('test_resnet', num_classes=2).eval()
    for name in 'ab':
        (tmp_path / name).mkdir()
        Image.effect_noise((64, 64), 60.).convert('RGB').save(tmp_path / name / '0.png')
    (tmp_path / 'boxes.csv').write_text('path,x0,y0,x1,y1\na/0.png,32,0,64,32\nb/0.png,0,0,64,40\n')  # b: too large
    config = dict(input_size=(3, 64, 64), interpolation='bilinear', crop_pct=1., crop_mode='center')
    images = Subject(PixelModel(model, (0.5,) * 3, (0.5,) * 3), config, torch.device('cpu'), '', str(tmp_path), '')
    result = boxes.measure(images, argparse.Namespace(boxes=None, images=0))
    pixels, labels = next(images.batches(images.images(), 1))
    assert result['images'] == 1 and result['attention']['area'] == 25.
    for kind in ('gap', 'cam'):
        head = MultiMixHead(model, 'dense-multimix', attention=kind, input_size=(3, 64, 64))
        attention = look(images, head, pixels, labels)[0].attention[0].double()
        assert attention.shape == (4,)
        assert result['attention'][f'{kind}_inside'] == pytest.approx(100. * attention[1].item())
        entropy = -sum(each * np.log(each) for each in attention.tolist() if each) / np.log(4.)
        assert result['attention'][f'{kind}_entropy'] == pytest.approx(100. * entropy)
    with open(tmp_path / 'boxes.csv', 'a') as file:
        file.write('a/0.png,0,0,8,8\n')
    with pytest.raises(ValueError, match='one box for each image, got 3 for 2 images'):
        boxes.measure(images, argparse.Namespace(boxes=None, images=0))
