"""How charts look. A variant keeps its colour and its marker in every chart of a report.

On the page, colours are CSS variables, so that dark mode is the style sheet's affair; in SVG files they
are fixed. The eight hues follow Okabe and Ito's advice for colour-blind eyes: they differ in lightness
too, and each comes with its own marker.
"""

from dataclasses import dataclass
from typing import Any

import pandas as pd

from reports.frames import natural

# Kept beside the style sheet's --series-0 … --series-7, whose light values these are.
SERIES_HEX = ("#0b62a4", "#cc5a00", "#007d5f", "#a8479a", "#8a7000", "#2b9ac4", "#8c2f2f", "#5b5b66")
SHAPES = (
    *("circle", "square", "triangle-up", "diamond", "triangle-down", "cross"),
    *("triangle-right", "triangle-left"),
)
# Of norms in charts: more than these can neither be distinguished nor chosen from.
MAX_VARIANTS = 24
FONT = "system-ui, -apple-system, 'Segoe UI', Roboto, 'Helvetica Neue', Arial, sans-serif"


@dataclass(frozen=True)
class Theme:
    """Colours for one medium."""

    series: tuple[str, ...]
    text: str
    muted: str
    grid: str
    background: str | None

    def config(self) -> dict[str, Any]:
        """Vega-Lite's config."""
        titles = {"titleColor": self.muted}
        return {
            "font": FONT,
            "background": self.background or "transparent",
            "view": {"stroke": None},
            # A chart is read out by its description; thousands of marks, one by one, would drown it.
            "mark": {"aria": False},
            "axis": {
                "labelColor": self.muted,
                "labelFontSize": 12,
                "titleFontSize": 12,
                "titleFontWeight": "normal",
                "labelPadding": 6,
                **dict.fromkeys(("gridColor", "domainColor", "tickColor"), self.grid),
                **titles,
            },
            "axisX": {"grid": False, "titlePadding": 8},
            "axisY": {
                "domain": False,
                "ticks": False,
                "titleAngle": 0,
                "titleAlign": "left",
                "titleBaseline": "bottom",
                "titleAnchor": "end",
                "titleX": 0,
                "titleY": -8,
            },
            "legend": {
                "labelColor": self.text,
                "titleColor": self.muted,
                "labelFontSize": 12,
                "symbolSize": 90,
            },
            "title": {"color": self.text, "fontSize": 13, "anchor": "start", "fontWeight": 600, "offset": 22},
        }


_VARIABLES = tuple(f"var(--series-{i})" for i in range(len(SERIES_HEX)))
PAGE = Theme(_VARIABLES, "var(--text)", "var(--muted)", "var(--grid)", None)
FILE = Theme(SERIES_HEX, "#1c1c1f", "#55555e", "#e2e2e6", "#ffffff")


@dataclass(frozen=True)
class Variant:
    """A norm's label with its fixed place in the palette."""

    label: str
    index: int
    has_bn: bool = True

    @property
    def shape(self) -> str:
        # Eight markers against seven colours: 56 variants before a pair comes again.
        return SHAPES[self.index % len(SHAPES)]

    @property
    def series(self) -> int:
        """Place in the palette; the first colour is BN's alone."""
        return 1 + (self.index - 1) % (len(SERIES_HEX) - 1) if self.index else 0


def variants(runs: pd.DataFrame, limit: int = MAX_VARIANTS) -> list[Variant]:
    """The norms that charts draw, in the order of the legend: BN, its variants, XBN, then batch-free norms.

    Beyond `limit`, BN stays, and of the others those with the most completed runs. BN takes the first colour
    whether or not it was run.
    """
    done = runs.assign(done=runs.state == "completed")
    norms = done.groupby(["norm_family", "norm"], observed=True).done.sum().reset_index()
    norms = norms.sort_values(["norm_family", "norm"], ignore_index=True, key=natural)
    by_weight = norms.assign(is_bn=norms.norm_family == "bn").sort_values(
        ["is_bn", "done"], ascending=False, kind="stable"
    )
    labels = norms.loc[sorted(by_weight.index[:limit]), "norm"].astype(str).tolist()
    others = [label for label in labels if label != "BN"]
    free = set(norms.norm[norms.norm_family == "batch_free"])
    return [
        *([Variant("BN", 0)] if "BN" in labels else []),
        *(Variant(v, i + 1, v not in free) for i, v in enumerate(others)),
    ]
