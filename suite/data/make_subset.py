"""Writes the subset of Fashion-MNIST in this repository: python -m suite.data.make_subset"""

import tempfile
from pathlib import Path

import numpy as np

from suite.data.idx import fashion_mnist_folder, read_split, write_split
from suite.data.sources import SUBSET_FOLDER

IMAGES_PER_CLASS = {"train": 600, "val": 100}


def main() -> None:
    """Write the first images of each class, in the order of the whole set."""
    with tempfile.TemporaryDirectory() as download:
        source = fashion_mnist_folder(Path(download))
        for split, count in IMAGES_PER_CLASS.items():
            images_NHW, labels_N = read_split(source, split)
            first = [np.flatnonzero(labels_N == label)[:count] for label in np.unique(labels_N)]
            chosen = np.sort(np.concatenate(first))
            write_split(SUBSET_FOLDER, split, images_NHW[chosen], labels_N[chosen])


if __name__ == "__main__":
    main()
