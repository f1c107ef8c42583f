"""Run folders in, a folder of pages, tables, figures and data out; once, or until all runs have ended."""

import json
import re
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, replace
from itertools import count
from pathlib import Path
from typing import Any

from reports.aggregate import summarise
from reports.claims import ClaimResult
from reports.collect import Collection, collect
from reports.findings.answer import Answer
from reports.findings.verdicts import Verdict
from reports.frames import Frames, build_frames
from reports.tables.cell_tables import SUMMARY_METRICS
from reports.tables.table import Table
from reports.write.drawing import draw, keeping_drawers, obstacle_to_drawing, start_bundling
from reports.write.export import layer_values, results, table_csv, to_csv, to_parquet
from reports.write.latex import to_latex
from reports.write.page import Report, compose
from reports.write.render import render_html, render_markdown
from suite.errors import UserError
from suite.files import read_json, write_atomically
from suite.record import UNFINISHED

# The files that a report has written, so that the next one removes those that it no longer makes.
MANIFEST = ".report-files.json"
_OURS = re.compile(
    r"(?:figures/[a-z0-9_-]+\.(?:svg|pdf)|tables/[a-z0-9_-]+\.(?:tex|csv)|(?:standing|accumulation|ranking)\.csv)"
)


Progress = Callable[[str, int, int], None]


@dataclass(frozen=True)
class ReportFiles:
    """What was written, and the numbers behind it."""

    html: Path
    markdown: Path
    figures: list[Path]
    frames: Frames
    answer: Answer
    verdicts: list[Verdict]
    claims: list[ClaimResult]
    claim_table: Table | None
    left_out: str | None = None  # why there are no charts

    @property
    def num_runs(self) -> int:
        return len(self.frames.runs)

    def as_plain(self) -> dict[str, Any]:
        """Return for JSON what `report` prints: the answer, cells, verdicts, and what was not read."""
        cells = summarise(self.frames, SUMMARY_METRICS).to_json(orient="records")
        skipped = self.frames.collection.skipped
        return {
            "page": str(self.html),
            "runs": self.num_runs,
            "answer": asdict(self.answer),
            "cells": json.loads(cells),
            "verdicts": [asdict(verdict) for verdict in self.verdicts],
            "not_read": [{"folder": str(one.folder), "reason": one.reason} for one in skipped],
            "left_out": self.left_out,
        }


def build_report(
    roots: Sequence[Path],
    out: Path,
    baseline: str | None = None,
    cache: Path | None = None,
    reload_s: int | None = None,
    claims: Mapping[str, Sequence[Path]] | None = None,
    command: str | None = None,
) -> ReportFiles:
    """`write_report` of all runs at or below `roots`. Raises UserError also when none can be read."""
    return write_report(collect(roots, cache), roots, out, baseline, reload_s, claims, command)


def write_report(
    collection: Collection,
    roots: Sequence[Path],
    out: Path,
    baseline: str | None = None,
    reload_s: int | None = None,
    claims: Mapping[str, Sequence[Path]] | None = None,
    command: str | None = None,
    on_progress: Progress = lambda *_: None,
) -> ReportFiles:
    """Report on what was collected below `roots` into the folder `out`, which is made when missing.

    `baseline`: the label of the norm that others are compared with; None: BN where it was run.
    `reload_s`: an open page loads itself again after so many seconds. `claims` and `command`: see
    page.compose. `on_progress` receives, from any thread, what is done now, and how much of how much, 0 where
    that is not counted. Files of others in `out` are kept; figures and tables of a former report that this
    one does not make are removed. Raises UserError when no run has the baseline, or `out` cannot be written.
    """
    _make_folder(out)
    if obstacle_to_drawing() is None:
        start_bundling()
    on_progress("computing", 0, 0)
    frames = build_frames(collection)
    report = compose(collection, frames, baseline, roots, out, claims, command, str(Path.cwd()))
    if (left_out := obstacle_to_drawing() if report.figures else None) is not None:
        report = replace(report, figures=[], warnings=[*report.warnings, left_out])
    files = _files(report, out, reload_s, on_progress)
    for folder in sorted({(out / name).parent for name in files}):
        _make_folder(folder)
    try:
        _write(out, files)
    except OSError as error:
        raise UserError(f"{out}: the report cannot be written: {error.strerror}") from None
    figures = [out / name for name in files if name.endswith(".svg")]
    pages = out / "index.html", out / "report.md"
    found, judged, table = report.verdicts, report.claims, report.claim_table
    return ReportFiles(*pages, figures, frames, report.answer, found, judged, table, left_out)


def _files(report: Report, out: Path, reload_s: int | None, on_progress: Progress) -> dict[str, str | bytes]:
    """Content by name. The pages come last, so that whatever a new page shows is already there."""
    table = results(report.frames, out)
    files: dict[str, str | bytes] = {
        "results.csv": to_csv(table),
        "results.parquet": to_parquet(table),
        "layers.parquet": to_parquet(layer_values(report.frames)),
        **report.csv_files,
    }
    names = report.table_names
    for one in report.tables():
        name = names[one.title]
        files[f"tables/{name}.tex"] = to_latex(one, f"tab:shiftbench-{name}")
        files[f"tables/{name}.csv"] = table_csv(one)
    done = count()

    def on_each() -> None:
        on_progress("drawing figures", next(done), len(report.figures))

    on_each()
    with ThreadPoolExecutor(1) as beside:
        drawing = beside.submit(draw, [figure.file_spec() for figure in report.figures], on_each)
        pages = {"report.md": render_markdown(report), "index.html": render_html(report, reload_s)}
        for figure, (svg, pdf) in zip(report.figures, drawing.result(), strict=True):
            files |= {f"figures/{figure.slug}.svg": svg, f"figures/{figure.slug}.pdf": pdf}
    return files | pages


def _write(out: Path, files: dict[str, str | bytes]) -> None:
    before = _written_before(out)
    _note(out, {*before, *files})  # both, so that a stop half-way leaves no unknown file
    for name, content in files.items():
        write_atomically(out / name, content, durable=False)
    for name in before - files.keys():
        (out / name).unlink(missing_ok=True)
    _note(out, set(files))


def _written_before(out: Path) -> set[str]:
    """Figures and tables that a former report says it wrote, whatever else its note holds."""
    noted = read_json(out / MANIFEST)
    names = noted.get("files") if isinstance(noted, dict) else None
    texts = (name for name in names if isinstance(name, str)) if isinstance(names, list) else ()
    return {name for name in texts if _OURS.fullmatch(name)}


def _note(out: Path, names: set[str]) -> None:
    text = json.dumps({"files": sorted(names)}, indent=1)
    write_atomically(out / MANIFEST, text + "\n", durable=False)


def _make_folder(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"{folder}: cannot be a folder for the report: {error.strerror}") from None


@keeping_drawers()
def follow(
    read: Callable[[], Collection],
    build: Callable[[Collection, int | None], ReportFiles],
    every_s: int,
    on_report: Callable[[ReportFiles, int], None],
    on_waiting: Callable[[UserError], None],
) -> ReportFiles:
    """Read every `every_s` seconds while a run is queued, running or preempted; build what is new.

    `build` is given the seconds after which the open page is to load itself again, or None for the last
    one. `on_report` is called with each report and the number of unfinished runs. An error of `read`, such as
    that there is no run yet, is passed to `on_waiting` once and reading continues; an error of `build` is
    raised.
    """
    files: ReportFiles | None = None
    shown: Any = None
    trouble = ""
    while True:
        try:
            collection = read()
        except UserError as error:
            if str(error) != trouble:
                on_waiting(error)
            trouble = str(error)
        else:
            trouble = ""
            states = collection.tables.runs["state"].to_pylist()
            if not (unfinished := sum(state in UNFINISHED for state in states)):
                return build(collection, None)
            now = _what_is_there(collection)
            if files is None or now != shown or not files.html.exists():
                files, shown = build(collection, every_s), now
                on_report(files, unfinished)
        time.sleep(every_s)


def _what_is_there(collection: Collection) -> tuple[object, ...]:
    tables = collection.tables
    runs = tables.runs.select(["folder", "state", "reason", "epoch", "attempts", "job", "nodes", "notes"])
    # Measurements are only ever added. The time that a run has taken grows without a new record.
    return runs.to_pydict(), len(tables.curves), len(tables.probes), collection.skipped
