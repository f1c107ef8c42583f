"""A figure: a row of panels with one scale, so that panels compare at a glance."""

import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

import pandas as pd

from reports.charts.style import ChartStyle, Spec, parameter
from reports.filters import CHART_AXES
from reports.frames import CONTEXT, Frames
from reports.theme import FILE, PAGE, Variant

# Side by side, more panels than these are not compared.
MAX_PANELS = 6
Draw = Callable[[ChartStyle], Spec]


@dataclass(frozen=True)
class Panel:
    """One chart. `draw` takes the medium's style; `cell` is the one value of an axis that all of it has.

    `on_page`: files have all panels, a page as many as are compared side by side.
    """

    title: str
    description: str
    draw: Draw
    cell: dict[str, str] = field(default_factory=dict)
    on_page: bool = True


@dataclass(frozen=True)
class Context:
    """Runs that share a model, data, settings and global batch, named by what varies between contexts."""

    name: str
    cell: dict[str, str]
    runs: pd.DataFrame
    is_first: bool = True

    @property
    def completed(self) -> pd.DataFrame:
        return self.runs[self.runs.state == "completed"]


@dataclass(frozen=True)
class Figure:
    """Panels side by side under one caption; `slug` names its files.

    `kind`: its title without `context`, which names its runs where there are several contexts; a page shows
    figures of one kind as one. `cell`: the values of axes that all its runs share, where others differ.
    `batches`: its norm batches. `on_page`: files have all figures, a page as many as it can draw.
    """

    slug: str
    section: str
    kind: str
    context: str
    caption: str
    panels: list[Panel]
    shown: list[Variant]
    palette: list[Variant]
    cell: dict[str, str]
    batches: list[str]
    on_page: bool = True

    @property
    def title(self) -> str:
        return f"{self.kind}: {self.context}" if self.context else self.kind

    @property
    def fits(self) -> dict[str, list[str]]:
        """Of which values a choice has to have one; a norm without BN goes with every norm batch."""
        free = any(not variant.has_bn for variant in self.shown)
        return {axis: values for axis, values in self.holds.items() if axis != "norm_batch_size" or not free}

    @property
    def holds(self) -> dict[str, list[str]]:
        """The values of the axes that the data within its charts have."""
        shown = ([variant.label for variant in self.shown], self.batches)
        return dict(zip(CHART_AXES, shown, strict=True))

    @property
    def page_panels(self) -> list[Panel]:
        return [panel for panel in self.panels if panel.on_page]

    def page_specs(self) -> list[dict[str, Any]]:
        """A Vega-Lite spec for each of `page_panels`: as wide as its box, with filters."""
        specs = []
        for panel in self.page_panels:
            style = ChartStyle(PAGE, "container", self.palette, filters=CHART_AXES)
            specs.append(_whole(panel.draw(style) | {"description": panel.description}, style))
        parameters = [{"name": parameter(axis), "value": values} for axis, values in self.holds.items()]
        for spec in specs:
            spec["params"] = parameters
            spec["layer"][0]["params"] = [_zoom(spec["layer"][0]["encoding"])]
            spec["usermeta"] = spec.get("usermeta", {}) | {"tips": _take_tips(spec["layer"])}
        return specs

    def file_spec(self) -> dict[str, Any]:
        """One spec of all panels, with legend, for an SVG file."""
        style = ChartStyle(FILE, 290, self.shown, legend=True)
        charts = [panel.draw(style) | {"title": panel.title} for panel in self.panels]
        for chart in charts:
            chart.pop("usermeta", None)  # of the page's script
        return _whole({"concat": charts, "columns": 3, "spacing": 30}, style)


def _whole(spec: Spec, style: ChartStyle) -> Spec:
    return spec | {"config": style.theme.config(), "datasets": style.datasets}


def _take_tips(layers: list[dict[str, Any]]) -> list[list[list[str]]]:
    """For each layer the field and the title of each line of its tooltip, which Vega then does not compute.

    Vega would write the texts of every mark before any is pointed at; the page's script writes those of one.
    """
    found = [layer["encoding"].pop("tooltip", []) for layer in layers]
    return [[[one["field"], one["title"]] for one in tips] for tips in found]


def _zoom(encoding: dict[str, Any]) -> dict[str, Any]:
    """Ctrl or ⌘ with the wheel zooms, a mouse drags: plain scrolling and touch stay the page's."""
    drag = "[pointerdown[event.pointerType === 'mouse'], window:pointerup] > window:pointermove!"
    return {
        "name": "zoom",
        "bind": "scales",
        "select": {
            "type": "interval",
            "encodings": [c for c in ("x", "y") if encoding[c]["type"] == "quantitative"],
            "zoom": "wheel![event.ctrlKey || event.metaKey]",
            "translate": drag,
            "clear": "dblclick",
        },
    }


def contexts(runs: pd.DataFrame, limit: int) -> list[Context]:
    """The first contexts of these runs, in their order."""
    naming = [c for c in CONTEXT if runs[c].nunique() > 1]
    found: list[Context] = []
    for _, group in runs.groupby(CONTEXT, sort=False, observed=True):
        first = group.iloc[0]
        parts = [f"global batch {first[c]}" if c == "global_batch_size" else str(first[c]) for c in naming]
        cell = {axis: str(first[axis]) for axis in naming}
        found.append(Context(", ".join(part for part in parts if part), cell, group, not found))
        if len(found) == limit:
            break
    return found


def make_figure(
    context: Context,
    slug: str,
    section: str,
    title: str,
    caption: str,
    panels: list[Panel],
    values: pd.DataFrame,
    palette: list[Variant],
) -> Iterator[Figure]:
    """The figure, named after its context, if it has a panel.

    `values`: what it shows, with norm and norm_batch_size.
    """
    if not panels:
        return
    present = set(values.norm)
    suffix = re.sub(r"[^a-z0-9]+", "-", context.name.lower()).strip("-")
    yield Figure(
        f"{slug}-{suffix}" if suffix else slug,
        section,
        title,
        context.name,
        caption,
        panels,
        [variant for variant in palette if variant.label in present],
        palette,
        context.cell,
        [str(size) for size in sorted(values.norm_batch_size.unique())],
    )


Maker = Callable[[Frames, Context, list[Variant]], Iterator[Figure]]


def is_crossed(runs: pd.DataFrame) -> bool:
    """Whether one norm batch meets several batches per GPU, so that the two are separate axes."""
    return bool(runs.groupby("norm_batch_size").batch_size_per_gpu.nunique().max() > 1)


def cells_of(runs: pd.DataFrame) -> pd.DataFrame:
    """What a chart says of each run: its axes and seed."""
    return runs[["run", "norm", "has_bn", "norm_batch_size", "batch_size_per_gpu", "seed", "state"]]


MAX_LENGTH = 80


def slug(text: str) -> str:
    """Lower-case ASCII letters and digits, with hyphens between; may be empty."""
    return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")


def distinct(names: Iterable[str]) -> list[str]:
    """The names, cut to MAX_LENGTH, with a number behind those that came before."""
    found: dict[str, None] = {}
    for name in names:
        short = name[:MAX_LENGTH].rstrip("-") or "unnamed"
        tries, candidate = 1, short
        while candidate in found:
            tries += 1
            candidate = f"{short}-{tries}"
        found[candidate] = None
    return list(found)
