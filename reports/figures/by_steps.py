"""Figures against the norm batch or the number of ranks: accuracy and shift, speed and how it scales."""

from collections.abc import Iterator
from functools import partial

import pandas as pd

from reports.accuracy import ACCURACY, accuracy_name, accuracy_title
from reports.aggregate import HARDWARE, finite, once_for_each_hardware, scaling_efficiency
from reports.charts.scatter import front_chart, marks_of, names_batches
from reports.charts.steps import CELL, MAX_RUN_MARKS, Steps, steps_chart
from reports.figures.figure import MAX_PANELS, Context, Figure, Panel, cells_of, is_crossed, make_figure
from reports.frames import Frames
from reports.numbers import plural, short
from reports.seed_statistics import not_surpassed
from reports.theme import Variant
from suite.metrics import SHIFT_MU, SHIFT_SIGMA

_SHIFTS = (
    (f"{SHIFT_SIGMA}_common", "Scaled ESM σ, mean over common layers", "Scaled ESM σ", True),
    (f"{SHIFT_MU}_common", "Scaled ESM μ, mean over common layers", "Scaled ESM μ", True),
)
_MAX_MEANS = 24


def by_norm_batch(_: Frames, context: Context, palette: list[Variant]) -> Iterator[Figure]:
    """Accuracy and mean shift of completed runs."""
    done = context.completed
    crossed = not done.empty and is_crossed(done)
    apart = ("batch_size_per_gpu",) if crossed else ()
    panels, most = [], 0
    name, heading = accuracy_name(done), accuracy_title(done)
    accuracy = (ACCURACY, f"Final {name}", f"{heading} (%)", False)
    for metric, title, axis, from_zero in (accuracy, *_SHIFTS):
        values = with_value(done, metric)
        if not values.empty:
            axes = Steps("norm_batch_size", "Norm batch (samples, log scale)", axis, from_zero, apart)
            panels.append(Panel(title, described(values, title), partial(steps_chart, values, axes)))
            most = max(most, len(values))
    several = done[done.has_bn].norm_batch_size.nunique() > 1
    caption = (
        "The large marks are means over seeds with their 95 % t interval, or with both values of two seeds"
    )
    caption += "; each small mark is a run." if most <= MAX_RUN_MARKS else "."
    if several and crossed:
        caption += " Each batch per GPU has its own line."
    if not done.has_bn.all():
        caption += " A norm without BN has no estimated statistics, hence no ESM"
        caption += (
            ", and no norm batch: its dashed line and band are its mean and interval." if several else "."
        )
    title = "Accuracy and shift by norm batch"
    yield from make_figure(context, "by-norm-batch", "summary", title, caption, panels, done, palette)


def with_value(runs: pd.DataFrame, metric: str) -> pd.DataFrame:
    """The runs that have a finite value of this metric, as `value`."""
    measured = finite(runs, metric)
    return cells_of(measured).drop(columns=["run", "state"]).assign(value=measured[metric])


def described(values: pd.DataFrame, title: str) -> str:
    """Describe the means over seeds for a screen reader, at most _MAX_MEANS of them."""
    means = values.groupby(["norm_batch_size", "norm", "has_bn"], sort=False, observed=True).value.mean()
    texts = means.iloc[:_MAX_MEANS].reset_index().to_dict("records")
    parts = [
        f"{m['norm']} {short(m['value'])}" + (f" at norm batch {m['norm_batch_size']}" if m["has_bn"] else "")
        for m in texts
    ]
    parts += [f"and {len(means) - len(texts)} more"] if len(means) > len(texts) else []
    return f"{title}, mean over seeds: {'; '.join(parts)}"


SPEED = "images_per_s"


def throughput(frames: Frames, context: Context, palette: list[Variant]) -> Iterator[Figure]:
    """Images/s of a rank by norm batch or, where a device has runs on several numbers of ranks, by these.

    A run that was trained on another number of ranks too counts there as well.
    """
    runs = _measured(frames, context)
    panels: list[Panel] = []
    for device, here in runs.groupby("device", sort=False, observed=True):
        unit = "GPU" if (here.device_type == "cuda").all() else "rank"
        if here.world_size.nunique() > 1:
            panels += _scaling(str(device), unit, here)
        else:
            title = f"Images/s per {unit}, {_hardware(device, int(here.world_size.iloc[0]), unit)}"
            axes = Steps("norm_batch_size", "Norm batch (samples, log scale)", f"Images/s per {unit}", True)
            panels.append(_panel(here, axes, title, described(here, title)))
    caption = (
        "Each small mark is a run, the large one the mean over seeds with its 95 % interval, or with both "
        "values of two seeds. Evaluation is left out."
    )
    if any(panel.title.startswith("Scaling") for panel in panels):
        caption += " Scaling efficiency: images/s per rank, a share of those at the fewest ranks of a cell."
    title = "Throughput"
    shown = panels[:MAX_PANELS]
    if len(shown) < len(panels):
        caption += f" Drawn are {len(shown)} of {len(panels)} panels."
    yield from make_figure(context, "throughput", "throughput", title, caption, shown, runs, palette)


def _measured(frames: Frames, context: Context) -> pd.DataFrame:
    """Runs of the context's cells with a measured speed, once for each hardware that they ran on."""
    ids = context.completed.run_id
    runs = once_for_each_hardware(frames.runs[frames.runs.run_id.isin(ids)])
    runs = finite(runs, SPEED).dropna(subset=HARDWARE)
    ranks = runs.world_size.astype(int)
    measured: pd.DataFrame = runs.assign(world_size=ranks, value=runs[SPEED] / ranks)
    return measured


def _scaling(device: str, unit: str, runs: pd.DataFrame) -> Iterator[Panel]:
    axis = f"{unit}s".replace("rank", "Rank") + " (log scale)"
    axes = Steps("world_size", axis, f"Images/s per {unit}", True, ("norm_batch_size", "batch_size_per_gpu"))
    title = f"Images/s per {unit}, {device}"
    yield _panel(runs, axes, title, _by_ranks(runs, title, unit))
    share = runs.assign(value=scaling_efficiency(runs, CELL))
    share = share[share.value.notna()]
    if share.world_size.nunique() > 1:
        axes = Steps("world_size", axis, "Efficiency", True, axes.lines_by)
        title = f"Scaling efficiency, {device}"
        yield _panel(share, axes, title, _by_ranks(share, title, unit))


def _panel(runs: pd.DataFrame, axes: Steps, title: str, description: str) -> Panel:
    return Panel(title, description, partial(steps_chart, runs[[*CELL, "world_size", "seed", "value"]], axes))


def _by_ranks(runs: pd.DataFrame, title: str, unit: str) -> str:
    means = runs.groupby("world_size", as_index=False).value.mean()
    texts = [f"{short(v)} on {plural(n, unit)}" for n, v in zip(means.world_size, means.value, strict=True)]
    return f"{title}, mean: {'; '.join(texts)}"


def _hardware(device: object, ranks: int, unit: str) -> str:
    return f"{plural(ranks, unit)} of {device}"


def accuracy_by_throughput(_frames: Frames, context: Context, palette: list[Variant]) -> Iterator[Figure]:
    """Images/s against final top-1 with the Pareto front: a mark for each cell, a panel for each hardware."""
    done = finite(context.completed, SPEED, ACCURACY).dropna(subset=HARDWARE)
    axes = {SPEED: "Images/s", ACCURACY: f"{accuracy_title(done)} (%)"}
    cells, (x, y) = marks_of(done, [*HARDWARE, *CELL, "has_bn"], axes)
    if len(cells) < 2:
        return
    panels = []
    for _, here in cells.groupby(HARDWARE, sort=False, observed=True):
        title = _hardware(here.device.iloc[0], int(here.world_size.iloc[0]), "rank")
        front = "; ".join(
            f"{row.norm}{f' at norm batch {row.norm_batch_size}' if row.has_bn else ''}, "
            f"{short(row[SPEED])} images/s, {short(row[ACCURACY])} %"
            for _, row in not_surpassed(here, SPEED, ACCURACY).iterrows()
        )
        described = (
            f"Final {accuracy_name(done)} against images/s on {title}. On the Pareto front: {front or 'none'}"
        )
        panels.append(Panel(title, described, partial(front_chart, here, x, y)))
    caption = (
        f"Each mark is the mean over the seeds of a cell with its 95 % intervals, {names_batches(cells)}. "
        "Ringed: the Pareto front of what is shown, the cells for which no other is both faster and more "
        "accurate with intervals apart. A cell of fewer than three seeds has no interval: it has no ring, "
        "and surpasses none."
    )
    shown = panels[:MAX_PANELS]
    if len(shown) < len(panels):
        caption += f" Drawn for the first {len(shown)} of {len(panels)} kinds of hardware."
    title = "Accuracy by throughput"
    yield from make_figure(
        context, "accuracy-by-throughput", "throughput", title, caption, shown, cells, palette
    )
