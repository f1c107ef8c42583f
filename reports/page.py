"""One Report to HTML and to Markdown. Both come from the same parts; the templates hold the words between."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import altair as alt
import vl_convert
from jinja2 import Environment, PackageLoader, StrictUndefined

from reports.collect import Collection
from reports.cost import cost_display
from reports.figures import Figure, build_gallery
from reports.filters import Facet
from reports.frames import Frames, build_frames
from reports.inventory import Overview, metric_table, overview, provenance_tables, run_list, warnings
from reports.norm_batch import Answer, norm_batch_answers
from reports.tables import Table, shift_display, summary_display, throughput_display
from reports.verdicts import Verdict, verdicts

# Of top-1, when nobody says otherwise.
MARGIN_POINTS = 1.0
# The Vega-Lite that this Altair writes, as vl-convert names it.
_VEGA_LITE = ".".join(alt.SCHEMA_VERSION.split(".")[:2])


@dataclass(frozen=True)
class Report:
    """All parts of a report, ready to be written in any format."""

    overview: Overview
    verdicts: list[Verdict]
    norm_batch: list[Answer]
    warnings: list[str]
    summary: Table
    shift: Table | None
    throughput: Table | None
    cost: Table | None
    figures: list[Figure]
    runs: Table
    provenance: list[Table]
    metrics: Table
    facets: list[Facet]
    chart_notes: list[str]

    def figures_of(self, section: str) -> list[Figure]:
        return [figure for figure in self.figures if figure.section == section]


def compose(collection: Collection) -> Report:
    """Records to a report: a pure function, the same bytes for the same records."""
    frames: Frames = build_frames(collection.records)
    gallery = build_gallery(frames)
    return Report(
        overview(collection, frames),
        verdicts(frames),
        norm_batch_answers(frames, MARGIN_POINTS),
        warnings(collection, frames),
        summary_display(frames),
        shift_display(frames),
        throughput_display(frames),
        cost_display(frames),
        gallery.figures,
        run_list(frames, collection.skipped),
        provenance_tables(collection.records),
        metric_table(),
        gallery.facets,
        gallery.notes,
    )


def render_html(report: Report) -> str:
    """One page with style, scripts and charts inside it."""
    specs: list[dict[str, Any]] = []
    first_chart: dict[str, int] = {}
    for figure in report.figures:
        first_chart[figure.slug] = len(specs)
        specs += [pack(spec) for spec in figure.page_specs()]
    template = _environment(escape=True).get_template("report.html.j2")
    looks = {variant.label: variant for figure in report.figures for variant in figure.palette}
    bundle = _vega_bundle() if specs else ""
    return template.render(report=report, specs=specs, first_chart=first_chart, looks=looks, bundle=bundle)


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


@cache
def _vega_bundle() -> str:
    """Vega, Vega-Lite and Vega-Embed as one script that may stand inside a page."""
    bundle: str = vl_convert.javascript_bundle("window.vegaEmbed = vegaEmbed;", vl_version=_VEGA_LITE)
    # A script element ends at the first "</script", wherever it stands.
    return bundle.replace("</script", "<\\/script")


def render_markdown(report: Report) -> str:
    """GitHub-flavoured Markdown; its pictures are `figures/<slug>.svg` beside it."""
    return _environment(escape=False).get_template("report.md.j2").render(report=report)


def render_svg(figure: Figure) -> str:
    """A figure with its legend, as an SVG file's text."""
    svg: str = vl_convert.vegalite_to_svg(figure.file_spec(), vl_version=_VEGA_LITE)
    return svg


def _environment(escape: bool) -> Environment:
    environment = Environment(
        loader=PackageLoader("reports"),
        autoescape=escape,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"md": escape_markdown, "md_table": markdown_table}
    return environment


def escape_markdown(text: str) -> str:
    """Text that Markdown shows as it stands, in a paragraph or in a table's cell."""
    flat = " ".join(str(text).split())
    escaped = re.sub(r"([\\`*_\[\]|~#])", r"\\\1", flat)
    return escaped.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def markdown_table(table: Table) -> str:
    """A pipe table."""
    lines = [[escape_markdown(column.header) for column in table.columns]]
    lines.append(["---:" if column.numeric else "---" for column in table.columns])
    lines += [[escape_markdown(cell) for cell in row] for row in table.rows]
    return "\n".join(_row(cells) for cells in lines)


def _row(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"
