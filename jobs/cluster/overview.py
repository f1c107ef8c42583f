"""The state of every run: its own files, joined with the ledger and the schedulers' answers.

What only a scheduler knows, such as a node that failed, is written into the record, so that reports show it.
"""

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from jobs.cluster.backend import JobVerdict, RunStatus, SchedulerAnswer, SubmittedRun, settle
from jobs.cluster.clusters import backend_of, by_backend
from jobs.cluster.ledger import Ledger
from suite.errors import UserError
from suite.paths import RunPaths, find_runs
from suite.record import read_status


@dataclass(frozen=True)
class RunsOverview:
    """The runs of an output folder, and a note for each question that a scheduler did not answer."""

    runs: list[RunStatus]
    notes: list[str]

    def select(self, wanted: Sequence[str]) -> list[RunStatus]:
        """Return the runs named by run_id (or its beginning), folder, path or job; all if none is named."""
        if not wanted:
            return self.runs
        chosen: dict[Path, RunStatus] = {}
        for text in wanted:
            by_job = [run for run in self.runs if run.job and text in (run.job, run.job.partition("_")[0])]
            found = by_job or [run for run in self.runs if _matches(run, text)]
            if not found:
                raise UserError(f"no run {text!r} here; `shiftbench status` lists their ids")
            chosen |= {run.folder: run for run in found}
        return list(chosen.values())


def _matches(run: RunStatus, text: str) -> bool:
    is_id = re.fullmatch(r"[0-9a-f]{4,12}", text) and run.run_id.startswith(text)
    is_name = text in (run.folder.name, str(run.folder))
    return bool(is_id) or is_name or (Path(text).exists() and Path(text).resolve() == run.folder.resolve())


def active_jobs(ledger: Ledger) -> dict[str, str]:
    """Return the job of every run folder that is queued or running, by name. Raises UserError.

    If several submissions of one folder are active, it is the job of the newest one.
    """
    found: dict[str, str] = {}
    submissions = ledger.read()
    answers = {
        one.token: active
        for backend, ones in by_backend(submissions, lambda one: one).items()
        for active in [backend.active(ones, ledger.output_dir)]
        for one in ones
    }
    for one in submissions:  # oldest first
        active = answers[one.token]
        found |= {name: active[name] for name in one.folders if name in active}
    return found


def overview(output_dir: Path, only: Sequence[Path] | None = None) -> RunsOverview:
    """Return every run below `output_dir` and in its ledger, or only these folders. Raises UserError."""
    if not output_dir.is_dir():
        raise UserError(f"{output_dir}: no such folder; expected one that holds runs")
    ledger = Ledger(output_dir)
    latest = {output_dir / name: one for one in ledger.read() for name in one.folders}
    if only is None:
        only = [*(paths.folder for paths in find_runs([output_dir])), *latest]
    statuses = {folder: read_status(RunPaths(folder)) for folder in dict.fromkeys(only)}
    submitted = [SubmittedRun(f, status, latest[f]) for f, status in statuses.items() if f in latest]
    answers: dict[Path, SchedulerAnswer] = {}
    notes: list[str] = []
    for backend, runs in by_backend(submitted, lambda run: run.submission).items():
        found, unanswered = backend.query(runs, is_being_submitted=ledger.is_held())
        answers |= found
        notes += unanswered
    shown = []
    for folder, status in statuses.items():
        answer = answers.get(folder, SchedulerAnswer())
        verdict = answer.verdict or JobVerdict(status.state, status.reason or "")
        if verdict.is_final:
            settle(folder, verdict, status)
        node = status.content.get("nodes") or answer.nodes
        state, reason, one = verdict.state, verdict.reason, latest.get(folder)
        shown.append(RunStatus(folder, state, reason, answer.job, one, node, status.content, status.errors))
    return RunsOverview(shown, notes)


def log_files(run: RunStatus, rank: int) -> list[Path]:
    """Return the readable files with the output of a run's rank: the run's own log, and its job's."""
    files = [run.folder / "log.txt"] if rank == 0 else []
    if run.submission is not None and run.job is not None:
        files += backend_of(run.submission).log_files(run.submission, run.job, rank)
    return [path for path in files if os.access(path, os.R_OK)]  # only its owner may enter a job's folder
