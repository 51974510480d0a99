"""scikit-learn's digits as folders of images, for the benchmarks: `python -m benchmarks.suite.digits_folder FOLDER`."""
import os
import sys
from typing import List, Optional

from timm_multimix.training.data.digits import Digits

from .cli import create_parser


def write_digits(folder: str) -> str:
    """Write `train/` and `test/`, each with a folder of 8 x 8 PNG files per digit; return `folder`."""
    for split, name in (('train', 'train'), ('validation', 'test')):
        for index, (image, target) in enumerate(Digits(split)):
            path = os.path.join(folder, name, str(target), f'{index:04d}.png')
            if not os.path.exists(path):
                os.makedirs(os.path.dirname(path), exist_ok=True)
                partial = f'{path}.{os.getpid()}'
                image.save(partial, format='png')
                os.replace(partial, path)
    return folder


def main(argv: Optional[List[str]] = None) -> int:
    parser = create_parser(__doc__)
    parser.add_argument('folder', help='folder to write')
    write_digits(parser.parse_args(argv).folder)
    return 0


if __name__ == '__main__':
    sys.exit(main())
