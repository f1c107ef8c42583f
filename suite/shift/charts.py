"""Charts of the results, in Vega-Lite by Altair. They read the results' frames only."""

from typing import Any

import pandas as pd

from suite.user import some_home

with some_home():  # Altair asks for the home folder when it is imported
    import altair as alt

from suite.metrics import METRICS

OWN, INHERITED, GREY = "#0b62a4", "#cc5a00", "#5b5b66"
SYMBOLS = {"mu": "μ", "sigma": "σ"}
WIDTH_PX, HEIGHT_PX = 560, 240
LayeredChart = alt.LayerChart | alt.FacetChart  # what alt.layer is declared to return


def profile_chart(frame: pd.DataFrame) -> alt.Chart:
    """Scaled ESM_μ and ESM_σ by depth."""
    titles = {"esm_mu_scaled": "ESM μ, scaled", "esm_sigma_scaled": "ESM σ, scaled"}
    long = frame.melt(["depth", "layer"], list(titles), "measure", "value")
    long["measure"] = long["measure"].map(titles)
    chart = alt.Chart(long).mark_line(point=True)
    chart = chart.encode(
        x=_depth(),
        y=alt.Y("value:Q", title="ESM, scaled"),
        color=alt.Color("measure:N", title=None, scale=alt.Scale(range=[OWN, INHERITED])),
        tooltip=["layer:N", "measure:N", alt.Tooltip("value:Q", format=".4~g")],
    )
    sized: alt.Chart = chart.properties(width=WIDTH_PX, height=HEIGHT_PX)
    return sized


def statistics_chart(frame: pd.DataFrame) -> alt.Chart:
    """Scaled ESM_μ by depth, a line for each kind of statistics."""
    chart = alt.Chart(frame).mark_line(point=True)
    chart = chart.encode(
        x=_depth(),
        y=alt.Y("esm_mu_scaled:Q", title="ESM μ, scaled"),
        color=alt.Color("statistics:N", title=None, scale=alt.Scale(range=[OWN, INHERITED])),
        tooltip=["layer:N", "statistics:N", alt.Tooltip("esm_mu_scaled:Q", format=".4~g")],
    )
    sized: alt.Chart = chart.properties(width=WIDTH_PX, height=HEIGHT_PX)
    return sized


def deployment_chart(frame: pd.DataFrame) -> alt.Chart:
    """Top-1 of each form of a network, by the statistics that were frozen in."""
    chart = alt.Chart(frame).mark_bar()
    chart = chart.encode(
        x=alt.X("top1_percent:Q", title="Top-1 (%)"),
        y=alt.Y("network:N", title=None, sort=None),
        yOffset=alt.YOffset("statistics:N", sort=None),
        color=alt.Color("statistics:N", title=None, scale=alt.Scale(range=[OWN, INHERITED])),
        tooltip=["network:N", "statistics:N", alt.Tooltip("top1_percent:Q", format=".4~g")],
    )
    sized: alt.Chart = chart.properties(width=WIDTH_PX)
    return sized


def attribution_chart(frame: pd.DataFrame, statistic: str) -> LayeredChart:
    """Signed shares of a layer's ESM, stacked by depth, and ESM itself as a line with its sampling error."""
    chosen, title = frame[frame.statistic == statistic], f"Share of ESM {SYMBOLS[statistic]}"
    long = chosen.melt(["depth", "layer"], ["own", "inherited"], "part", "value")
    scale = alt.Scale(domain=["own", "inherited"], range=[OWN, INHERITED])
    bars = alt.Chart(long).mark_bar()
    bars = bars.encode(
        x=_depth("O"),
        y=alt.Y("value:Q", title=title, stack="zero"),
        color=alt.Color("part:N", title=None, scale=scale),
        tooltip=["layer:N", "part:N", alt.Tooltip("value:Q", format=".4~g")],
    )
    chosen = chosen.assign(low=chosen.esm - chosen.esm_error, high=chosen.esm + chosen.esm_error)
    base = alt.Chart(chosen).encode(x=_depth("O"))
    line = base.mark_line(point=True, color=GREY).encode(y=alt.Y("esm:Q", title=title))
    error = base.mark_rule(color=GREY).encode(y=alt.Y("low:Q", title=title), y2="high:Q")
    return alt.layer(bars, line, error).properties(width=WIDTH_PX, height=HEIGHT_PX)


def origins_chart(frame: pd.DataFrame) -> alt.Chart:
    """By how much each layer's exact estimates reduce the mean ESM."""
    return _bars(frame, "layer", x="esm_vanished", x_title="Mean ESM (μ and σ) that vanishes")


def remedies_chart(frame: pd.DataFrame, accuracy: str = "top1") -> alt.Chart:
    """Accuracy of each remedy."""
    metric = f"{accuracy}_percent"
    return _bars(frame, "remedy", x=metric, x_title=f"{METRICS[metric].title} (%)")


def perturbation_chart(frame: pd.DataFrame) -> LayeredChart:
    """Top-1 against the noise's magnitude: every draw, and the mean over draws as a line."""
    x = alt.X("delta:Q", title="Noise magnitude δ")
    y = alt.Y("top1_percent:Q", title="Top-1 (%)", scale=alt.Scale(zero=False))
    base = alt.Chart(frame).encode(x=x)
    tooltip = ["delta:Q", "draw:O", "top1_percent:Q"]
    points = base.mark_point(color=OWN, opacity=0.45).encode(y=y, tooltip=tooltip)
    line = base.mark_line(color=OWN).encode(y="mean(top1_percent):Q")
    return alt.layer(points, line).properties(width=WIDTH_PX, height=HEIGHT_PX)


def gains_chart(frame: pd.DataFrame) -> LayeredChart:
    """What each remedy gives back, in points of top-1, with its interval."""
    order: Any = list(frame.remedy)
    base = alt.Chart(frame).encode(y=alt.Y("remedy:N", title=None, sort=order))
    title = "Top-1 given back (points)"
    intervals = base.mark_rule(color=GREY).encode(x=alt.X("low:Q", title=title), x2="high:Q")
    points = base.mark_point(color=OWN, filled=True).encode(x=alt.X("points:Q", title=title))
    return alt.layer(intervals, points).properties(width=WIDTH_PX)


def _bars(frame: pd.DataFrame, y: str, x: str, x_title: str) -> alt.Chart:
    order: Any = list(frame[y])
    tooltip = [f"{y}:N", alt.Tooltip(f"{x}:Q", format=".4~g")]
    axes = {"x": alt.X(f"{x}:Q", title=x_title), "y": alt.Y(f"{y}:N", title=None, sort=order)}
    chart = alt.Chart(frame).mark_bar(color=OWN).encode(**axes, tooltip=tooltip)
    sized: alt.Chart = chart.properties(width=WIDTH_PX)
    return sized


def _depth(kind: str = "Q") -> alt.X:
    return alt.X(f"depth:{kind}", title="BN layer, in forward order")
