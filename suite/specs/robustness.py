"""What is measured of a network's robustness: which shifts, on how many images, with which methods."""

from pathlib import Path
from typing import Literal

from pydantic import Field, field_validator

from suite.specs.base import Spec
from suite.specs.corruption_table import CORRUPTIONS, SEVERITIES
from suite.specs.test_time_table import METHODS

Order = Literal["mixed", "by_label"]


class RobustnessPlan(Spec):
    """The shifts and the methods of test time. Corruptions are those of the validation set's images.

    Methods are measured on each shift at the highest of the `severities`, and on a stream that mixes all.
    """

    corruptions: tuple[str, ...] = Field((), description="names of corruptions")
    severities: tuple[int, ...] = Field(SEVERITIES, min_length=1, description="1 to 5")
    folders: dict[str, str] = Field(default_factory=dict, description="name of a shift: its folder")
    max_images: int | None = Field(None, ge=1, description="of each shift, evenly spaced; null: all")
    with_parts: bool = Field(False, description="split each shift's ESM into own and inherited parts")
    methods: tuple[str, ...] = Field((), description="statistics chosen at test time")
    images_per_batch: tuple[int, ...] = Field((64,), description="of a test-time stream")
    orders: tuple[Order, ...] = Field(("mixed",), min_length=1, description="of a test-time stream")

    @field_validator("corruptions")
    @classmethod
    def _known(cls, names: tuple[str, ...]) -> tuple[str, ...]:
        for name in names:
            if name not in CORRUPTIONS:
                raise ValueError(f"corruption {name!r} is unknown; expected one of {', '.join(CORRUPTIONS)}")
        return tuple(dict.fromkeys(names))

    @field_validator("methods")
    @classmethod
    def _known_methods(cls, names: tuple[str, ...]) -> tuple[str, ...]:
        for name in names:
            if name not in METHODS:
                raise ValueError(f"method {name!r} is unknown; expected one of {', '.join(METHODS)}")
        return tuple(dict.fromkeys(names))

    @field_validator("severities")
    @classmethod
    def _in_range(cls, severities: tuple[int, ...]) -> tuple[int, ...]:
        for severity in severities:
            if severity not in SEVERITIES:
                raise ValueError(f"severity {severity}: expected 1 to 5")
        return tuple(sorted(set(severities)))

    @field_validator("images_per_batch")
    @classmethod
    def _positive(cls, sizes: tuple[int, ...]) -> tuple[int, ...]:
        if not sizes or min(sizes) < 1:
            raise ValueError("expected numbers of images, 1 or more")
        return tuple(sorted(set(sizes)))

    def folder_paths(self) -> dict[str, Path]:
        """Return the folders of shifts by name."""
        return {name: Path(folder) for name, folder in self.folders.items()}
