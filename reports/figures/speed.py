"""Speed: images/s of a rank, how it scales, and what accuracy it goes with."""

from collections.abc import Iterator
from functools import partial

import pandas as pd

from reports.aggregate import HARDWARE, finite, once_for_each_hardware, scaling_efficiency
from reports.charts import Quantity, Steps, front_chart, names_batches, steps_chart
from reports.figures.figure import MAX_PANELS, Context, Figure, Panel, make_figure
from reports.figures.norm_batch_axis import described
from reports.frames import Frames
from reports.numbers import plural, short
from reports.seed_statistics import pareto_front
from reports.theme import Variant

SPEED, ACCURACY = "images_per_s", "top1_percent"
_CELL = ["norm", "norm_batch_size", "batch_size_per_gpu"]


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
    caption = "Each small mark is a run, the large one the mean over seeds. Evaluation is left out."
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
    share = runs.assign(value=scaling_efficiency(runs, _CELL))
    share = share[share.value.notna()]
    if share.world_size.nunique() > 1:
        axes = Steps("world_size", axis, "Efficiency", True, axes.lines_by)
        title = f"Scaling efficiency, {device}"
        yield _panel(share, axes, title, _by_ranks(share, title, unit))


def _panel(runs: pd.DataFrame, axes: Steps, title: str, description: str) -> Panel:
    return Panel(
        title, description, partial(steps_chart, runs[[*_CELL, "world_size", "seed", "value"]], axes)
    )


def _by_ranks(runs: pd.DataFrame, title: str, unit: str) -> str:
    means = runs.groupby("world_size", as_index=False).value.mean()
    texts = [f"{short(v)} on {plural(n, unit)}" for n, v in zip(means.world_size, means.value, strict=True)]
    return f"{title}, mean: {'; '.join(texts)}"


def _hardware(device: object, ranks: int, unit: str) -> str:
    return f"{plural(ranks, unit)} of {device}"


def accuracy_by_throughput(_frames: Frames, context: Context, palette: list[Variant]) -> Iterator[Figure]:
    """Images/s against final top-1 with the Pareto front: a mark for each cell, a panel for each hardware."""
    done = finite(context.completed, SPEED, ACCURACY).dropna(subset=HARDWARE)
    cells = done.groupby([*HARDWARE, *_CELL], as_index=False, sort=False, observed=True).agg(
        **{name: (name, "mean") for name in (SPEED, ACCURACY)}, seeds=("seed", "nunique")
    )
    if len(cells) < 2:
        return
    x, y = (
        Quantity(name, title, (float(cells[name].min()), float(cells[name].max())))
        for name, title in ((SPEED, "Images/s"), (ACCURACY, "Top-1 (%)"))
    )
    panels = []
    for _, here in cells.groupby(HARDWARE, sort=False, observed=True):
        title = _hardware(here.device.iloc[0], int(here.world_size.iloc[0]), "rank")
        front = "; ".join(
            f"{row.norm} at norm batch {row.norm_batch_size}, {short(row[SPEED])} images/s, "
            f"{short(row[ACCURACY])} %"
            for _, row in pareto_front(here, SPEED, ACCURACY).iterrows()
        )
        described = f"Final top-1 against images/s on {title}. On the Pareto front: {front}"
        panels.append(Panel(title, described, partial(front_chart, here, x, y)))
    caption = (
        f"Each mark is the mean over the seeds of a cell, {names_batches(cells)}. Ringed, on the dashed "
        "line: the Pareto front of what is shown, where no other cell is both faster and more accurate."
    )
    shown = panels[:MAX_PANELS]
    if len(shown) < len(panels):
        caption += f" Drawn for the first {len(shown)} of {len(panels)} kinds of hardware."
    title = "Accuracy by throughput"
    yield from make_figure(
        context, "accuracy-by-throughput", "throughput", title, caption, shown, cells, palette
    )
