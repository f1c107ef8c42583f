"""Which images, and how they are cropped."""

from typing import Literal

from pydantic import Field, model_validator

from suite.specs.base import Spec

# Known sources and their class counts; any other name is an ImageFolder at `data.path`.
NUM_CLASSES = {
    "imagenet": 1000,
    "fashion-mnist": 10,
    "fashion-mnist-7k": 10,
    "mnist": 10,
    "synthetic": 1000,
}


class DataSpec(Spec):
    """Which images, and how they are cropped."""

    name: str = Field(
        "fashion-mnist-7k", description="a known source, or any name with `path` and `num_classes`"
    )
    path: str | None = Field(
        None,
        description="ImageFolder with train/ and val/, or for `memory` MNIST's four IDX files; "
        "never part of the run_id",
    )
    num_classes: int | None = Field(None, ge=2, description="null: the known source's")
    image_size: int = Field(224, ge=8, description="side of the square that the network sees, pixels")
    train_images: int | None = Field(
        None, ge=1, description="train on this many images, chosen by the seed; null: all"
    )
    val_images: int | None = Field(None, ge=1, description="evaluate on this many, spread out; null: all")
    crop_area: tuple[float, float] = Field((0.08, 1.0), description="random crop's share of the image's area")
    crop_ratio: tuple[float, float] = Field((3 / 4, 4 / 3), description="random crop's width over height")
    flip: bool = Field(True, description="mirror half of the training images")
    eval_resize: int | None = Field(
        None, ge=8, description="shorter side before the centre crop; null: image_size × 256/224"
    )
    loader: Literal["dali", "torchvision", "memory"] = Field(
        "dali", description="who reads, decodes and crops; memory: IDX files, held in memory as they are"
    )

    @model_validator(mode="after")
    def _check(self) -> "DataSpec":
        known = NUM_CLASSES.get(self.name)
        if self.num_classes is None:
            if known is None:
                raise ValueError(
                    f"num_classes is missing for the data set {self.name!r}; "
                    f"known sources are {', '.join(NUM_CLASSES)}"
                )
            object.__setattr__(self, "num_classes", known)
        elif known not in (None, self.num_classes) and self.name != "synthetic":
            raise ValueError(f"num_classes is {self.num_classes}, but {self.name} has {known}")
        if self.path is None and (known is None or self.name == "imagenet"):
            raise ValueError(f"path is missing: the folder of {self.name!r} that holds train/ and val/")
        for name in ("crop_area", "crop_ratio"):
            low, high = getattr(self, name)
            if not 0 < low <= high or (name == "crop_area" and high > 1):
                raise ValueError(
                    f"{name} must be [low, high] with 0 < low ≤ high (area: ≤ 1), got [{low}, {high}]"
                )
        if self.eval_resize is None:
            object.__setattr__(self, "eval_resize", round(self.image_size * 256 / 224))
        elif self.eval_resize < self.image_size:
            raise ValueError(
                f"eval_resize ({self.eval_resize}) is smaller than image_size ({self.image_size})"
            )
        if self.loader == "memory":
            self._check_whole_images()
        return self

    def _check_whole_images(self) -> None:
        """Raise ValueError where another loader would crop, resize or mirror."""
        low, high = self.crop_ratio
        is_whole = self.crop_area == (1, 1) and low <= 1 <= high
        if not is_whole or self.flip or self.eval_resize != self.image_size:
            raise ValueError(
                "loader memory gives images as they are: set crop_area: [1, 1], flip: false and "
                f"eval_resize: {self.image_size}, and leave crop_ratio out"
            )
