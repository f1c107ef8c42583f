"""The IDX files of Fashion-MNIST, and where to find the whole set. No torch unless it must be downloaded."""

import gzip
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from suite.errors import UserError

Bytes = NDArray[np.uint8]
DEBIAN_FOLDER = Path("/usr/share/datasets/fashion-mnist")
# IDX file names begin with these.
PREFIXES = {"train": "train", "val": "t10k"}


def read_split(folder: Path, split: str) -> tuple[Bytes, Bytes]:
    """Images (N × 28 × 28) and labels (N) of a split, from gzipped IDX files."""
    prefix = PREFIXES[split]
    images_NHW = _read(folder / f"{prefix}-images-idx3-ubyte.gz")
    labels_N = _read(folder / f"{prefix}-labels-idx1-ubyte.gz")
    return images_NHW, labels_N


def write_split(folder: Path, split: str, images_NHW: Bytes, labels_N: Bytes) -> None:
    """Write gzipped IDX files, with no time in their headers."""
    for array, kind in ((images_NHW, "images"), (labels_N, "labels")):
        header = b"\0\0\x08" + bytes([array.ndim]) + np.array(array.shape, ">u4").tobytes()
        path = folder / f"{PREFIXES[split]}-{kind}-idx{array.ndim}-ubyte.gz"
        path.write_bytes(gzip.compress(header + array.tobytes(), mtime=0))


def fashion_mnist_folder(download_to: Path) -> Path:
    """Where the whole set's files are: Debian's package, or else torchvision's download."""
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


def _read(path: Path) -> Bytes:
    try:
        content = gzip.decompress(path.read_bytes())
    except (OSError, EOFError) as error:
        raise UserError(f"{path}: cannot be read: {error}") from None
    num_axes = content[3] if content[:3] == b"\0\0\x08" else 0
    shape = np.frombuffer(content, ">u4", count=num_axes, offset=4)
    values = np.frombuffer(content, np.uint8, offset=4 + 4 * num_axes)
    if not num_axes or values.size != np.prod(shape, dtype=np.int64):
        raise UserError(f"{path}: not a complete IDX file of bytes")
    return values.reshape(shape)
