"""The known data sources by name. Any other name is an ImageFolder at `data.path`.

To add one, add an entry, and a function in `suite.data.sources` that writes or finds its files.
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class Source:
    """A data source and how its images are obtained.

    `jpegs`: the function that writes train/CLASS/*.jpg and val/CLASS/*.jpg, given a draft folder, and returns
    the folder that holds both; a source without one says in `not_prepared` what its user does instead.
    `idx`: the function that returns the folder of its IDX files, which the loader `memory` reads.
    `generator`: the loader that makes its batches on the device, for a source without files.
    All three are "module:attribute"; an empty one means that the source has no such form.
    """

    num_classes: int
    licence: str
    jpegs: str = ""
    not_prepared: str = ""
    idx: str = ""
    generator: str = ""
    needs_path: bool = False
    any_num_classes: bool = False
    is_grey: bool = False

    def __post_init__(self) -> None:
        if bool(self.jpegs) == bool(self.not_prepared):
            raise ValueError("a data source has either `jpegs` or `not_prepared`")


SOURCES = {
    "imagenet": Source(
        1000,
        "ImageNet's terms of access: non-commercial research",
        not_prepared="cannot be downloaded: set data.path to the folder that holds "
        "train/n01440764/*.JPEG … and val/n01440764/*.JPEG …",
        needs_path=True,
    ),
    "fashion-mnist": Source(
        10,
        "MIT",
        jpegs="suite.data.sources:fashion_mnist_jpegs",
        idx="suite.data.sources:fashion_mnist_idx",
        is_grey=True,
    ),
    "fashion-mnist-7k": Source(
        10,
        "MIT",
        jpegs="suite.data.sources:fashion_mnist_7k_jpegs",
        idx="suite.data.sources:subset_folder",
        is_grey=True,
    ),
    "mnist": Source(
        10,
        "as stated where you obtain it",
        not_prepared="needs no preparation: data.loader: memory reads its four IDX files",
        idx="suite.data.sources:mnist_idx",
        is_grey=True,
    ),
    "synthetic": Source(
        1000,
        "none: random numbers",
        not_prepared="needs no preparation: its tensors are made on the device",
        generator="suite.data.synthetic:SyntheticLoader",
        any_num_classes=True,
    ),
}
NUM_CLASSES = {name: source.num_classes for name, source in SOURCES.items()}
PREPARABLE = [name for name, source in SOURCES.items() if source.jpegs]
