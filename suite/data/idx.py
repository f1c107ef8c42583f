"""IDX files, the format of MNIST and Fashion-MNIST. Imports torchvision only to download the latter."""

import gzip
import math
import zlib
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from suite.errors import UserError

Bytes = NDArray[np.uint8]
DEBIAN_FOLDER = Path("/usr/share/datasets/fashion-mnist")
# IDX file names begin with these.
PREFIXES = {"train": "train", "val": "t10k"}


def read_split(folder: Path, split: str) -> tuple[Bytes, Bytes]:
    """Return the images (N × 28 × 28) and labels (N) of a split."""
    return read_array(idx_file(folder, split, "images")), read_array(idx_file(folder, split, "labels"))


def idx_file(folder: Path, split: str, kind: Literal["images", "labels"]) -> Path:
    """Return the file of a split's images or labels, gzipped or not. Raises UserError if both are missing."""
    name = f"{PREFIXES[split]}-{kind}-idx{3 if kind == 'images' else 1}-ubyte"
    for path in (folder / f"{name}.gz", folder / name):
        if path.is_file():
            return path
    raise UserError(f"{folder}: has neither {name}.gz nor {name}")


def write_split(folder: Path, split: str, images_NHW: Bytes, labels_N: Bytes) -> None:
    """Write gzipped IDX files, without a time stamp in their headers."""
    for array, kind in ((images_NHW, "images"), (labels_N, "labels")):
        header = b"\0\0\x08" + bytes([array.ndim]) + np.array(array.shape, ">u4").tobytes()
        path = folder / f"{PREFIXES[split]}-{kind}-idx{array.ndim}-ubyte.gz"
        path.write_bytes(gzip.compress(header + array.tobytes(), mtime=0))


def fashion_mnist_folder(download_to: Path) -> Path:
    """Return the folder of the whole set: Debian's package, or else torchvision's download."""
    if DEBIAN_FOLDER.is_dir():
        return DEBIAN_FOLDER
    from torchvision.datasets import FashionMNIST

    try:
        for train in (True, False):
            FashionMNIST(str(download_to), train=train, download=True)
    except (OSError, RuntimeError) as error:
        raise UserError(
            f"fashion-mnist cannot be downloaded ({error}): "
            "install Debian's dataset-fashion-mnist, or use fashion-mnist-7k"
        ) from None
    return download_to / "FashionMNIST" / "raw"


def read_array(path: Path) -> Bytes:
    """Return the bytes of an IDX file, gzipped or not, in its shape. Raises UserError for any other file."""
    shape = read_shape(path)
    content = _content(path)[4 + 4 * len(shape) :]
    if len(content) != math.prod(shape):
        size = " × ".join(map(str, shape))
        raise UserError(f"{path}: not a complete IDX file: {len(content)} bytes of {size}")
    return np.frombuffer(content, np.uint8).reshape(shape)


def read_shape(path: Path) -> tuple[int, ...]:
    """Return the shape in the header of an IDX file of bytes. Raises UserError for any other file."""
    header = _content(path, 4)
    num_axes = header[3] if header[:3] == b"\0\0\x08" and len(header) == 4 else 0
    sizes = _content(path, 4 + 4 * num_axes)[4:]
    if not num_axes or len(sizes) < 4 * num_axes:
        raise UserError(f"{path}: not a complete IDX file of bytes")
    return tuple(np.frombuffer(sizes, ">u4").tolist())


def _content(path: Path, num_bytes: int = -1) -> bytes:
    """Return the first bytes of a file, or all of them, unpacked."""
    try:
        with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as file:
            return file.read(num_bytes)
    except (OSError, EOFError, zlib.error) as error:
        raise UserError(f"{path}: cannot be read: {error}") from None
