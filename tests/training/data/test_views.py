"""Two views of every image, through timm's own loaders."""
import pytest
import torch
from timm.data import create_dataset, create_loader

from timm_multimix.training.data.views import make_views, views_collate


def load(image_folder, two_views, prefetcher, workers=0, seed=0, **kwargs):
    dataset = create_dataset('', root=str(image_folder), split='train')
    loader = create_loader(
        dataset, input_size=(3, 32, 32), batch_size=6, is_training=True, use_prefetcher=prefetcher,
        num_workers=workers, device=torch.device('cpu'), persistent_workers=False,
        collate_fn=views_collate(two_views, prefetcher), **kwargs)
    if two_views:
        make_views(dataset)
    torch.manual_seed(seed)
    return list(loader)


@pytest.mark.parametrize('workers', [0, 2])
@pytest.mark.parametrize('prefetcher', [True, False])
def test_the_views_are_two_of_the_same_images(prefetcher, workers, image_folder):
    """Every class has its own colour, which shows that both views of an image are where its label is."""
    batches = load(image_folder, True, prefetcher, workers, color_jitter=0., scale=(0.5, 1.))
    assert len(batches) == 4
    for images, target in batches:
        assert images.shape == (12, 3, 32, 32) and images.dtype == torch.float32
        assert target.shape == (6,) and target.dtype == torch.int64
        first, second = images.split(6)
        assert all(not torch.equal(a, b) for a, b in zip(first, second, strict=True))
        for view in (first, second):
            assert torch.equal(view.mean((2, 3)).argmax(dim=1), target)


@pytest.mark.parametrize('prefetcher', [True, False])
def test_views_differ_by_the_augmentation_alone(prefetcher, image_folder):
    for images, _ in load(image_folder, True, prefetcher, no_aug=True):
        assert torch.equal(*images.split(6))
    erased = [x for x, _ in load(image_folder, True, prefetcher, re_prob=1., hflip=0., color_jitter=0., scale=(1., 1.))]
    assert not torch.equal(*erased[0].split(6)), 'random erasing is drawn for each view'
