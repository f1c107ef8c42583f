"""The state of every run: its own files, joined with the ledger and the schedulers' answers.

What only a scheduler knows, such as a node that failed, is written into the record, so that reports show it.
"""

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from jobs.cluster.backend import (
    ActiveJob,
    JobVerdict,
    RunStatus,
    SchedulerAnswer,
    ShownState,
    SubmittedRun,
    settle,
)
from jobs.cluster.clusters import BACKENDS, backend_of, by_backend
from jobs.cluster.ledger import FOLDER as LEDGER_FOLDER
from jobs.cluster.ledger import BadEntry, Ledger, Submission
from jobs.local.launches import launches
from suite.errors import UserError
from suite.paths import RunPaths, find_runs
from suite.record import State, Status, read_status, read_stop_request
from suite.record.shapes import described
from suite.record.status import is_elsewhere, silent_for_s

RESTARTED: tuple[State, ...] = ("failed", "diverged", "preempted", "stopped", "cancelled")
"""States of runs that a launch under way trains again."""
MAX_NAMED = 3  # runs in a refusal
SILENT_S = 300.0
"""After so long without a word `status` says so. Training writes every few seconds, between two steps."""


@dataclass(frozen=True)
class RunsOverview:
    """The runs of an output folder, and a note for each question that a scheduler did not answer.

    `notes` also name each file that cannot be used. `unanswered`: why the state of some jobs is not known.
    """

    runs: list[RunStatus]
    notes: list[str]
    unanswered: list[str] = field(default_factory=list)

    def select(self, wanted: Sequence[str]) -> list[RunStatus]:
        """Return the runs named by job, name, run_id, path, or a part of a name or run_id that only one has.

        The part is the beginning, or the end behind a dash, as a narrow table shows it. All if none is named.
        Raises UserError for what names no run, and for a part that several have.
        """
        if not wanted:
            return self.runs
        chosen: dict[Path, RunStatus] = {}
        for text in wanted:
            found = [run for run in self.runs if run.job and text in (run.job, run.job.partition("_")[0])]
            found = found or [run for run in self.runs if _is_named(run, text)] or self._with_part(text)
            if not found:
                raise UserError(f"no run {text!r} here; `shiftbench status` lists their names and ids")
            chosen |= {run.folder: run for run in found}
        return list(chosen.values())

    def _with_part(self, text: str) -> list[RunStatus]:
        is_id = re.fullmatch(r"[0-9a-f]{4,12}", text) is not None
        found = [
            run
            for run in self.runs
            if run.folder.name.startswith(text)
            or run.label.endswith(f"-{text.removeprefix('…')}")
            or (is_id and run.run_id.startswith(text))
        ]
        if len(found) > 1:
            some = ", ".join(run.folder.name for run in found[:MAX_NAMED])
            more = f" and {len(found) - MAX_NAMED} more" if len(found) > MAX_NAMED else ""
            raise UserError(f"{text!r} names {len(found)} runs: {some}{more}; type more of one")
        return found


def _is_named(run: RunStatus, text: str) -> bool:
    """Return whether a text is a run's name, with its id or without, its id, or the path of its folder."""
    if text in (run.label, run.run_id, run.folder.name, str(run.folder)):
        return True
    return Path(text).exists() and Path(text).resolve() == run.folder.resolve()


def usable_entries(ledger: Ledger) -> tuple[list[Submission], list[BadEntry]]:
    """Return the submissions of a ledger, oldest first, and the entries that cannot be used here."""
    submissions, bad = ledger.scan()
    known = [one for one in submissions if one.scheduler in BACKENDS]
    bad += [
        BadEntry(
            one.token,
            f"{ledger.folder / one.token}.json: scheduler: expected {' or '.join(sorted(BACKENDS))}, got "
            f"{described(one.cluster.get('scheduler'))}",
            frozenset(one.folders),
        )
        for one in submissions
        if one.scheduler not in BACKENDS
    ]
    return known, bad


def active_jobs(ledger: Ledger) -> dict[str, ActiveJob]:
    """Return the job of every run folder that is queued or running, by name. Raises UserError.

    If several submissions of one folder are active, it is the job of the newest one.
    """
    found: dict[str, ActiveJob] = {}
    submissions, _ = usable_entries(ledger)
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
    submissions, bad = usable_entries(ledger)
    latest = {output_dir / name: one for one in submissions for name in one.folders}
    planned, started = launches(output_dir)
    notes = [entry.sentence for entry in bad]
    if only is None:
        unlisted: list[tuple[str, OSError]] = []
        found_runs = find_runs([output_dir], lambda folder, error: unlisted.append((folder, error)))
        only = [*(paths.folder for paths in found_runs), *latest, *(output_dir / name for name in planned)]
        notes += [
            f"{folder}: cannot be listed: {error.strerror}"
            for folder, error in unlisted
            if output_dir / Path(folder).name not in latest and Path(folder).name != LEDGER_FOLDER
        ]
    statuses = {folder: read_status(RunPaths(folder)) for folder in dict.fromkeys(only)}
    submitted = [SubmittedRun(f, status, latest[f]) for f, status in statuses.items() if f in latest]
    answers: dict[Path, SchedulerAnswer] = {}
    unanswered: list[str] = []
    for backend, runs in by_backend(submitted, lambda run: run.submission).items():
        found, silent = backend.query(runs, is_being_submitted=ledger.is_held())
        answers |= found
        notes += silent
        if any(answer.is_unknown for answer in found.values()):
            unanswered += silent
    shown = []
    for folder, status in statuses.items():
        answer = answers.get(folder, SchedulerAnswer())
        verdict = answer.verdict or JobVerdict(status.state, status.reason or "")
        if verdict.is_final:
            settle(folder, verdict, status)
        verdict, is_silent = _marked_if_silent(verdict, status, folder, is_unknown=answer.is_unknown)
        hang = status.hang if is_silent or status.state == "failed" else None
        node = status.content.get("nodes") or answer.nodes
        state, reason = _shown(verdict, status, folder, folder.name in planned, started.get(folder.name))
        known = (answer.job, latest.get(folder), node, status.content, status.errors, hang)
        shown.append(RunStatus(folder, state, reason, *known, is_ending=answer.is_ending))
        notes += [*status.notes, *(hang.notes if hang is not None else ())]
    return RunsOverview(shown, notes, unanswered)


def _shown(
    verdict: JobVerdict, status: Status, folder: Path, is_planned: bool, started_at: float | None
) -> tuple[ShownState, str]:
    """Return a run's state and reason, which a record lacks before its process begins to write.

    `is_planned`: a launch under way trains it; `started_at`: when the launch has started its process.
    """
    request = read_stop_request(RunPaths(folder))
    if verdict.state == "running" and request is not None and request.state == "cancelled":
        return "cancelling", request.reason
    if started_at is not None and float(status.content.get("updated_at", 0.0)) < started_at:
        return "starting", ""
    if is_planned and started_at is None and (status.is_missing or verdict.state in RESTARTED):
        return "planned", ""
    return verdict.state, verdict.reason


def _marked_if_silent(
    verdict: JobVerdict, status: Status, folder: Path, *, is_unknown: bool
) -> tuple[JobVerdict, bool]:
    """Say in the reason of a running run that it has not written for long, and return whether that is so.

    `is_unknown`: its scheduler does not answer. A silent run of another machine is then not called failed.
    """
    may_run = is_unknown and status.died_silently and is_elsewhere(status.content)
    has_begun = status.died_silently or status.state == "running"
    if not (may_run or (verdict.state == "running" and has_begun)):
        return verdict, False
    silent_s = silent_for_s(RunPaths(folder), status.content)
    if silent_s < SILENT_S:
        return JobVerdict("running", verdict.reason) if may_run else verdict, False
    hang = status.hang
    hangs = "it may hang" if hang is None or not (hang.stalls or hang.gap) else hang.sentence_so_far()
    more = "see `shiftbench status RUN` and `shiftbench logs RUN`"
    silence = f"has written nothing for {silent_s / 60:.0f} minutes: {hangs}; {more}"
    reason = silence if may_run else "; ".join(filter(None, [verdict.reason, silence]))
    return JobVerdict("running", reason), True


def log_files(run: RunStatus, rank: int) -> list[Path]:
    """Return the readable files with the output of a run's rank: the run's own log, and its job's."""
    files = [run.folder / "log.txt"] if rank == 0 else []
    if run.submission is not None and run.job is not None:
        files += backend_of(run.submission).log_files(run.submission, run.job, rank)
    # Only its owner may enter a job's folder.
    return [path for path in files if os.access(path, os.R_OK) and path.is_file()]
