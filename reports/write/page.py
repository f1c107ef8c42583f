"""Compose a report: all of its parts, from which every format is written."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path

from reports.accuracy import accuracy_title
from reports.claims import ClaimResult, claim_figures, claim_table, gather, judge
from reports.collect import Collection
from reports.figures import Figure, build_gallery
from reports.figures.detections import Predictions, predictions
from reports.figures.figure import distinct, slug
from reports.filters import Facet
from reports.findings.accumulation import accumulation
from reports.findings.answer import Answer, answer
from reports.findings.baseline import Baseline, against_baseline, resolve_baseline
from reports.findings.norm_batch import NormBatchAnswer, norm_batch_answers
from reports.findings.ranking import ranking
from reports.findings.verdicts import Verdict, verdicts
from reports.frames import BN, Frames
from reports.sentences import sentence
from reports.tables.baseline_table import accumulation_display, baseline_display
from reports.tables.cell_tables import cross_half_display, shift_display, summary_display
from reports.tables.cost_tables import cost_display, throughput_display
from reports.tables.forest import Forest, forest, ranking_display
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
from reports.tables.table import Table
from reports.theme import Variant, variants
from reports.write.export import to_csv
from suite import __version__

# Points of top-1 that count as a loss.
MARGIN_POINTS = 1.0


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
    answer: Answer
    forest: Forest | None
    warnings: list[str]
    claims: list[ClaimResult]
    claim_table: Table | None
    ranking: Table | None
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
    palette: list[Variant]
    runs: Table
    provenance: list[Table]
    metrics: Table
    facets: list[Facet]
    chart_notes: list[str]
    statistics: str
    # By file name, all rows of the tables that a page may have to cut short.
    csv_files: dict[str, bytes]
    # Whether tables and figures are written beside the page.
    has_files: bool

    def figures_of(self, section: str) -> list[Figure]:
        return [figure for figure in self.figures if figure.section == section]

    def tables(self) -> list[Table]:
        """Every table, in the report's order."""
        parts = [getattr(self, part.name) for part in fields(self)]
        parts = [part.tables if isinstance(part, RobustnessPart) else part for part in parts]
        inside = [part if isinstance(part, list) else [part] for part in parts]
        return [one for group in inside for one in group if isinstance(one, Table)]

    @property
    def table_names(self) -> dict[str, str]:
        """By title: the name of each table's files, without folder and ending."""
        titles = [table.title for table in self.tables()]
        return dict(zip(titles, distinct(map(slug, titles)), strict=True))


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
    palette = variants(frames.counted)
    ranked = ranking(
        frames, [variant.label for variant in palette], rows if against.label else None, against.label
    )
    csv_files["ranking.csv"] = to_csv(ranked)
    gallery = build_gallery(frames)
    evidence = [gather(letter, folders) for letter, folders in (claims or {}).items()]
    results = [judge(one) for one in evidence]
    figures = [*gallery.figures, *claim_figures(evidence, frames.counted)]
    names = distinct(figure.slug for figure in figures)
    figures = [replace(figure, slug=name) for figure, name in zip(figures, names, strict=True)]
    return Report(
        frames,
        command_line(roots, out, baseline) if command is None else command,
        f"{f'in {place}, ' if place else ''}with shiftbench {__version__}",
        report_header(collection, frames),
        against,
        found,
        norm_batch_answers(frames, against_bn, MARGIN_POINTS),
        answer(frames, ranked, rows if against.label else None, against),
        forest(frames, ranked, rows if against.label else None, against.label),
        warnings(collection, frames),
        results,
        claim_table(results) if results else None,
        ranking_display(ranked),
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
        figures,
        palette,
        run_list(frames, collection.skipped, out),
        provenance_tables(frames),
        metric_table(),
        gallery.facets,
        gallery.notes,
        sentence("method", baseline=against.label),
        csv_files,
        out is not None,
    )
