"""Panels of means with bands, one for each norm batch; training curves."""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import partial

import pandas as pd

from reports.accuracy import accuracy_metrics, accuracy_name
from reports.aggregate import finite
from reports.charts.band import BandAxes, band_chart
from reports.charts.style import is_wide
from reports.figures.figure import MAX_PANELS, Context, Figure, Panel, cells_of, is_crossed, make_figure
from reports.frames import Frames
from reports.numbers import plural
from reports.seed_statistics import extremes, thinned
from reports.theme import Variant
from suite.metrics import METRICS

MAX_UNFINISHED = 12
# Steps of a line: a panel has no pixels for more.
MAX_STEPS = 100


def banded(
    values: pd.DataFrame, column: str, title: str, label: str, value_title: str, log_if_wide: bool
) -> tuple[list[Panel], str]:
    """A panel for each norm batch (and batch per GPU, where it is a second axis), and what they leave out.

    All have one y scale. A norm without BN has no norm batch: it is in each panel. `values`: norm, has_bn,
    norm_batch_size, batch_size_per_gpu, run, seed, state, value and the columns named by `column` and
    `label`. Completed runs go into the bands, others are drawn one by one.
    """
    if values.empty:
        return [], ""
    steps = thinned(values[column].unique().tolist(), MAX_STEPS) if column == "epoch" else None
    values = values if steps is None else values[values[column].isin(steps)]
    bound = values[values.has_bn]
    by = ["norm_batch_size", *(["batch_size_per_gpu"] if is_crossed(values) else [])]
    keys = list(bound[by].drop_duplicates().sort_values(by).itertuples(index=False, name=None))
    chosen = thinned(range(len(keys)), MAX_PANELS)
    unfinished, texts = _furthest(values[values.state != "completed"])
    means = extremes(
        values[values.state == "completed"],
        list(dict.fromkeys(["norm", "has_bn", *_BATCHES, column, label])),
    )
    drawn = pd.concat([means.value, means.low, means.high, unfinished.value])
    extent = (float(drawn.min()), float(drawn.max()))
    axes = BandAxes(column, title, label, value_title, extent, log_if_wide and is_wide(*extent))
    panels = [
        replace(panel, on_page=place in chosen or not keys)
        for place, panel in enumerate(_panels(means, unfinished, by, keys or [()], axes))
    ]
    if len(chosen) < len(keys):
        texts += f" The page has {len(chosen)} of {len(keys)} norm batches, the files have all."
    if keys and not values.has_bn.all():
        texts += " A norm without BN has no norm batch, and is the same in each panel."
    return panels, texts


_BATCHES = ["norm_batch_size", "batch_size_per_gpu"]


def _furthest(unfinished: pd.DataFrame) -> tuple[pd.DataFrame, str]:
    """Those of the runs that got furthest, and a sentence on them."""
    lengths = unfinished.groupby("run").size().sort_values(ascending=False, kind="stable")
    if lengths.empty:
        return unfinished, ""
    texts = " Thin dashed lines are runs that did not complete, as far as they got"
    if len(lengths) > MAX_UNFINISHED:
        texts += f" ({MAX_UNFINISHED} of {len(lengths)}, those that got furthest)"
    return unfinished[unfinished.run.isin(lengths.index[:MAX_UNFINISHED])], f"{texts}."


def _panels(
    means: pd.DataFrame,
    unfinished: pd.DataFrame,
    by: Sequence[str],
    keys: Sequence[tuple[int, ...]],
    axes: BandAxes,
) -> Iterator[Panel]:
    """`keys`: the values of `by` of each panel; an empty one where no norm has a norm batch."""
    for key in keys:
        here, there = (
            frame[_belongs(frame, by, key)].drop(columns=["has_bn", *_BATCHES])
            for frame in (means, unfinished)
        )
        title = f"Norm batch {key[0]}" if key else "All norms"
        title += f", {key[1]} per GPU" if len(key) > 1 else ""
        seeds = plural(int(here.seeds.max()) if len(here) else 0, "seed")
        norms = ", ".join(pd.concat([here.norm, there.norm]).astype(str).unique())
        yield Panel(
            title,
            f"{axes.value_title}, {title.lower()}: {norms}, {seeds}",
            partial(band_chart, here, there, axes),
            {"norm_batch_size": str(key[0])} if key else {},
        )


def _belongs(frame: pd.DataFrame, by: Sequence[str], key: tuple[int, ...]) -> pd.Series:
    """Return which rows a panel has: those of its norm batch, and the norms without one."""
    has_bn = frame.has_bn.astype(bool)
    if not key:
        return ~has_bn
    is_there = (frame[list(by)] == list(key)).all(axis=1)
    same_gpus = frame.batch_size_per_gpu == key[1] if len(key) > 1 else True
    return is_there & has_bn | ~has_bn & same_gpus


def curves(frames: Frames, context: Context, palette: list[Variant]) -> Iterator[Figure]:
    """Evaluation's accuracy and training's loss by epoch."""
    name = accuracy_name(context.runs)
    measured = [(metric, "val", f"Evaluation {name} by epoch") for metric in accuracy_metrics(context.runs)]
    for metric, split, title in (*measured, ("loss", "train", "Training loss by epoch")):
        keep = (frames.curves.metric == metric) & (frames.curves.split == split)
        values = frames.curves.loc[keep, ["run", "epoch", "value"]]
        values = finite(values, "value").merge(cells_of(context.runs), on="run")
        axis = f"{METRICS[metric].title} ({METRICS[metric].unit})"
        panels, texts = banded(values, "epoch", "Epoch", "epoch", axis, log_if_wide=False)
        caption = f"Line: mean over completed seeds; band: lowest to highest.{texts}"
        slug = f"{metric.partition('_')[0]}-by-epoch"
        yield from make_figure(context, slug, "curves", title, caption, panels, values, palette)
