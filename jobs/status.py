"""What became of every run: its own files, joined with the ledger and the scheduler's queue.

One query of squeue, and one of sacct for the jobs that have left the queue without a word in their record.
What the scheduler alone knows, such as a node that failed, is written into the record, so that a report
tells it too.
"""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from jobs import detached
from jobs.slurm.commands import JobState, SlurmError, accounting, for_each, queue
from jobs.submissions import Ledger, Submission
from suite.errors import UserError
from suite.paths import RunPaths, find_runs
from suite.record import RankError, Record, RecordWriter, State, read_status
from suite.record.files import read_json

OPEN = ("queued", "running", "preempted")


@dataclass(frozen=True)
class RunStatus:
    """One run as `shiftbench status` shows it."""

    folder: Path
    state: State
    reason: str
    job: str | None = None
    submission: Submission | None = None
    node: str = ""
    content: dict[str, Any] = field(default_factory=dict)
    errors: list[RankError] = field(default_factory=list)

    @property
    def epochs(self) -> int | None:
        """How many were asked for. Read when it is shown, and a table shows few of many runs."""
        recipe = (read_json(self.folder / "run.json") or {}).get("recipe") or {}
        epochs: int | None = recipe.get("epochs")
        return epochs

    @property
    def run_id(self) -> str:
        return self.folder.name.rpartition("-")[2]

    @property
    def label(self) -> str:
        return self.folder.name.rpartition("-")[0] or self.folder.name

    @property
    def restarts(self) -> int:
        return max(0, int(self.content.get("attempts", 0)) - 1)

    @property
    def eta_s(self) -> float | None:
        """Seconds to the end at this attempt's pace, evaluations included; None before it is known."""
        content = self.content
        names = ("started_at", "updated_at", "step", "total_steps", "resumed_from_step")
        if self.state != "running" or any(content.get(name) is None for name in names):
            return None
        done = content["step"] - content["resumed_from_step"]
        spent_s = content["updated_at"] - content["started_at"]
        if done <= 0:
            return None
        return float((content["total_steps"] - content["step"]) * spent_s / done)


@dataclass(frozen=True)
class Overview:
    """All runs of an output folder, and what could not be asked."""

    runs: list[RunStatus]
    notes: list[str]

    def select(self, wanted: Sequence[str]) -> list[RunStatus]:
        """Runs by run_id (or its beginning), folder name, path, or job. Raises UserError for an unknown one."""
        if not wanted:
            return self.runs
        chosen: dict[Path, RunStatus] = {}
        for text in wanted:
            found = [run for run in self.runs if _matches(run, text)]
            if not found:
                raise UserError(f"no run {text!r} here; `shiftbench status` lists their ids")
            chosen |= {run.folder: run for run in found}
        return list(chosen.values())


def _matches(run: RunStatus, text: str) -> bool:
    if re.fullmatch(r"[0-9a-f]{4,12}", text) and run.run_id.startswith(text):
        return True
    job = run.job or ""
    return text in (run.folder.name, str(run.folder), job, job.partition("_")[0]) or (
        Path(text).exists() and Path(text).resolve() == run.folder.resolve()
    )


def active_jobs(ledger: Ledger) -> dict[str, str]:
    """The job of every run folder that is queued or running, by name. Raises SlurmError without an answer.

    Entries without a job's id are looked for by name: a crash may have come between the two. One that Slurm
    does not know is void.
    """
    submissions = ledger.read()
    slurm = [one for one in submissions if one.is_slurm]
    seen = queue(one.name for one in slurm) if slurm else {}
    ids = _ids(seen.values())
    active: dict[str, str] = {}
    for one in submissions:
        jobs = one.jobs(ids.get(one.name))
        if not one.is_slurm and detached.is_alive(one):
            active |= {f: job for f, job in jobs.items() if _is_open(ledger.output_dir / f)}
        active |= {f: job for f, job in jobs.items() if job in seen and seen[job].is_active}
    return active


def overview(output_dir: Path) -> Overview:
    """Every run below `output_dir` and in its ledger. Raises UserError when there is no such folder."""
    if not output_dir.is_dir():
        raise UserError(f"{output_dir}: no such folder; expected one that holds runs")
    notes: list[str] = []
    submissions = Ledger(output_dir).read()
    latest = {output_dir / name: one for one in submissions for name in one.folders}
    folders = dict.fromkeys([*(paths.folder for paths in find_runs([output_dir])), *latest])
    statuses = {folder: read_status(RunPaths(folder)) for folder in folders}
    # Ordered, and looked into once for each run.
    unsettled = dict.fromkeys(f for f in latest if statuses[f].state in OPEN or statuses[f].died_silently)
    seen = _look_in_queue((latest[f] for f in unsettled if latest[f].is_slurm), notes)
    ids = _ids((seen or {}).values())
    # Once for each submission: one lists the jobs of up to thousands of runs.
    named = {one.token: one.jobs(ids.get(one.name)) for one in submissions}
    jobs = {f: named[one.token].get(f.name) for f, one in latest.items()}
    if seen is not None:
        seen = for_each(filter(None, jobs.values()), seen)
        silent = [j for f in unsettled if latest[f].is_slurm and (j := jobs[f]) and j not in seen]
        seen = seen | _ask_accounting(silent, notes)
    runs = []
    for folder, status in statuses.items():
        job, one = jobs.get(folder), latest.get(folder)
        verdict = Verdict(status.state, status.reason or "")
        if folder in unsettled and one is not None and not one.is_slurm:
            verdict = _of_launcher(verdict, one)
        elif folder in unsettled and seen is not None:
            verdict = _of_job(verdict, job, seen.get(job or ""), status.died_silently)
        if verdict.is_final and verdict.state != status.content.get("state"):
            _settle(folder, verdict)
        node = status.content.get("nodes") or (seen or {}).get(job or "", JobState("", "")).nodes
        runs.append(
            RunStatus(folder, verdict.state, verdict.reason, job, one, node, status.content, status.errors)
        )
    return Overview(runs, notes)


def _look_in_queue(submissions: Iterable[Submission], notes: list[str]) -> dict[str, JobState] | None:
    try:
        return queue(one.name for one in submissions)
    except SlurmError as error:
        notes.append(f"Slurm does not answer, so this is what the records say: {error}")
        return None


def _ask_accounting(jobs: Sequence[str], notes: list[str]) -> dict[str, JobState]:
    try:
        return for_each(jobs, accounting([job.partition("_")[0] for job in jobs]))
    except SlurmError as error:
        notes.append(f"sacct does not answer, so why some jobs have ended is not known: {error}")
        return {}


@dataclass(frozen=True)
class Verdict:
    """What a run's record and its job say together. `is_final`: the scheduler alone knew, and it is over."""

    state: State
    reason: str
    is_final: bool = False


def _of_job(verdict: Verdict, job: str | None, seen: JobState | None, died_silently: bool) -> Verdict:
    """A record that is not settled, and what Slurm says of its job."""
    if job is None:
        return Verdict("failed", "its submission was interrupted before Slurm took it: submit again")
    if seen is None:
        if verdict.state == "preempted":
            return verdict
        return Verdict("failed", f"job {job} has left the queue without a word, and why is not known")
    before = f"; {verdict.reason}" if verdict.reason and not died_silently else ""
    if seen.state in ("PENDING", "REQUEUED", "REQUEUE_HOLD", "CONFIGURING", "SUSPENDED"):
        return Verdict("queued", f"{seen.reason or seen.state}{before}")
    if seen.is_active:
        is_up = verdict.state == "running"
        return Verdict("running", "" if is_up else "its processes are starting, or ending")
    if seen.state == "CANCELLED":
        return Verdict("cancelled", f"job {job} was cancelled{before}", is_final=True)
    if verdict.state == "preempted" and seen.state == "COMPLETED":
        return verdict
    return Verdict("failed", f"job {job}: {seen.end}{before}", is_final=True)


def _of_launcher(verdict: Verdict, one: Submission) -> Verdict:
    if verdict.state == "queued" and not detached.is_alive(one):
        return Verdict("failed", "its launcher ended before the run began", is_final=True)
    return verdict


def _settle(folder: Path, verdict: Verdict) -> None:
    """Write into the record what only the scheduler knew. Whoever may not write there just looks."""
    if not (folder / "run.json").exists():
        return
    try:
        # Not waiting for the disk, for each of thousands: what Slurm knows can be asked again.
        with RecordWriter(Record.read(folder).run, folder, durable=False) as record:
            record.settle(verdict.state, verdict.reason)
    except (OSError, UserError, ValueError):
        return


def _is_open(folder: Path) -> bool:
    return read_status(RunPaths(folder)).state in OPEN


def _ids(jobs: Iterable[JobState]) -> dict[str, str]:
    """The id of each submission's job, by name."""
    return {job.name: job.job.partition("_")[0] for job in jobs}
