"""Real images without a download: the handwritten digits that scikit-learn ships."""
from typing import Callable, Optional

import numpy as np
from PIL import Image
from torch.utils.data import Dataset

from ...checks import UsageError

_TRAIN_SPLITS = ('train', 'training')
_VALIDATION_SPLITS = ('val', 'valid', 'validation', 'eval', 'evaluation', 'test')


class Digits(Dataset):
    """1,797 scanned digits of 8 x 8 pixels: 'train' (1,198 images) or 'validation' (599), in a PIL mode.

    Source: scikit-learn's `load_digits` (E. Alpaydin and C. Kaynak, Optical Recognition of Handwritten Digits, UCI).
    """

    class_to_idx = {str(digit): digit for digit in range(10)}

    def __init__(self, split: str = 'train', input_img_mode: str = 'RGB', transform: Optional[Callable] = None):
        if split not in _TRAIN_SPLITS + _VALIDATION_SPLITS:
            raise UsageError(f"split of digits must be 'train' or 'validation', got {split!r}")
        try:
            from sklearn.datasets import load_digits
        except ImportError as error:
            raise UsageError('dataset digits needs scikit-learn: pip install scikit-learn') from error
        digits = load_digits()
        order = np.random.RandomState(0).permutation(len(digits.target))
        held_out = len(order) // 3
        index = np.sort(order[held_out:] if split in _TRAIN_SPLITS else order[:held_out])
        self.images = np.rint(digits.images[index] * (255. / 16.)).astype(np.uint8)
        self.targets = digits.target[index]
        self.input_img_mode = input_img_mode
        self.transform = transform

    def __len__(self) -> int:
        return len(self.targets)

    def __getitem__(self, index: int):
        image = Image.fromarray(self.images[index]).convert(self.input_img_mode)
        if self.transform is not None:
            image = self.transform(image)
        return image, int(self.targets[index])
