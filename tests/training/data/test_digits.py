"""The built-in dataset of digits."""
import numpy as np
import pytest

from timm_multimix.training.data.digits import Digits


def test_a_third_is_held_out_and_nothing_is_in_both():
    train, held_out = Digits('train'), Digits('validation')
    assert (len(train), len(held_out)) == (1198, 599)
    both = np.concatenate([train.images, held_out.images])
    assert both.shape == (1797, 8, 8)
    assert both.min() == 0 and both.max() == 255
    from sklearn.datasets import load_digits
    order = np.lexsort(load_digits().images.reshape(1797, -1).T)
    images = np.rint(load_digits().images * (255. / 16.)).astype(np.uint8).reshape(1797, -1)
    ours = both.reshape(1797, -1)
    assert np.array_equal(ours[np.lexsort(ours.T)], images[order])


def test_every_class_is_in_both_splits_which_are_fixed_and_hold_images():
    for split in ('train', 'validation'):
        assert set(Digits(split).targets) == set(range(10))
        assert np.array_equal(Digits(split).images, Digits(split).images)
    image, target = Digits('train', input_img_mode='L', transform=np.asarray)[0]
    assert image.shape == (8, 8) and isinstance(target, int) and Digits('val')[0][0].mode == 'RGB'


def test_an_unknown_split_is_refused():
    with pytest.raises(ValueError, match="split of digits must be 'train' or 'validation', got 'dev'"):
        Digits('dev')
