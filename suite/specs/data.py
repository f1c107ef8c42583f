"""Which images, and how they are cropped."""

from typing import TYPE_CHECKING, Literal

from pydantic import Field, model_validator

from suite.specs.base import Spec
from suite.specs.choice import described, listed
from suite.specs.loader_table import INTERPOLATIONS, LOADERS
from suite.specs.source_table import LAYOUTS, SOURCES

if TYPE_CHECKING:
    LoaderName = str
    Interpolation = str
else:
    LoaderName = Literal[tuple(LOADERS)]
    Interpolation = Literal[tuple(INTERPOLATIONS)]


WHERE = ("path", "stage")
"""The fields that say where the images are and not which: no part of the run_id."""


class DataSpec(Spec):
    """Which images, and how they are cropped."""

    name: str = Field(
        "fashion-mnist-7k", description=f"{', '.join(SOURCES)}, or another name with `path` and `num_classes`"
    )
    path: str | None = Field(
        None,
        description="folder with train/ and val/, a pack of them, with annotations/ and images as in COCO, "
        "or with four IDX files; not part of the run_id",
    )
    stage: str | None = Field(
        None,
        description="folder on each node's own disk, such as $TMPDIR, to which a pack is copied before "
        "training; null: it is read where it is; not part of the run_id",
    )
    num_classes: int | None = Field(None, ge=2, description="null: that of the known source")
    image_size: int = Field(224, ge=8, description="side of the square image given to the network, pixels")
    train_images: int | None = Field(
        None, ge=1, description="train on this many images, chosen by the seed; null: all"
    )
    val_images: int | None = Field(None, ge=1, description="evaluate on this many, evenly spaced; null: all")
    crop_area: tuple[float, float] = Field(
        (0.08, 1.0), description="share of the image's area in a random crop, [low, high]"
    )
    crop_ratio: tuple[float, float] = Field(
        (3 / 4, 4 / 3), description="width over height of a random crop, [low, high]"
    )
    flip: bool = Field(True, description="mirror half of the training images")
    eval_resize: int | None = Field(
        None, ge=8, description="shorter side before the central crop, pixels; null: image_size × 256/224"
    )
    interpolation: Interpolation = Field("bilinear", description="how images are resized, without aliasing")
    loader: LoaderName = Field("dali", description=described(LOADERS))

    @model_validator(mode="after")
    def _check(self) -> "DataSpec":
        source = SOURCES.get(self.name)
        if self.num_classes is None:
            if source is None:
                known = ", ".join(SOURCES)
                raise ValueError(f"num_classes is missing for the data set {self.name!r}; known are {known}")
            object.__setattr__(self, "num_classes", source.num_classes)
        elif source and not source.any_num_classes and self.num_classes != source.num_classes:
            raise ValueError(f"num_classes is {self.num_classes}, but {self.name} has {source.num_classes}")
        if self.path is None and (source is None or source.needs_path):
            inside = LAYOUTS[source.layout] if source else listed(LAYOUTS.values(), "or")
            raise ValueError(f"path is missing: the folder of {self.name!r} that holds {inside}")
        if self.path is not None and source is not None and source.generator:
            made = f"{self.name} is made of random numbers and reads no folder"
            raise ValueError(f"path: {made}; remove it, or give the data another name")
        if self.stage is not None and ((source and source.generator) or not LOADERS[self.loader].crops):
            reads = self.name if source and source.generator else f"loader {self.loader}"
            raise ValueError(f"stage: packs are copied there, and {reads} reads none; leave it out")
        for name in ("crop_area", "crop_ratio"):
            low, high = getattr(self, name)
            if not 0 < low <= high or (name == "crop_area" and high > 1):
                expected = "[low, high] with 0 < low ≤ high (area: ≤ 1)"
                raise ValueError(f"{name} must be {expected}, got [{low}, {high}]")
        if self.eval_resize is None:
            object.__setattr__(self, "eval_resize", self.default_eval_resize)
        elif self.eval_resize < self.image_size:
            raise ValueError(f"eval_resize ({self.eval_resize}) is below image_size ({self.image_size})")
        if not LOADERS[self.loader].crops:
            self._check_whole_images()
        return self

    @property
    def default_eval_resize(self) -> int:
        """The shorter side before the central crop, where the config names none, pixels."""
        return round(self.image_size * 256 / 224)

    def _check_whole_images(self) -> None:
        """Raise ValueError for a config that asks to crop, resize or mirror."""
        is_whole = self.crop_area == (1, 1) and self.crop_ratio[0] <= 1 <= self.crop_ratio[1]
        is_plain = self.interpolation == type(self).model_fields["interpolation"].default
        if not (is_whole and is_plain) or self.flip or self.eval_resize != self.image_size:
            raise ValueError(
                f"loader {self.loader} does not crop or mirror: set crop_area: [1, 1], flip: false and "
                f"eval_resize: {self.image_size}, and leave crop_ratio and interpolation out"
            )
