"""The known data sources by name. Any other name is a folder in one of the layouts at `data.path`.

To add one, add an entry, and a function in `suite.data.sources` that writes or finds its files.
"""

from dataclasses import dataclass
from typing import Literal

Layout = Literal["folders", "coco"]
LAYOUTS: dict[Layout, str] = {
    "folders": "train/ and val/, or a pack",
    "coco": "annotations/ and the folders of images, in COCO's format",
}
"""What the folder of a data set holds: a folder of images for each class, or images with boxes."""


@dataclass(frozen=True)
class Source:
    """A data source and how its images are obtained.

    `layout`: how its files lie; images with boxes are for detection.
    `files`: the function that writes its files in that layout, given a draft folder, and returns the folder
    that holds them; a source without one says in `not_prepared` what its user does instead.
    `idx`: the function that returns the folder of its IDX files, which the loader `memory` reads.
    `generator`: the loader that makes its batches on the device, for a source without files.
    All three are "module:attribute"; an empty one means that the source has no such form.
    """

    num_classes: int
    licence: str
    files: str = ""
    not_prepared: str = ""
    idx: str = ""
    generator: str = ""
    needs_path: bool = False
    any_num_classes: bool = False
    is_grey: bool = False
    layout: Layout = "folders"

    def __post_init__(self) -> None:
        if bool(self.files) == bool(self.not_prepared):
            raise ValueError("a data source has either `files` or `not_prepared`")


SOURCES = {
    "imagenet": Source(
        1000,
        "ImageNet's terms of access: non-commercial research",
        not_prepared="cannot be downloaded: set data.path to the folder that holds "
        "train/n01440764/*.JPEG … and val/n01440764/*.JPEG …, or to a pack of it",
        needs_path=True,
    ),
    "fashion-mnist": Source(
        10,
        "MIT",
        files="suite.data.sources:fashion_mnist_jpegs",
        idx="suite.data.sources:fashion_mnist_idx",
        is_grey=True,
    ),
    "fashion-mnist-7k": Source(
        10,
        "MIT",
        files="suite.data.sources:fashion_mnist_7k_jpegs",
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
    "coco": Source(
        80,
        "annotations: CC BY 4.0; images: Flickr's terms of use",
        not_prepared="cannot be downloaded: set data.path to the folder that holds train2017/, val2017/ and "
        "annotations/instances_train2017.json and instances_val2017.json",
        needs_path=True,
        layout="coco",
    ),
    "fashion-scenes": Source(
        10,
        "MIT",
        files="suite.detection.scenes:fashion_scenes",
        layout="coco",
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
PREPARABLE = [name for name, source in SOURCES.items() if source.files]
