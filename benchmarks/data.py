"""Downloaded data sets as folders of images: `python -m benchmarks.data cifar10|cifar100|tiny-imagenet SOURCE DEST`.

SOURCE is the archive as it is downloaded (cifar-10-python.tar.gz, cifar-100-python.tar.gz, tiny-imagenet-200.zip), the
folder that it holds, or the folder above it, such as torchvision's. DEST gets `train/` and `test/` (of Tiny-ImageNet
`train/` and `val/`, whose images have labels), each with a folder per class, and `boxes.csv` where there are boxes.
"""
import argparse
import codecs
import csv
import io
import json
import os
import pickle
import re
import shutil
import sys
import tarfile
import zipfile
from typing import Any, Callable, Dict, Iterator, List, NamedTuple, Optional, Tuple

import numpy as np
from PIL import Image

from timm_multimix.checks import UsageError, call_library
from timm_multimix.training.errors import exit_code


class Files(NamedTuple):
    """The files of a folder or an archive: names, relative to the folder of the data set, and how to read them."""
    source: str
    names: Dict[str, Any]
    read_entry: Callable[[Any], bytes]

    def read(self, name: str) -> bytes:
        if name not in self.names:
            raise UsageError(f'SOURCE {self.source} must hold {name}')
        return self.read_entry(self.names[name])


def open_source(source: str, inner: str) -> Files:
    """Open a folder or an archive; `inner` is the folder that the archive holds.

    Raises:
        UsageError: If it is neither.
    """
    if os.path.isdir(source):
        root = os.path.join(source, inner) if os.path.isdir(os.path.join(source, inner)) else source
        paths = [os.path.join(folder, name) for folder, _, names in os.walk(root) for name in names]
        return Files(source, {os.path.relpath(path, root).replace(os.sep, '/'): path for path in paths}, _read)
    try:
        if zipfile.is_zipfile(source):
            archive = zipfile.ZipFile(source)
            names, read_entry = {name: name for name in archive.namelist()}, archive.read
        else:
            archive = tarfile.open(source)
            names = {member.name: member for member in archive.getmembers() if member.isfile()}
            read_entry = lambda member: archive.extractfile(member).read()  # noqa: E731
    except (OSError, tarfile.TarError, zipfile.BadZipFile, EOFError) as error:
        raise UsageError(f'SOURCE must be a folder, a tar or a zip archive, got {source} ({error})') from error
    return Files(source, {name.removeprefix(f'{inner}/'): entry for name, entry in names.items()}, read_entry)


def _read(path: str) -> bytes:
    with open(path, 'rb') as file:
        return file.read()


class _Unpickler(pickle.Unpickler):
    """Builds arrays, strings, numbers, lists and dicts; anything else, which could run code, is an error."""
    _KNOWN = {
        '_reconstruct': np.zeros(0).__reduce__()[0],
        'ndarray': np.ndarray,
        'dtype': np.dtype,
        'encode': lambda text, encoding: codecs.latin_1_encode(text)[0],  # bytes, by a new Python in an old protocol
    }

    def find_class(self, module: str, name: str) -> Any:
        if module in ('numpy', 'numpy.core.multiarray', 'numpy._core.multiarray', '_codecs') and name in self._KNOWN:
            return self._KNOWN[name]
        raise pickle.UnpicklingError(f'it asks for {module}.{name}')


def unpickle(files: Files, name: str) -> Dict[str, Any]:
    """Read a pickled dict of CIFAR, of Python 2 or 3, without running code.

    Raises:
        UsageError: If it is no such file.
    """
    data = files.read(name)
    try:
        content = _Unpickler(io.BytesIO(data), encoding='bytes').load()
        return {_text(key): value for key, value in content.items()}
    except Exception as error:  # a broken file may raise anything
        raise UsageError(f'{name} of SOURCE {files.source} is not a batch of CIFAR: {error}') from error


def _text(value: Any) -> str:
    return value.decode() if isinstance(value, bytes) else str(value)


def _cifar(files: Files, batches: Dict[str, List[str]], meta: str, label: str) -> Iterator[Tuple[str, bytes]]:
    """Yield the path and the content of every image, `[3, 32, 32]` bytes in the batches."""
    classes = [_text(name) for name in unpickle(files, meta).get(f'{label}_names', ())]
    for split, names in batches.items():
        index = 0
        for name in names:
            batch = unpickle(files, name)
            pixels, labels = batch.get('data'), batch.get(f'{label}s')
            good = isinstance(pixels, np.ndarray) and pixels.dtype == np.uint8 and isinstance(labels, list)
            if not good or pixels.shape != (len(labels), 3072) or not set(labels) <= set(range(len(classes))):
                raise UsageError(f'{name} of SOURCE {files.source} must hold data [n, 3072] and n {label}s')
            for image, target in zip(pixels.reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1), labels):
                png = io.BytesIO()
                Image.fromarray(image).save(png, format='png')
                yield f'{split}/{_folder_name(classes[target])}/{index:05d}.png', png.getvalue()
                index += 1


def _cifar10(files: Files) -> Iterator[Tuple[str, bytes]]:
    batches = dict(train=[f'data_batch_{index}' for index in range(1, 6)], test=['test_batch'])
    return _cifar(files, batches, 'batches.meta', 'label')


def _cifar100(files: Files) -> Iterator[Tuple[str, bytes]]:
    return _cifar(files, dict(train=['train'], test=['test']), 'meta', 'fine_label')


def _tiny_imagenet(files: Files) -> Iterator[Tuple[str, bytes]]:
    """Yield the labelled images as they are, and `boxes.csv`: the corners of one box in pixels from 0, inclusive."""
    rows: List[List[str]] = []
    for name in sorted(files.names):
        found = re.fullmatch(r'train/([^/]+)/\1_boxes\.txt', name)
        if found:
            for image, *box in _table(files, name, 5):
                rows.append([f'train/{found[1]}/{_folder_name(image)}', *box])
                yield rows[-1][0], files.read(f'train/{found[1]}/images/{image}')
    if not rows:
        raise UsageError(f'SOURCE {files.source} must hold train/CLASS/CLASS_boxes.txt')
    for image, label, *box in _table(files, 'val/val_annotations.txt', 6):
        rows.append([f'val/{_folder_name(label)}/{_folder_name(image)}', *box])
        yield rows[-1][0], files.read(f'val/images/{image}')
    text = io.StringIO()
    csv.writer(text, lineterminator='\n').writerows([['path', 'x0', 'y0', 'x1', 'y1'], *rows])
    yield 'boxes.csv', text.getvalue().encode()


def _table(files: Files, name: str, columns: int) -> Iterator[List[str]]:
    for line in files.read(name).decode().splitlines():
        row = line.split('\t')
        if len(row) != columns or not all(map(str.isdecimal, row[-4:])):
            raise UsageError(f'{name} of SOURCE {files.source} must have {columns} columns, a box at the end: {line!r}')
        yield row


def _folder_name(name: str) -> str:
    """Return a name that is safe as part of a path."""
    if not re.fullmatch(r'\w[\w.-]*', name):
        raise UsageError(f'SOURCE: the name {name!r} must consist of letters, digits, _, - and .')
    return name


KINDS = {
    'cifar10': ('cifar-10-batches-py', _cifar10),
    'cifar100': ('cifar-100-python', _cifar100),
    'tiny-imagenet': ('tiny-imagenet-200', _tiny_imagenet),
}
"""The folder in the archive, and the converter, of every data set."""


def convert(kind: str, source: str, folder: str) -> int:
    """Write a data set as folders of images, completely or not at all; return the number of its files.

    If `folder` holds this data set already, nothing is written.

    Raises:
        UsageError: If `source` is not this data set, or `folder` holds anything else.
    """
    written = _written(kind, folder)
    if written is not None:
        return written
    inner, converter = KINDS[kind]
    files = open_source(source, inner)
    partial = f'{os.path.abspath(folder)}.{os.getpid()}'
    shutil.rmtree(partial, ignore_errors=True)  # of a killed process of this number
    os.makedirs(partial)
    try:
        written = 0
        for path, content in converter(files):
            target = os.path.join(partial, path)
            os.makedirs(os.path.dirname(target), exist_ok=True)
            with call_library(f'SOURCE {source}: two images would be {path}', open, target, 'xb') as file:
                file.write(content)
            written += 1
        with open(os.path.join(partial, 'contents.json'), 'w', encoding='utf-8') as file:
            json.dump(dict(kind=kind, files=written), file)
        try:
            os.rename(partial, folder)  # an empty folder is replaced
        except OSError:
            if _written(kind, folder) is None:  # not even by another process
                raise
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return written


def _written(kind: str, folder: str) -> Optional[int]:
    """Return the number of files if the folder holds this data set, None if it is new or empty."""
    if not os.path.exists(folder) or (os.path.isdir(folder) and not os.listdir(folder)):
        return None
    try:
        contents = json.loads(_read(os.path.join(folder, 'contents.json')))
        if contents['kind'] == kind:
            return contents['files']
    except (OSError, ValueError, KeyError, TypeError):
        pass
    raise UsageError(f'DEST must be new, empty or hold {kind}, got {folder}')


def main(argv: Optional[List[str]] = None) -> int:
    parser = argparse.ArgumentParser(
        prog='benchmarks.data', description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('kind', choices=KINDS)
    parser.add_argument('source', metavar='SOURCE')
    parser.add_argument('dest', metavar='DEST')
    args = parser.parse_args(argv)
    return exit_code('benchmarks.data', lambda: print(
        f'{args.dest} holds {convert(args.kind, args.source, args.dest)} files of {args.kind}'))


if __name__ == '__main__':
    sys.exit(main())
