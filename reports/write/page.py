"""Compose a report and render it as HTML and as Markdown, both from the same parts."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from functools import cache
from pathlib import Path
from typing import Any

import altair as alt
import vl_convert

from reports.accuracy import accuracy_title
from reports.claims import ClaimResult, claim_figures, claim_table, gather, judge
from reports.collect import Collection
from reports.figures import Figure, build_gallery
from reports.figures.detections import Predictions, predictions
from reports.figures.figure import distinct
from reports.filters import Facet
from reports.findings.accumulation import accumulation
from reports.findings.baseline import Baseline, against_baseline, resolve_baseline
from reports.findings.norm_batch import NormBatchAnswer, norm_batch_answers
from reports.findings.verdicts import Verdict, verdicts
from reports.frames import BN, Frames
from reports.sentences import environment, sentence
from reports.tables.baseline_table import accumulation_display, baseline_display
from reports.tables.cell_tables import cross_half_display, shift_display, summary_display
from reports.tables.cost_tables import cost_display, throughput_display
from reports.tables.inventory import (
    ReportHeader,
    command_line,
    metric_table,
    provenance_tables,
    report_header,
    warnings,
)
from reports.tables.paper_detection import paper_detection_display
from reports.tables.robustness_part import RobustnessPart, robustness_part
from reports.tables.run_list import run_list
from reports.tables.side_by_side import paper_display
from reports.tables.table import Link, StateCell, Table
from reports.write.export import to_csv
from reports.write.markdown import fill
from suite import __version__

# Points of top-1 that count as a loss.
MARGIN_POINTS = 1.0
# The Vega-Lite that this Altair writes, as vl-convert names it.
_VEGA_LITE = ".".join(alt.SCHEMA_VERSION.split(".")[:2])


@dataclass(frozen=True)
class Report:
    """All parts of a report, ready to be written in any format."""

    frames: Frames
    command: str
    made: str
    header: ReportHeader
    baseline: Baseline
    verdicts: list[Verdict]
    norm_batch: list[NormBatchAnswer]
    warnings: list[str]
    claims: list[ClaimResult]
    claim_table: Table | None
    summary: Table
    against_baseline: Table | None
    shift: Table | None
    cross_half: Table | None
    accumulation: Table | None
    throughput: Table | None
    cost: Table | None
    paper: list[Table]
    robustness: RobustnessPart | None
    predictions: list[Predictions]
    figures: list[Figure]
    runs: Table
    provenance: list[Table]
    metrics: Table
    facets: list[Facet]
    chart_notes: list[str]
    statistics: str
    # By file name, all rows of the tables that a page may have to cut short.
    csv_files: dict[str, bytes]

    def figures_of(self, section: str) -> list[Figure]:
        return [figure for figure in self.figures if figure.section == section]

    def tables(self) -> list[Table]:
        """Every table, in the report's order."""
        parts = [getattr(self, part.name) for part in fields(self)]
        parts = [part.tables if isinstance(part, RobustnessPart) else part for part in parts]
        inside = [part if isinstance(part, list) else [part] for part in parts]
        return [one for group in inside for one in group if isinstance(one, Table)]


def compose(
    collection: Collection,
    frames: Frames,
    baseline: str | None = None,
    roots: Sequence[Path] = (),
    out: Path | None = None,
    claims: Mapping[str, Sequence[Path]] | None = None,
    command: str | None = None,
    place: str = "",
) -> Report:
    """Records to a report: a pure function, the same bytes for the same records.

    `baseline`: the norm that others are compared with; None: BN where it was run. `roots` and `out` are
    what the command was given; links to runs lead from `out`, if there is one. `claims`: of the paper, by
    letter, with the folders of the runs that each rests on. `command`: what made this report, if it was not
    `shiftbench report`; `place`: the folder that it was typed in. Raises UserError when no run has the
    baseline.
    """
    against = resolve_baseline(frames, baseline)
    slopes = accumulation(frames, against)
    csv_files = {"accumulation.csv": to_csv(slopes)}
    compared: Table | None = None
    found: list[Verdict] = []
    rows = against_bn = against_baseline(frames, BN)
    if against.label is not None:
        rows = against_bn if against.label == BN else against_baseline(frames, against.label)
        compared = baseline_display(rows, against.label, accuracy_title(frames.counted))
        found = verdicts(frames, rows, against.label)
        csv_files["standing.csv"] = to_csv(rows)
    gallery = build_gallery(frames)
    evidence = [gather(letter, folders) for letter, folders in (claims or {}).items()]
    results = [judge(one) for one in evidence]
    figures = [*gallery.figures, *claim_figures(evidence, frames.counted)]
    names = distinct(figure.slug for figure in figures)
    return Report(
        frames,
        command_line(roots, out, baseline) if command is None else command,
        f"{f'in {place}, ' if place else ''}with shiftbench {__version__}",
        report_header(collection, frames),
        against,
        found,
        norm_batch_answers(frames, against_bn, MARGIN_POINTS),
        warnings(collection, frames),
        results,
        claim_table(results) if results else None,
        summary_display(frames),
        compared,
        shift_display(frames),
        cross_half_display(frames),
        accumulation_display(frames, slopes, against),
        throughput_display(frames),
        cost_display(frames),
        [one for one in (paper_display(frames), paper_detection_display(frames)) if one is not None],
        robustness_part(frames),
        predictions(frames),
        [replace(figure, slug=name) for figure, name in zip(figures, names, strict=True)],
        run_list(frames, collection.skipped, out),
        provenance_tables(frames),
        metric_table(),
        gallery.facets,
        gallery.notes,
        sentence("method", baseline=against.label),
        csv_files,
    )


def render_html(report: Report, reload_s: int | None = None) -> str:
    """One page with style, scripts and charts inside it. `reload_s`: it loads itself again then."""
    specs: list[dict[str, Any]] = []
    first_chart: dict[str, int] = {}
    for figure in report.figures:
        first_chart[figure.slug] = len(specs)
        specs += [pack(spec) for spec in figure.page_specs()]
    looks = {variant.label: variant for figure in report.figures for variant in figure.palette}
    made = environment(escape=True)
    made.filters["filtered"] = _filtered
    made.tests["link"] = lambda cell: isinstance(cell, Link)
    made.tests["state"] = lambda cell: isinstance(cell, StateCell)
    return made.get_template("report.html.j2").render(
        report=report,
        specs=specs,
        first_chart=first_chart,
        looks=looks,
        bundle=_vega_bundle() if specs else "",
        reload_s=reload_s,
    )


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
    """Vega, Vega-Lite and Vega-Embed as one script that a page can contain."""
    bundle: str = vl_convert.javascript_bundle("window.vegaEmbed = vegaEmbed;", vl_version=_VEGA_LITE)
    # A script element ends at the first "</script", wherever it is.
    return bundle.replace("</script", "<\\/script")


def _filtered(cell: Mapping[str, str], facets: Sequence[Facet]) -> dict[str, str]:
    """A row's values of the axes that can be chosen from."""
    return {facet.axis: cell[facet.axis] for facet in facets if facet.axis in cell}


def render_markdown(report: Report) -> str:
    """GitHub-flavoured Markdown; its pictures are `figures/<slug>.svg` beside it."""
    return fill("report.md.j2", report=report)


def render_svg(figure: Figure) -> str:
    """A figure with its legend, as an SVG file's text."""
    svg: str = vl_convert.vegalite_to_svg(figure.file_spec(), vl_version=_VEGA_LITE)
    return svg


def render_pdf(svg: str) -> bytes:
    """The picture of `render_svg` as a PDF file's content."""
    pdf: bytes = vl_convert.svg_to_pdf(svg)
    return pdf
