"""The kinds of chart, in Vega-Lite by Altair. They know no records, only columns."""

from reports.charts.band import BandAxes, band_chart
from reports.charts.heat import heat_chart
from reports.charts.scatter import Quantity, front_chart, names_batches, path_chart
from reports.charts.steps import Steps, steps_chart
from reports.charts.style import ChartStyle, LayeredChart

__all__ = [
    "BandAxes",
    "ChartStyle",
    "LayeredChart",
    "Quantity",
    "Steps",
    "band_chart",
    "front_chart",
    "heat_chart",
    "names_batches",
    "path_chart",
    "steps_chart",
]
