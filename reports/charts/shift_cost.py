"""What shifts cost against the estimation shift under them: a mark for each network and shift."""

import altair as alt
import pandas as pd

from reports.charts.scatter import Quantity
from reports.charts.style import CELL_TIPS, ChartStyle, Spec, layered, tips


def shift_cost_chart(cells: pd.DataFrame, x: Quantity, y: Quantity, style: ChartStyle) -> Spec:
    """Marks that grow with the severity.

    `cells`: norm, norm_batch_size, batch_size_per_gpu, shift, severity, seeds and both columns.
    """
    columns = ["norm", "norm_batch_size", "batch_size_per_gpu", "shift", "severity", "seeds"]
    data = cells[columns].assign(x=cells[x.column], y=cells[y.column])
    tooltip = tips(
        [
            *CELL_TIPS,
            ("shift:N", "Shift"),
            ("severity:Q", "Severity"),
            ("x:Q", f"{x.title}, mean"),
            ("y:Q", f"{y.title}, mean"),
            ("seeds:Q", "Seeds"),
        ]
    )
    sizes = alt.Scale(type="linear", domain=[0, 5], range=[15, 110])
    marks = (
        style.chart(data)
        .mark_point(filled=True, opacity=0.75)
        .encode(
            x=x.x(),
            y=y.y(),
            color=style.color(),
            shape=style.shape(),
            size=alt.Size("severity:Q", scale=sizes, legend=None),
            tooltip=tooltip,
        )
    )
    return layered(style, marks)
