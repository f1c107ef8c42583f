"""What shifts cost, against the estimation shift that they cause."""

from collections.abc import Iterator
from functools import partial

from reports.charts.scatter import Quantity
from reports.charts.shift_cost import shift_cost_chart
from reports.figures.figure import Context, Figure, Panel, make_figure
from reports.findings.robustness import shift_rows
from reports.frames import Frames
from reports.numbers import plural
from reports.theme import Variant

_KEYS = ["norm", "norm_batch_size", "batch_size_per_gpu", "shift", "severity"]


def cost_by_shift(frames: Frames, context: Context, palette: list[Variant]) -> Iterator[Figure]:
    """The share of accuracy lost against the scaled ESM under the shift, a mark for each cell and shift."""
    rows = shift_rows(frames)
    rows = rows[rows.run.isin(context.completed.run) & rows.esm.notna() & rows.share_lost.notna()]
    rows = rows[rows.norm.isin([variant.label for variant in palette])]
    if rows.empty:
        return
    cells = rows.groupby(_KEYS, as_index=False, sort=False, observed=True).agg(
        esm=("esm", "mean"), share_lost=("share_lost", "mean"), seeds=("seed", "nunique")
    )
    esm, lost = ((float(cells[name].min()), float(cells[name].max())) for name in ("esm", "share_lost"))
    x = Quantity("esm", "Scaled ESM under the shift", esm)
    y = Quantity("share_lost", "Accuracy lost (%)", (min(0.0, lost[0]), lost[1]))  # a share: not logarithmic
    panel = Panel(
        "Share of top-1 above chance that a shift costs",
        f"Accuracy lost against scaled ESM, {plural(len(cells), 'mark')}, one for each norm and shift",
        partial(shift_cost_chart, cells, x, y),
    )
    caption = (
        "Each mark is a norm under one corruption at one severity, mean over seeds; larger marks are higher "
        "severities. The ESM is measured without labels. If the marks of a norm rise along one line, it "
        "tells what a shift will cost."
    )
    title = "What a shift costs, by the estimation shift under it"
    yield from make_figure(context, "cost-by-shift", "robustness", title, caption, [panel], cells, palette)
