"""`build_report`: run folders in, a page, a Markdown file and its pictures out."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from reports.collect import collect
from reports.frames import Frames, build_frames
from reports.page import compose, render_html, render_markdown, render_svg
from suite.errors import UserError
from suite.record import write_atomically


@dataclass(frozen=True)
class ReportFiles:
    """What was written, and the numbers behind it."""

    html: Path
    markdown: Path
    figures: list[Path]
    frames: Frames

    @property
    def num_runs(self) -> int:
        return len(self.frames.runs)


def build_report(
    roots: Sequence[Path], out: Path, baseline: str | None = None, cache: Path | None = None
) -> ReportFiles:
    """Report on all runs at or below `roots` into the folder `out`, which is made when missing.

    `baseline`: the label of the norm that others are compared with; None: BN where it was run. `cache`: see
    reports.collect. Raises UserError when there is no readable run below the roots, no run has the baseline,
    or `out` cannot be written.
    """
    collection = collect(roots, cache)
    _make_folder(out)
    frames = build_frames(collection)
    report = compose(collection, frames, baseline)
    figures = {out / "figures" / f"{figure.slug}.svg": render_svg(figure) for figure in report.figures}
    # The pages last: who sees a new page finds its pictures in place.
    tables = {out / name: text for name, text in report.csv_files.items()}
    files = {
        **figures,
        **tables,
        out / "report.md": render_markdown(report),
        out / "index.html": render_html(report),
    }
    if figures:
        _make_folder(out / "figures")
    try:
        for path, text in files.items():
            write_atomically(path, text)
    except OSError as error:
        raise UserError(f"{out}: the report cannot be written: {error.strerror}") from None
    return ReportFiles(out / "index.html", out / "report.md", list(figures), frames)


def _make_folder(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"{folder}: cannot be a folder for the report: {error.strerror}") from None
