"""Frames to figures: each a row of panels with one scale, so that panels compare at a glance."""

import math
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import altair as alt
import pandas as pd

from reports.charts import ChartStyle, LayeredChart, band_chart, crossed, seeds_chart
from reports.frames import CONTEXT, Frames
from reports.numbers import plural, short
from reports.theme import FILE, PAGE, Theme, Variant, variants
from suite.metrics import METRICS


@dataclass(frozen=True)
class Panel:
    """One chart. `draw` takes the medium's style."""

    title: str
    description: str
    draw: Callable[[ChartStyle], LayeredChart]


@dataclass(frozen=True)
class Figure:
    """Panels side by side under one caption; `slug` names its SVG file."""

    slug: str
    section: str
    title: str
    caption: str
    panels: list[Panel]
    shown: list[Variant]
    palette: list[Variant]

    def page_specs(self) -> list[dict[str, Any]]:
        """A Vega-Lite spec for each panel, as wide as its box and coloured by the style sheet."""
        style = ChartStyle(PAGE, "container", self.palette)
        return [self._spec(p.draw(style).properties(description=p.description), PAGE) for p in self.panels]

    def file_spec(self) -> dict[str, Any]:
        """One spec of all panels, with legend, for an SVG file."""
        style = ChartStyle(FILE, 290, self.shown, legend=True)
        charts = [panel.draw(style).properties(title=panel.title) for panel in self.panels]
        return self._spec(alt.concat(*charts, columns=3, spacing=30), FILE)

    @staticmethod
    def _spec(chart: LayeredChart | alt.ConcatChart, theme: Theme) -> dict[str, Any]:
        spec: dict[str, Any] = chart.to_dict()
        spec.pop("$schema", None)
        return spec | {"config": theme.config()}


def build_figures(frames: Frames) -> list[Figure]:
    """All figures that the runs have data for, in the report's order."""
    palette = variants(frames.runs)
    makers = [_by_norm_batch, _profiles, _curves]
    contexts = list(_contexts(frames))
    return [
        figure
        for make in makers
        for name, runs in contexts
        for figure in make(frames, runs, name, palette)
        if figure.panels
    ]


def _contexts(frames: Frames) -> Iterator[tuple[str, pd.DataFrame]]:
    """Counted runs that share a model, data, settings and global batch, named by what varies."""
    runs = frames.runs[frames.runs.counted]
    naming = [c for c in CONTEXT if runs[c].nunique() > 1]
    for _, group in runs.groupby(CONTEXT, sort=False):
        first = group.iloc[0]
        parts = [f"global batch {first[c]}" if c == "global_batch_size" else str(first[c]) for c in naming]
        yield ", ".join(part for part in parts if part), group


def _by_norm_batch(_: Frames, runs: pd.DataFrame, name: str, palette: list[Variant]) -> Iterator[Figure]:
    done = runs[runs.state == "completed"]
    panels = []
    for metric, title, axis, from_zero in (
        ("top1_percent", "Final top-1", "Top-1 (%)", False),
        ("esm_sigma_common", "Mean ESM σ, common layers", "ESM σ", True),
        ("esm_mu_common", "Mean ESM μ, common layers", "ESM μ", True),
    ):
        columns = ["norm", "norm_batch_size", "batch_size_per_gpu", "seed", metric]
        values = done.loc[done[metric].map(math.isfinite), columns].rename(columns={metric: "value"})
        if not values.empty:
            panels.append(
                Panel(title, _described(values, title), partial(_draw_seeds, values, axis, from_zero))
            )
    mean = "the line joins the means" if done.norm_batch_size.nunique() > 1 else "the large one is the mean"
    caption = f"Each small mark is a run; {mean} over seeds."
    if done.norm_batch_size.nunique() > 1 and crossed(done):
        caption += " Each batch per GPU has its own line."
    if (done.norm_rank == 2).any():
        caption += " A norm without BN has no estimated statistics, hence no ESM."
    yield _figure(
        "by-norm-batch", "summary", "Accuracy and shift by norm batch", caption, panels, done, palette, name
    )


def _draw_seeds(values: pd.DataFrame, axis: str, from_zero: bool, style: ChartStyle) -> LayeredChart:
    return seeds_chart(values, style, axis, from_zero)


def _described(values: pd.DataFrame, title: str) -> str:
    means = (
        values.groupby(["norm_batch_size", "norm"], sort=False).value.mean().reset_index().to_dict("records")
    )
    parts = [f"{m['norm']} {short(m['value'])} at norm batch {m['norm_batch_size']}" for m in means]
    return f"{title}, mean over seeds: {'; '.join(parts)}"


def _profiles(frames: Frames, runs: pd.DataFrame, name: str, palette: list[Variant]) -> Iterator[Figure]:
    done = runs[runs.state == "completed"]
    for metric, symbol in (("esm_sigma", "σ"), ("esm_mu", "μ")):
        values = frames.layers[(frames.layers.metric == metric) & frames.layers.value.map(math.isfinite)]
        values = values.merge(
            done[["run", "norm", "norm_batch_size", "batch_size_per_gpu", "seed"]], on="run"
        )
        caption = (
            "BN layers in forward order; a layer that a variant has replaced has no point. "
            "Line: mean over seeds; band: lowest to highest seed."
        )
        style = {
            "x": "position",
            "axis": f"ESM {symbol}",
            "x_title": "Layer (forward order)",
            "label": "layer",
        }
        panels = _banded(values, style, log_if_wide=True)
        yield _figure(
            f"{metric}-by-depth",
            "shift",
            f"Depth profile of ESM {symbol}",
            caption,
            panels,
            values,
            palette,
            name,
        )


def _curves(frames: Frames, runs: pd.DataFrame, name: str, palette: list[Variant]) -> Iterator[Figure]:
    for metric, split, title in (
        ("top1_percent", "val", "Evaluation top-1 by epoch"),
        ("loss", "train", "Training loss by epoch"),
    ):
        keep = (frames.curves.metric == metric) & (frames.curves.split == split)
        values = frames.curves[keep & frames.curves.value.map(math.isfinite)]
        values = values.merge(
            runs[["run", "norm", "norm_batch_size", "batch_size_per_gpu", "seed", "state"]], on="run"
        )
        caption = "Line: mean over completed seeds; band: lowest to highest."
        if (values.state != "completed").any():
            caption += " Thin dashed lines are runs that did not complete, as far as they got."
        unit = METRICS[metric].unit
        style = {
            "x": "epoch",
            "axis": f"{METRICS[metric].title} ({unit})",
            "x_title": "Epoch",
            "label": "epoch",
        }
        panels = _banded(values, style, log_if_wide=False)
        yield _figure(
            f"{metric.split('_')[0]}-by-epoch", "curves", title, caption, panels, values, palette, name
        )


def _banded(values: pd.DataFrame, text: dict[str, str], log_if_wide: bool) -> list[Panel]:
    """A panel for each norm batch (and batch per GPU, where it is a second axis), on one y scale."""
    if values.empty:
        return []
    low, high = float(values.value.min()), float(values.value.max())
    # A wider range than this leaves the small values flat on a linear axis.
    log = log_if_wide and low > 0 and high / low > 100
    two_axes = crossed(values)
    panels = []
    keys = ["norm_batch_size", *(["batch_size_per_gpu"] if two_axes else [])]
    for key, group in values.groupby(keys):
        title = f"Norm batch {key[0]}" + (f", {key[1]} per GPU" if two_axes else "")
        seeds = plural(int(group.seed.nunique()), "seed")
        described = f"{text['axis']} at {title.lower()}: {', '.join(group.norm.unique())}, {seeds}"
        panels.append(Panel(title, described, partial(_draw_band, group, text, (low, high), log)))
    return panels


def _draw_band(
    values: pd.DataFrame, text: dict[str, str], extent: tuple[float, float], log: bool, style: ChartStyle
) -> LayeredChart:
    return band_chart(values, style, text, extent, log)


def _figure(
    slug: str,
    section: str,
    title: str,
    caption: str,
    panels: list[Panel],
    values: pd.DataFrame,
    palette: Sequence[Variant],
    name: str,
) -> Figure:
    present = set(values.norm)
    shown = [variant for variant in palette if variant.label in present]
    suffix = re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")
    full_title = f"{title}: {name}" if name else title
    return Figure(
        f"{slug}-{suffix}" if suffix else slug, section, full_title, caption, panels, shown, list(palette)
    )
