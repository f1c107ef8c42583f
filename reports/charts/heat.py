"""A metric of every layer at every probed epoch, as colours."""

import altair as alt
import numpy as np
import pandas as pd

from reports.charts.style import ChartStyle, Spec, is_wide, layered, log_scale, log_ticks, tips

# Perceptually uniform, and legible for colour-blind readers on light and dark backgrounds.
_SCHEME = "viridis"


def heat_chart(
    cells: pd.DataFrame,
    value_title: str,
    extent: tuple[float, float],
    depth: int,
    style: ChartStyle,
) -> Spec:
    """Epochs to the right, layers in forward order upwards, the value as a colour.

    `cells`: epoch, layer, position, value, seeds. `extent`: the range of values, one for a figure; `depth`:
    how many layers the axis has.
    """
    low, high = extent
    log = is_wide(low, high)
    scale = log_scale(low, high) if log else alt.Scale(domain=[0 if 0 <= low < high / 2 else low, high])
    scale.scheme = _SCHEME
    legend = alt.Legend(
        title=value_title + (" (log scale)" if log else ""),
        orient="bottom",
        gradientLength=160,
        titleOrient="left",
        format=".3~g",
        values=log_ticks(low, high) if log else alt.Undefined,
        tickCount=4,
    )
    left, right = _edges(cells.epoch)
    data = cells.assign(left=left, right=right, bottom=cells.position - 0.5, top=cells.position + 0.5)
    epochs = int(right.max() - left.min())
    x = alt.X(
        "left:Q",
        title="Epoch",
        scale=alt.Scale(domain=[float(left.min()), float(right.max())], nice=False, zero=False),
        axis=alt.Axis(format="d", tickMinStep=1, tickCount=min(epochs, 8)),
    )
    y = alt.Y(
        "bottom:Q",
        title="Layer (forward order)",
        scale=alt.Scale(domain=[-0.5, depth - 0.5], nice=False, zero=False),
        axis=alt.Axis(format="d", tickMinStep=1, tickCount=min(depth, 6), grid=False),
    )
    texts = [("layer:N", "Layer"), ("epoch:Q", "Epoch"), ("value:Q", f"{value_title}, mean")]
    # Thousands of cells are not to be read out one by one; the chart's description says what they show.
    rects = style.chart(data).mark_rect(aria=False).encode(x=x, x2="right:Q", y=y, y2="top:Q")
    color = alt.Color("value:Q", scale=scale, legend=legend)
    rects = rects.encode(color=color, tooltip=tips([*texts, ("seeds:Q", "Seeds")]))
    return layered(style, rects) | {"view": {"fill": style.theme.grid}}


def _edges(epochs: pd.Series) -> tuple[pd.Series, pd.Series]:
    """Where each epoch's cell begins and ends: half-way to the epochs probed before and after it."""
    probed = np.unique(epochs.to_numpy(dtype=float))
    middles = (probed[1:] + probed[:-1]) / 2
    first, last = 2 * probed[0] - middles[0], 2 * probed[-1] - middles[-1]
    left, right = np.concatenate([[first], middles]), np.concatenate([middles, [last]])
    places = np.searchsorted(probed, epochs)
    return pd.Series(left[places], index=epochs.index), pd.Series(right[places], index=epochs.index)
