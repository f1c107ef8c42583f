"""Accuracy and estimation shift on shifted data: a run's `robustness.json`."""

import math
from typing import Literal, TypeVar

from pydantic import Field, ValidationError, model_validator

from suite.errors import UserError
from suite.files import read_json, write_atomically
from suite.paths import RunPaths
from suite.specs.base import Spec

ROBUSTNESS_VERSION = 1
ShiftKey = tuple[str, str, int | None, str, int | None]
NameAndSeverity = tuple[str, int | None]
StreamKey = tuple[tuple[NameAndSeverity, ...], tuple[str, ...], int | None, str, int]


class PartsRecord(Spec):
    """Signed shares of scaled ESM, by layer: of the layer's own estimates, and inherited from upstream."""

    layers: tuple[str, ...]
    mu_own: tuple[float, ...]
    mu_inherited: tuple[float, ...]
    sigma_own: tuple[float, ...]
    sigma_inherited: tuple[float, ...]

    @model_validator(mode="after")
    def _one_value_a_layer(self) -> "PartsRecord":
        return _checked(self, self.layers, "mu_own", "mu_inherited", "sigma_own", "sigma_inherited")


class ShiftRecord(Spec):
    """A network under one shift; see `suite.shift.robustness.ShiftResult`. ESM by layer, in forward order.

    `source`: the place of a folder or an array. `max_images`: that the images were limited to; None: all.
    `reference`: accuracy and confidence on the clean images of the same classes, with the same outputs, where
    the shift has classes for some outputs only.
    """

    shift: str
    kind: Literal["clean", "corruption", "folder", "array"]
    severity: int | None = None
    source: str = ""
    max_images: int | None = None
    num_images: int = Field(ge=1)
    num_classes: int = Field(ge=1, description="outputs among which the first guess is")
    bad_images: int = Field(0, ge=0, description="files that could not be decoded and were left out")
    top1_percent: float
    loss: float
    confidence_percent: float
    reference: tuple[float, float] | None = None
    layers: tuple[str, ...]
    esm_mu_scaled: tuple[float, ...]
    esm_sigma_scaled: tuple[float, ...]
    parts: PartsRecord | None = None

    def share_lost_percent(self, clean: "ShiftRecord") -> float:
        """Return the share of the clean top-1 above chance that the shift costs; NaN if there is none.

        Of a shift with fewer classes the clean top-1 is the `reference`, on the same classes and outputs.
        """
        chance = 100 / self.num_classes
        above = (self.reference[0] if self.reference is not None else clean.top1_percent) - chance
        return 100 * (1 - (self.top1_percent - chance) / above) if above > 0 else math.nan

    def confidence_lost_percent(self, clean: "ShiftRecord") -> float:
        """Return by how much the mean confidence is below that on clean images, in points."""
        before = self.reference[1] if self.reference is not None else clean.confidence_percent
        return before - self.confidence_percent

    @property
    def key(self) -> ShiftKey:
        return self.shift, self.kind, self.severity, self.source, self.max_images

    @model_validator(mode="after")
    def _one_value_a_layer(self) -> "ShiftRecord":
        return _checked(self, self.layers, "esm_mu_scaled", "esm_sigma_scaled")


S = TypeVar("S", bound=Spec)


def _checked(record: S, layers: tuple[str, ...], *names: str) -> S:
    for name in names:
        if len(getattr(record, name)) != len(layers):
            raise ValueError(f"{name}: expected a value for each layer")
    return record


class TestTimeRecord(Spec):
    """Top-1 (%) over a stream with a method of test time.

    `shifts`: name and severity of those that each batch mixes. `images_per_batch`: in all.
    """

    __test__ = False  # not a test, whatever its name begins with

    shifts: tuple[NameAndSeverity, ...] = Field(min_length=1)
    sources: tuple[str, ...] = ()
    max_images: int | None = None
    method: str
    order: Literal["mixed", "by_label"]
    images_per_batch: int = Field(ge=1)
    num_images: int = Field(ge=1)
    top1_percent: float

    @property
    def stream(self) -> StreamKey:
        return self.shifts, self.sources, self.max_images, self.order, self.images_per_batch

    @property
    def key(self) -> tuple[StreamKey, str]:
        return self.stream, self.method


class RobustnessRecord(Spec):
    """What was measured of a run after `step` steps, on `data`."""

    schema_version: Literal[1] = 1
    step: int = Field(ge=0)
    data: str
    shifts: tuple[ShiftRecord, ...] = ()
    test_time: tuple[TestTimeRecord, ...] = ()

    @model_validator(mode="after")
    def _each_once(self) -> "RobustnessRecord":
        for keys in ([one.key for one in self.shifts], [one.key for one in self.test_time]):
            if len(set(keys)) < len(keys):
                raise ValueError("expected each result once")
        return self

    def is_of_same(self, other: "RobustnessRecord") -> bool:
        """Return whether both are of the same checkpoint and data."""
        return (self.step, self.data) == (other.step, other.data)

    def clean(self, max_images: int | None) -> ShiftRecord | None:
        """Return the result on so many clean images, or None."""
        return next((one for one in self.shifts if one.key == ("clean", "clean", None, "", max_images)), None)


def write_robustness(paths: RunPaths, record: RobustnessRecord) -> None:
    """Replace the run's robustness.json. Raises OSError when it cannot be written."""
    write_atomically(paths.robustness, record.model_dump_json(indent=1, exclude_none=True) + "\n")


def read_robustness(paths: RunPaths) -> RobustnessRecord | None:
    """Return the content of robustness.json; None if there is none. Raises UserError if it is malformed."""
    try:
        content = read_json(paths.robustness)
    except OSError as error:
        raise UserError(f"{paths.robustness}: cannot be read: {error.strerror}") from None
    if content is None and not paths.robustness.exists():
        return None
    try:
        return RobustnessRecord.model_validate(content)
    except ValidationError:
        raise UserError(
            f"{paths.robustness}: not a robustness.json of this version; remove it to measure again"
        ) from None
