"""Training curves."""

from collections.abc import Iterator

from reports.aggregate import finite
from reports.figures.bands import banded
from reports.figures.figure import Context, Figure, cells_of, make_figure
from reports.frames import Frames
from reports.theme import Variant
from suite.metrics import METRICS


def curves(frames: Frames, context: Context, palette: list[Variant]) -> Iterator[Figure]:
    """Evaluation's top-1 and training's loss by epoch."""
    for metric, split, title in (
        ("top1_percent", "val", "Evaluation top-1 by epoch"),
        ("loss", "train", "Training loss by epoch"),
    ):
        keep = (frames.curves.metric == metric) & (frames.curves.split == split)
        values = frames.curves.loc[keep, ["run", "epoch", "value"]]
        values = finite(values, "value").merge(cells_of(context.runs), on="run")
        axis = f"{METRICS[metric].title} ({METRICS[metric].unit})"
        panels, texts = banded(values, "epoch", "Epoch", "epoch", axis, log_if_wide=False)
        caption = f"Line: mean over completed seeds; band: lowest to highest.{texts}"
        slug = f"{metric.partition('_')[0]}-by-epoch"
        yield from make_figure(context, slug, "curves", title, caption, panels, values, palette)
