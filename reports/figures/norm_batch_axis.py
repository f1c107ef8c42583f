"""Figures of accuracy and shift against the norm batch."""

from collections.abc import Iterator
from functools import partial

import pandas as pd

from reports.aggregate import finite
from reports.charts import Steps, steps_chart
from reports.charts.steps import MAX_RUN_MARKS
from reports.figures.figure import Context, Figure, Panel, cells_of, is_crossed, make_figure
from reports.frames import Frames
from reports.numbers import short
from reports.theme import Variant

_MEASURES = (
    ("top1_percent", "Final top-1", "Top-1 (%)", False),
    ("esm_sigma_common", "Mean ESM σ, common layers", "ESM σ", True),
    ("esm_mu_common", "Mean ESM μ, common layers", "ESM μ", True),
)
_MAX_MEANS = 24


def by_norm_batch(_: Frames, context: Context, palette: list[Variant]) -> Iterator[Figure]:
    """Accuracy and mean shift of completed runs."""
    done = context.completed
    crossed = not done.empty and is_crossed(done)
    apart = ("batch_size_per_gpu",) if crossed else ()
    panels, most = [], 0
    for metric, title, axis, from_zero in _MEASURES:
        values = with_value(done, metric)
        if not values.empty:
            axes = Steps("norm_batch_size", "Norm batch (samples, log scale)", axis, from_zero, apart)
            panels.append(Panel(title, described(values, title), partial(steps_chart, values, axes)))
            most = max(most, len(values))
    several = done.norm_batch_size.nunique() > 1
    caption = "Each small mark is a run; "
    caption += "the line joins the means over seeds." if several else "the large one is the mean over seeds."
    if most > MAX_RUN_MARKS:
        caption = "Each mark is a mean over seeds, with its 95 % t interval."
    if several and crossed:
        caption += " Each batch per GPU has its own line."
    if not done.has_bn.all():
        caption += " A norm without BN has no estimated statistics, hence no ESM."
    title = "Accuracy and shift by norm batch"
    yield from make_figure(context, "by-norm-batch", "summary", title, caption, panels, done, palette)


def with_value(runs: pd.DataFrame, metric: str) -> pd.DataFrame:
    """The runs that have a finite value of this metric, as `value`."""
    measured = finite(runs, metric)
    return cells_of(measured).drop(columns=["run", "state"]).assign(value=measured[metric])


def described(values: pd.DataFrame, title: str) -> str:
    """Describe the means over seeds for a screen reader, at most _MAX_MEANS of them."""
    means = values.groupby(["norm_batch_size", "norm"], sort=False, observed=True).value.mean()
    texts = means.iloc[:_MAX_MEANS].reset_index().to_dict("records")
    parts = [f"{m['norm']} {short(m['value'])} at norm batch {m['norm_batch_size']}" for m in texts]
    parts += [f"and {len(means) - len(texts)} more"] if len(means) > len(texts) else []
    return f"{title}, mean over seeds: {'; '.join(parts)}"
