"""Build a report again and again until all of its runs have ended."""

import time
from collections.abc import Callable
from typing import Any

from reports.collect import Collection
from reports.write.report_folder import ReportFiles
from suite.errors import UserError
from suite.record import UNFINISHED


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
