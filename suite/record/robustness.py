"""Accuracy and estimation shift on shifted data: a run's `robustness.json`."""

from typing import Literal

from pydantic import Field, ValidationError, model_validator

from suite.errors import UserError
from suite.files import read_json, write_atomically
from suite.paths import RunPaths
from suite.specs.base import Spec

ROBUSTNESS_VERSION = 1
Key = tuple[str, int | None]


class PartsRecord(Spec):
    """Signed shares of each layer's scaled ESM: of the layer's own estimates, and inherited from upstream."""

    mu_own: tuple[float, ...]
    mu_inherited: tuple[float, ...]
    sigma_own: tuple[float, ...]
    sigma_inherited: tuple[float, ...]


class ShiftRecord(Spec):
    """A network under one shift; see `suite.shift.robustness.ShiftResult`. ESM by layer, in forward order."""

    shift: str
    kind: Literal["clean", "corruption", "folder", "array"]
    severity: int | None = None
    num_images: int = Field(ge=1)
    num_classes: int = Field(ge=1, description="outputs among which the first guess is")
    top1_percent: float
    loss: float
    confidence_percent: float
    layers: tuple[str, ...]
    esm_mu_scaled: tuple[float, ...]
    esm_sigma_scaled: tuple[float, ...]
    parts: PartsRecord | None = None

    @property
    def key(self) -> Key:
        return self.shift, self.severity

    @model_validator(mode="after")
    def _one_value_a_layer(self) -> "ShiftRecord":
        if not len(self.layers) == len(self.esm_mu_scaled) == len(self.esm_sigma_scaled):
            raise ValueError("expected one value of each ESM for each layer")
        return self


class TestTimeRecord(Spec):
    """Top-1 (%) over a stream with a method of test time. `shift` is `all` for a stream that mixes them."""

    __test__ = False  # not a test, whatever its name begins with

    shift: str
    severity: int | None = None
    method: str
    order: Literal["mixed", "by_label"]
    images_per_batch: int = Field(ge=1)
    num_images: int = Field(ge=1)
    top1_percent: float

    @property
    def stream(self) -> tuple[str, int | None, str, int]:
        return self.shift, self.severity, self.order, self.images_per_batch

    @property
    def key(self) -> tuple[str, int | None, str, str, int]:
        return self.shift, self.severity, self.method, self.order, self.images_per_batch


class RobustnessRecord(Spec):
    """What was measured of a run after `step` steps, on `data`. `max_images`: of each shift; None: all."""

    schema_version: Literal[1] = 1
    step: int = Field(ge=0)
    data: str
    max_images: int | None = None
    shifts: tuple[ShiftRecord, ...] = ()
    test_time: tuple[TestTimeRecord, ...] = ()

    def is_of_same(self, other: "RobustnessRecord") -> bool:
        """Return whether both are of the same checkpoint, data and number of images."""
        return (self.step, self.data, self.max_images) == (other.step, other.data, other.max_images)

    def shift(self, name: str, severity: int | None = None) -> ShiftRecord | None:
        """Return the result of a shift, or None."""
        return next((one for one in self.shifts if one.key == (name, severity)), None)


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
