"""Follows submitted runs until all of them have ended."""

import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from jobs.cluster.backend import RunStatus
from jobs.cluster.overview import overview
from jobs.local.progress import ProgressView
from suite.experiment import Run
from suite.paths import RunPaths

ASK_EVERY_S = 5.0  # the scheduler, for all runs at once
LOOK_EVERY_S = 0.5  # at the runs' own files
BEGUN = ("running", "cancelling")


def follow(runs: Sequence[Run], output_dir: Path, view: ProgressView) -> list[RunStatus]:
    """Show the runs' progress until no run is queued or running; return how each has ended.

    Raises UserError when their states cannot be known.
    """
    by_folder = {output_dir / run.folder_name: run for run in runs}
    shown: set[Path] = set()
    ended: dict[Path, RunStatus] = {}
    view.start(len(by_folder), 0)
    with view:
        while True:
            seen = [one for one in overview(output_dir, list(by_folder)).runs if one.folder not in ended]
            for one in seen:
                if one.state in BEGUN and one.folder not in shown:
                    shown.add(one.folder)
                    view.started(one.folder, by_folder[one.folder])
                if not one.is_unfinished:
                    ended[one.folder] = one
                    if one.folder not in shown:  # between two looks
                        view.started(one.folder, by_folder[one.folder])
                    view.update(one.folder, RunPaths(one.folder))
                    view.ended(one.folder, one.state, one.reason)
            if len(ended) == len(by_folder):
                return list(ended.values())
            waiting = Counter(one.state for one in seen if one.state not in BEGUN and one.is_unfinished)
            view.waits_for = ", ".join(f"{number} {state} runs" for state, number in waiting.items())
            until = time.monotonic() + ASK_EVERY_S
            while time.monotonic() < until:
                for folder in shown - ended.keys():
                    view.update(folder, RunPaths(folder))
                time.sleep(LOOK_EVERY_S)
