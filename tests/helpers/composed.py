"""A report without its files: what most tests look at, and no picture is drawn for it."""

from pathlib import Path
from typing import Any

from reports.collect import collect
from reports.frames import build_frames
from reports.tables.inventory import provenance_tables, report_header, warnings
from reports.tables.run_list import run_list
from reports.write.markdown import markdown_table
from reports.write.page import Report, compose


def composed(*roots: Path, **options: Any) -> Report:
    """The report on the runs below `roots`; `options` are those of `compose`."""
    collection = collect(roots)
    return compose(collection, build_frames(collection), **options)


def inventory(root: Path) -> str:
    """What a report says of the runs themselves: counts, warnings, the list of runs, and provenance."""
    collection = collect([root])
    frames = build_frames(collection)
    counts = [f"{count} {state}" for state, count in report_header(collection, frames).counts]
    tables = [run_list(frames, collection.skipped), *provenance_tables(frames)]
    return "\n".join([*counts, *warnings(collection, frames), *map(markdown_table, tables)])
