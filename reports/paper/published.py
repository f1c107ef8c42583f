"""The paper's numbers, typed: each with how it was read, how far off that may be, and what it is of."""

from functools import cache
from importlib.resources import files
from typing import Literal

import yaml
from pydantic import Field, ValidationError, model_validator

from suite.specs.base import Spec

Label = Literal["paper", "figure"]
LABELS: dict[Label, str] = {"paper": "printed in the paper", "figure": "read off a plot of the paper"}


class Series(Spec):
    """One curve or row of the paper: values of `metric` by what `by` names."""

    id: str = Field(description="unique; experiment and curve")
    experiment: Literal["A", "B", "C", "noise", "detection"]
    network: str
    network_inferred: bool = Field(False, description="the paper does not name the network")
    data: str
    norm: str
    label: Label
    metric: Literal["error_percent", "esm_sigma", "top1_percent", "ap_percent"]
    tolerance: float = Field(gt=0, description="of reading, in the metric's unit")
    by: Literal["epoch", "layer", "noise", "batch_size_per_gpu"]
    values: dict[float, float] = Field(min_length=1)

    @model_validator(mode="after")
    def _in_order(self) -> "Series":
        if list(self.values) != sorted(self.values):
            raise ValueError(f"values of {self.id} must rise in {self.by}: {list(self.values)}")
        if self.metric.endswith("_percent") and not all(0 <= v <= 100 for v in self.values.values()):
            raise ValueError(f"{self.id}: a percentage is between 0 and 100")
        return self


class Paper(Spec):
    """The whole of it."""

    title: str
    address: str
    series: tuple[Series, ...]

    @model_validator(mode="after")
    def _unique(self) -> "Paper":
        ids = [one.id for one in self.series]
        if len(set(ids)) < len(ids):
            raise ValueError(f"ids must be unique: {sorted({i for i in ids if ids.count(i) > 1})}")
        return self

    def __getitem__(self, series_id: str) -> Series:
        """The series of this id. Raises KeyError."""
        for one in self.series:
            if one.id == series_id:
                return one
        raise KeyError(series_id)

    def of(self, experiment: str) -> list[Series]:
        """The series of an experiment: A, B, C, noise or detection."""
        return [one for one in self.series if one.experiment == experiment]


@cache
def load_paper() -> Paper:
    """What paper.yaml beside this file holds."""
    return parse_paper(files("reports.paper").joinpath("paper.yaml").read_text(encoding="utf-8"))


def parse_paper(text: str) -> Paper:
    """Raise ValueError, in one line, for what is no such file."""
    try:
        return Paper.model_validate(yaml.safe_load(text))
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        raise ValueError(f"paper.yaml: {'.'.join(map(str, first['loc']))}: {first['msg']}") from None
