"""Render a report as HTML and as Markdown."""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from itertools import groupby
from typing import Any

from jinja2 import Environment
from markupsafe import Markup, escape

from reports.figures import Figure
from reports.filters import Facet
from reports.numbers import Number
from reports.seed_statistics import thinned
from reports.sentences import environment
from reports.tables.forest import ForestRow
from reports.tables.table import Link, StateCell
from reports.theme import Variant
from reports.write.drawing import vega_bundle
from reports.write.markdown import fill
from reports.write.page import Report

_OPENING_PANELS = 3
_NAME = re.compile(r"\b[A-Za-z]\w*(?:-\w+)+\b")
# Of a chart's axis with labels and title, and of a legend of colours.
_AXIS_PX, _LEGEND_PX = 72, 46


@dataclass(frozen=True)
class PagePanel:
    """A chart on the page: its place among the specs, what it belongs to, and its height once it is drawn."""

    number: int
    title: str
    cell: dict[str, str]
    fits: dict[str, list[str]]
    height_px: int


@dataclass(frozen=True)
class PageFigure:
    """The figures of one kind as one, with the panels of all models side by side. `files`: name and slug."""

    section: str
    title: str
    caption: str
    shown: list[Variant]
    panels: list[PagePanel]
    files: list[tuple[str, str]]


def page_figures(figures: Sequence[Figure]) -> tuple[list[PageFigure], list[dict[str, Any]]]:
    """The figures in which a page shows these, and the specs of all charts in their order."""
    specs: list[dict[str, Any]] = []
    found = []
    kinds: dict[tuple[str, str], list[Figure]] = {}
    for figure in figures:
        kinds.setdefault((figure.section, figure.kind), []).append(figure)
    for (section, kind), alike in kinds.items():
        panels = []
        for figure in alike:
            for panel, spec in zip(figure.page_panels, figure.page_specs(), strict=True):
                name = ": ".join(filter(None, (figure.context, panel.title)))
                height_px = _height_px(spec)
                panels.append(PagePanel(len(specs), name, figure.cell | panel.cell, figure.fits, height_px))
                specs.append(pack(spec))
        labels = {variant.label: variant for figure in alike for variant in figure.shown}
        shown = sorted(labels.values(), key=lambda variant: variant.index)
        captions = dict.fromkeys(figure.caption for figure in alike)
        files = [(figure.context, figure.slug) for figure in alike]
        whole = PageFigure(section, kind, " ".join(captions), shown, panels, files)
        found += _opened(whole) if section == "answer" else [whole]
    return found, specs


def _opened(figure: PageFigure) -> list[PageFigure]:
    """A figure of the first screen: one row of panels, and the others as a figure of the section on shift."""
    panels = figure.panels
    first = [panels[place] for place in thinned(range(len(panels)), _OPENING_PANELS)]
    rest = [panel for panel in panels if panel not in first]
    others = replace(figure, section="shift", title=f"{figure.title}, other norm batches", panels=rest)
    return [replace(figure, panels=first), *([others] if rest else [])]


def _height_px(spec: Mapping[str, Any]) -> int:
    has_legend = any(
        "legend" in layer.get("encoding", {}).get("color", {}) and layer["encoding"]["color"]["legend"]
        for layer in spec["layer"]
    )
    return int(spec["height"]) + _AXIS_PX + (_LEGEND_PX if has_legend else 0)


def render_html(report: Report, reload_s: int | None = None) -> str:
    """One page with style, scripts and charts inside it. `reload_s`: it loads itself again then."""
    groups, specs = page_figures([figure for figure in report.figures if figure.on_page])
    template = _environment().get_template("report.html.j2")
    return template.render(
        report=report,
        groups=groups,
        specs=specs,
        names=report.table_names,
        looks={variant.label: variant for variant in report.palette},
        bundle=vega_bundle() if specs else "",
        reload_s=reload_s,
    )


@cache
def _environment() -> Environment:
    """The page's templates, which are compiled once in a process."""
    made = environment(escape=True)
    made.filters |= {"filtered": _filtered, "digits": _digits, "by_place": _by_place, "unbroken": _unbroken}
    made.tests["link"] = lambda cell: isinstance(cell, Link)
    made.tests["state"] = lambda cell: isinstance(cell, StateCell)
    return made


def _digits(cell: object) -> str:
    """A cell's text; that of a number breaks before its interval or its second value, and nowhere else."""
    text = str(cell)
    if not isinstance(cell, Number):
        return text
    text = text.replace("× ", "×\u00a0").replace(" and ", "\u00a0and ")
    return text.replace(" ± ", " ±\u00a0").replace(", ", ",\u00a0")


def _unbroken(text: object) -> Markup:
    """A sentence whose names, such as XBN-P2-GN8, and equations do not break at a line's end."""
    whole = str(escape(str(text))).replace(" = ", "\u00a0=\u00a0").replace(" ± ", "\u00a0±\u00a0")
    return Markup(_NAME.sub(r'<span class="u">\g<0></span>', whole))


def _by_place(rows: Sequence[ForestRow]) -> Iterator[tuple[tuple[str, str], list[ForestRow]]]:
    """The rows of the forest plot by norm batch and model."""
    for place, found in groupby(rows, key=lambda row: (row.norm_batch, row.model)):
        yield place, list(found)


def _filtered(cell: Mapping[str, str], facets: Sequence[Facet]) -> dict[str, str]:
    """A row's values of the axes that can be chosen from."""
    return {facet.axis: cell[facet.axis] for facet in facets if facet.axis in cell}


def pack(spec: dict[str, Any]) -> dict[str, Any]:
    """A spec whose data sets go by columns, each text in them once; the page's script unpacks them."""
    packed = {
        name: {column: _pack_column([row[column] for row in rows]) for column in (rows[0] if rows else {})}
        for name, rows in spec.get("datasets", {}).items()
    }
    return spec | {"datasets": packed}


def _pack_column(values: list[Any]) -> dict[str, Any]:
    if not isinstance(values[0], str):
        return {"at": values}
    place = {text: number for number, text in enumerate(dict.fromkeys(values))}
    return {"texts": list(place), "at": [place[text] for text in values]}


def render_markdown(report: Report) -> str:
    """GitHub-flavoured Markdown; its pictures are `figures/<slug>.svg` beside it."""
    return fill("report.md.j2", report=report)
