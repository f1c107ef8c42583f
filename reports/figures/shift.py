"""The shift layer by layer, over training, and beside the accuracy."""

from collections.abc import Iterator
from functools import partial

import pandas as pd

from reports.accuracy import ACCURACY, accuracy_name, accuracy_title
from reports.aggregate import finite
from reports.charts.heat import heat_chart
from reports.charts.scatter import marks_of, names_batches, path_chart
from reports.charts.steps import CELL
from reports.figures.bands import banded
from reports.figures.figure import MAX_PANELS, Context, Figure, Panel, cells_of, make_figure
from reports.frames import Frames
from reports.numbers import plural, short
from reports.seed_statistics import mean_intervals, thinned
from reports.theme import Variant
from suite.metrics import SHIFT_MU, SHIFT_SIGMA

SHIFT = f"{SHIFT_SIGMA}_common"
# Across a panel: narrower cells are not seen.
MAX_EPOCHS = 40


def profiles(frames: Frames, context: Context, palette: list[Variant]) -> Iterator[Figure]:
    """Scaled ESM σ and μ of completed runs along the depth of the network; the first σ opens the page."""
    for metric, symbol, section in (
        (SHIFT_SIGMA, "σ", "answer" if context.is_first else "shift"),
        (SHIFT_MU, "μ", "shift"),
    ):
        values = frames.layers.loc[frames.layers.metric == metric, ["run", "layer", "position", "value"]]
        values = finite(values, "value").merge(cells_of(context.completed), on="run")
        panels, texts = banded(
            values, "position", "Layer (forward order)", "layer", f"Scaled ESM {symbol}", log_if_wide=True
        )
        caption = (
            "BN layers in forward order; a layer that a variant has replaced has no point, nor has a norm "
            f"without BN. Line: mean over seeds; band: lowest to highest seed.{texts}"
        )
        title = f"Depth profile of scaled ESM {symbol}"
        yield from make_figure(
            context, f"{metric}-by-depth", section, title, caption, panels, values, palette
        )


def accuracy_by_shift(_: Frames, context: Context, palette: list[Variant]) -> Iterator[Figure]:
    """Mean scaled ESM σ against final top-1, a mark for each cell; a line for a norm that has no ESM."""
    done = context.completed
    free = finite(done[~done.has_bn], ACCURACY)
    done = finite(done, SHIFT, ACCURACY)
    name = accuracy_name(done)
    titles = {SHIFT: "Scaled ESM σ", ACCURACY: f"{accuracy_title(done)} (%)"}
    cells, (x, y) = marks_of(done, CELL, titles)
    if len(cells) < 2:
        return
    levels = mean_intervals(free.assign(value=free[ACCURACY]), ["norm"])
    y = y.reaching(levels)
    by_shift = cells.sort_values(SHIFT)
    texts = "; ".join(
        f"{row.norm} at norm batch {row.norm_batch_size}, scaled ESM σ {short(row[SHIFT])}, "
        f"{name} {short(row[ACCURACY])} %"
        for row in (by_shift.iloc[0], by_shift.iloc[-1])
    )
    texts += "".join(
        f"; {row.norm}, without ESM, {name} {short(row.value)} %" for _, row in levels.iterrows()
    )
    panel = Panel(
        f"Final {name} against mean scaled ESM σ, common layers",
        f"Final {name} against mean scaled ESM σ of {plural(len(cells), 'cell')}. "
        f"Least and greatest shift: {texts}",
        partial(path_chart, cells, levels, x, y),
    )
    caption = (
        f"Each mark is the mean over the seeds of a cell, with its 95 % intervals, {names_batches(cells)}; a "
        "thin line joins those of a norm. To the left is less shift, upwards more accuracy."
    )
    if len(levels):
        caption += " A norm without BN has no ESM: its line and band are its mean and interval."
    title = "Accuracy by shift"
    shown = pd.concat([cells, free[["norm", "norm_batch_size"]]])
    yield from make_figure(context, "accuracy-by-shift", "shift", title, caption, [panel], shown, palette)


def heat_maps(frames: Frames, context: Context, palette: list[Variant]) -> Iterator[Figure]:
    """Scaled ESM σ of each layer at each probed epoch: where runs were probed at two epochs or more."""
    runs = context.completed
    runs = runs[runs.num_bn_layers > 0]
    labels = [variant.label for variant in palette if (runs.norm == variant.label).any()]
    sizes = sorted(runs.norm_batch_size.unique())
    if len(labels) * len(sizes) > MAX_PANELS:
        sizes = sizes[:1]
    panes: list[tuple[str, int, pd.DataFrame]] = []
    for size, label in ((size, label) for size in sizes for label in labels):
        chosen = runs[(runs.norm == label) & (runs.norm_batch_size == size)]
        values = _probed(frames, chosen)
        if values.epoch.nunique() > 1:
            panes.append((label, size, values))
        if len(panes) == MAX_PANELS:
            break
    if not panes:
        return
    together = pd.concat([values for _, _, values in panes])
    extent = (float(together.value.min()), float(together.value.max()))
    depth = int(together.position.max()) + 1
    panels = [_heat_panel(*pane, extent, depth) for pane in panes]
    caption = (
        "Each cell is a layer at an epoch, mean over seeds; grey where a variant has no BN layer. "
        "One colour scale for all panels."
    )
    if len(sizes) == 1 and runs.norm_batch_size.nunique() > 1:
        caption += f" At the smallest norm batch, {sizes[0]}."
    drawn = len({label for label, _, _ in panes})
    if drawn < len(labels):
        caption += f" Drawn for {drawn} of {len(labels)} norms: those probed at several epochs"
        caption += f", {MAX_PANELS} at most."
    shown = pd.DataFrame([pane[:2] for pane in panes], columns=["norm", "norm_batch_size"])
    title = "Scaled ESM σ by layer and epoch"
    yield from make_figure(
        context, f"{SHIFT_SIGMA}-by-epoch", "shift", title, caption, panels, shown, palette
    )


def _probed(frames: Frames, runs: pd.DataFrame) -> pd.DataFrame:
    values = finite(frames.shift_by_epoch(runs.run.tolist(), SHIFT_SIGMA), "value")
    return values.loc[values.epoch.isin(thinned(values.epoch.unique().tolist(), MAX_EPOCHS))]


def _heat_panel(
    label: str, size: int, values: pd.DataFrame, extent: tuple[float, float], depth: int
) -> Panel:
    title = f"{label}, norm batch {size}"
    means = values.groupby("epoch").value.mean()
    texts = " and ".join(
        f"{short(means[epoch])} at epoch {epoch}" for epoch in (means.index[0], means.index[-1])
    )
    return Panel(
        title,
        f"Scaled ESM σ by layer and epoch of {title}; mean over layers {texts}",
        partial(heat_chart, values, "Scaled ESM σ", extent, depth),
        {"norm": label, "norm_batch_size": str(size)},
    )
