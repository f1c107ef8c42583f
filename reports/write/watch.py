"""A report that follows its runs: built again and again until none of them goes on."""

import time
from collections.abc import Callable

from reports.write.build import ReportFiles
from suite.record import UNFINISHED


def follow(
    build: Callable[[int | None], ReportFiles], every_s: int, tell: Callable[[ReportFiles, int], None]
) -> ReportFiles:
    """Build every `every_s` seconds while a run is queued, running or preempted, and once more at the end.

    `build` is given the seconds after which the open page is to load itself again, or None for the last
    one. `tell` hears of each report, with the number of runs that go on.
    """
    while True:
        files = build(every_s)
        if not (going_on := int(files.frames.runs.state.isin(UNFINISHED).sum())):
            return build(None)
        tell(files, going_on)
        time.sleep(every_s)
