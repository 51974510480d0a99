"""`benchmarks.embedding_space` against loops, and on spaces whose values are known."""
import math

import pytest
import torch
import torch.nn.functional as F

from benchmarks.embedding_space import alignment, class_spread, project, uniformity

CORNERS = torch.eye(4).repeat_interleave(3, dim=0)  # four classes, each at one point
LABELS = torch.arange(4).repeat_interleave(3)


@pytest.fixture
def embeddings():
    return F.normalize(torch.randn(12, 5, generator=torch.Generator().manual_seed(0)), dim=-1)


def test_alignment_is_the_mean_over_pairs_of_a_class(embeddings):
    labels = torch.tensor([0, 0, 0, 0, 0, 1, 1, 1, 2, 2, 2, 2])
    distances = [
        float((embeddings[i] - embeddings[j]).square().sum())
        for i in range(12) for j in range(i) if labels[i] == labels[j]]
    assert alignment(embeddings, labels) == pytest.approx(sum(distances) / len(distances), rel=1e-5)
    assert alignment(CORNERS, LABELS) == 0.


def test_uniformity_is_the_log_of_the_mean_potential(embeddings):
    potentials = [
        math.exp(-2. * float((embeddings[i] - embeddings[j]).square().sum())) for i in range(12) for j in range(i)]
    assert uniformity(embeddings) == pytest.approx(math.log(sum(potentials) / len(potentials)), rel=1e-5)
    assert uniformity(torch.ones(5, 1)) == 0.
    assert uniformity(CORNERS) < 0.


def test_spread_and_separation():
    space = class_spread(CORNERS, LABELS)
    assert space['spread'] == 0. and space['ratio'] == 0. and space['spread_per_class'] == [0.] * 4
    assert space['separation'] == pytest.approx(2. ** 0.5)
    circle = torch.tensor([[1., 0.], [0., 1.], [-1., 0.], [0., -1.]])
    space = class_spread(circle, torch.tensor([0, 0, 1, 1]))
    assert space['spread'] == pytest.approx(0.5 ** 0.5) and space['separation'] == pytest.approx(2. ** 0.5)


@pytest.mark.parametrize('kind', ['pca', 'tsne'])
def test_a_projection_is_reproducible_and_keeps_classes_apart(kind):
    noise = 0.01 * torch.randn(12, 4, generator=torch.Generator().manual_seed(0))
    points = project(CORNERS + noise, kind)
    assert points.shape == (12, 2) and torch.equal(points, project(CORNERS + noise, kind))
    if kind == 'pca':
        distances = torch.cdist(points, points)
        same = LABELS[:, None] == LABELS[None]
        assert distances[same].max() < 0.2 * distances.max()
