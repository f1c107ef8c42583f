"""What a reader of the page can choose from: norms, norm batches, and whatever else varies.

A choice acts on everything that says which values it belongs to: on charts by parameters of their specs, on
figures, panels and rows of tables by hiding them.
"""

from dataclasses import dataclass

import pandas as pd

from reports.frames import AXIS_HEADERS, CONTEXT
from reports.theme import Variant

# Of the values of one axis: as many as a reader can look over.
MAX_VALUES = 24
# Axes along which the data within one chart differ.
CHART_AXES = ("norm", "norm_batch_size")
_WORDS = {
    "norm": ("norm", "norms"),
    "norm_batch_size": ("norm batch", "norm batches"),
    "arch": ("model", "models"),
    "data": ("data set", "data sets"),
    "settings": ("setting", "settings"),
    "global_batch_size": ("global batch", "global batches"),
}


@dataclass(frozen=True)
class Facet:
    """An axis with several values; `values` are those of `total` that can be chosen, as tables write them."""

    axis: str
    values: list[str]
    total: int

    @property
    def header(self) -> str:
        """The header of its column in tables."""
        return AXIS_HEADERS[self.axis]

    @property
    def words(self) -> tuple[str, str]:
        """For one value, and for several."""
        return _WORDS[self.axis]

    @property
    def is_number(self) -> bool:
        return self.axis.endswith("_size")


def facets(runs: pd.DataFrame, palette: list[Variant]) -> list[Facet]:
    """The axes along which these runs differ. Of norms, those of the palette can be chosen."""
    found = [Facet("norm", [variant.label for variant in palette], int(runs.norm.nunique()))]
    for axis in ("norm_batch_size", *CONTEXT):
        having = runs[runs.has_bn] if axis == "norm_batch_size" else runs
        weight = having[axis].value_counts()  # the most frequent first
        chosen = weight.index[:MAX_VALUES]
        ordered = (
            sorted(chosen) if axis.endswith("_size") else [v for v in runs[axis].unique() if v in chosen]
        )
        found.append(Facet(axis, [str(value) for value in ordered], len(weight)))
    return [facet for facet in found if facet.total > 1]


def notes(found: list[Facet]) -> list[str]:
    """What charts leave out, in sentences."""
    rules = {"norm": "BN, and those with the most completed runs"}
    return [
        f"Charts and filters have {len(f.values)} of {f.total} {f.words[1]}: "
        f"{rules.get(f.axis, 'those with the most runs')}."
        for f in found
        if len(f.values) < f.total
    ]
