"""What became of every run: its own files, joined with the ledger and the scheduler's queue.

One query of squeue, and one of sacct for the jobs that have left the queue without a word in their record.
What the scheduler alone knows, such as a node that failed, is written into the record, so that a report
tells it too.
"""

import getpass
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from jobs.cluster import detached
from jobs.cluster.job_verdicts import (
    JobVerdict,
    is_unsettled,
    may_come_back,
    of_job,
    of_launcher,
    of_requeued,
    settle,
)
from jobs.cluster.ledger import Ledger, Submission
from jobs.cluster.slurm_commands import JobState, SlurmError, accounting, for_each, queue
from suite.errors import UserError
from suite.files import read_json
from suite.paths import RunPaths, find_runs
from suite.record import UNFINISHED, RankError, State, read_status


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
    def cluster(self) -> str:
        """The name of the cluster that it was submitted to last; empty without a submission."""
        return str(self.submission.cluster.get("name", "")) if self.submission else ""

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
class RunsOverview:
    """All runs of an output folder, and what could not be asked."""

    runs: list[RunStatus]
    notes: list[str]

    def select(self, wanted: Sequence[str]) -> list[RunStatus]:
        """Runs by run_id (or its beginning), folder name, path, or job. Raises UserError for an unknown."""
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
    if re.fullmatch(r"[0-9a-f]{4,12}", text) and run.run_id.startswith(text):
        return True
    return text in (run.folder.name, str(run.folder)) or (
        Path(text).exists() and Path(text).resolve() == run.folder.resolve()
    )


def active_jobs(ledger: Ledger) -> dict[str, str]:
    """The job of every run folder that is queued or running, by name. Raises SlurmError without an answer.

    Entries without a job's id are looked for by name: a crash may have come between the two. One that Slurm
    does not know is void; but of others' jobs it may not tell (PrivateData), and their record is believed.
    """
    submissions = ledger.read()
    slurm = [one for one in submissions if one.is_slurm]
    seen = queue(one.name for one in slurm) if slurm else {}
    ids = _ids(seen.values())
    active: dict[str, str] = {}
    for one in submissions:
        jobs = one.jobs(ids.get(one.name))
        if not one.is_slurm and detached.is_alive(one) is not False:
            active |= {f: job for f, job in jobs.items() if _is_to_come(ledger.output_dir / f)}
        for folder, job in jobs.items():
            seen_job = _job_of(one, job, seen)
            is_hidden = one.is_slurm and seen_job is None and one.user != getpass.getuser()
            if is_hidden and _waits_for(one, ledger.output_dir / folder):
                active[folder] = f"{job} of {one.user}"
            if seen_job is not None and seen_job.is_active:
                active[folder] = job
    return active


def overview(output_dir: Path, only: Sequence[Path] | None = None) -> RunsOverview:
    """Every run below `output_dir` and in its ledger, or only these folders.

    Raises UserError when there is no such folder.
    """
    if not output_dir.is_dir():
        raise UserError(f"{output_dir}: no such folder; expected one that holds runs")
    notes: list[str] = []
    ledger = Ledger(output_dir)
    submissions = ledger.read()
    latest = {output_dir / name: one for one in submissions for name in one.folders}
    if only is None:
        folders = dict.fromkeys([*(paths.folder for paths in find_runs([output_dir])), *latest])
    else:
        folders = dict.fromkeys(only)
        latest = {folder: one for folder, one in latest.items() if folder in folders}
        submissions = [one for one in submissions if one in latest.values()]
    statuses = {folder: read_status(RunPaths(folder)) for folder in folders}
    # Ordered, and looked into once for each run.
    unsettled = dict.fromkeys(folder for folder in latest if is_unsettled(statuses[folder]))
    noted = {one.token: one.jobs() for one in submissions if one.is_slurm}
    returning = {
        folder
        for folder, one in latest.items()
        if one.is_slurm and may_come_back(statuses[folder], noted[one.token].get(folder.name))
    }
    asked = (folder for folder in [*unsettled, *returning] if latest[folder].is_slurm)
    seen = _look_in_queue((latest[folder].name for folder in asked), notes)
    ids = _ids((seen or {}).values())
    # Once for each submission: one lists the jobs of up to thousands of runs.
    named = {one.token: one.jobs(ids.get(one.name)) for one in submissions}
    jobs = {folder: named[one.token].get(folder.name) for folder, one in latest.items()}
    if seen is not None:
        names = {job: latest[f].name for f in unsettled if latest[f].is_slurm and (job := jobs[f])}
        seen = for_each(names, seen)
        told = _ask_accounting([job for job in names if job not in seen or not seen[job].is_active], notes)
        # sacct may be behind, and know a job by halves.
        seen |= {j: one for j, one in told.items() if not one.is_active and one.name == names[j]}
    is_held = ledger.is_held()
    runs = []
    for folder, status in statuses.items():
        job, one = jobs.get(folder), latest.get(folder)
        seen_job = _job_of(one, job, seen)
        verdict = JobVerdict(status.state, status.reason or "")
        if one is not None and folder in unsettled:
            if not one.is_slurm:
                verdict = of_launcher(status, one, is_being_submitted=is_held)
            elif seen is not None:
                verdict = of_job(status, one, job, seen_job, is_being_submitted=is_held)
        elif folder in returning:
            verdict = of_requeued(status, seen_job)
        if verdict.is_final:
            settle(folder, verdict, status)
        node = status.content.get("nodes") or (seen_job.nodes if seen_job else "")
        runs.append(
            RunStatus(folder, verdict.state, verdict.reason, job, one, node, status.content, status.errors)
        )
    return RunsOverview(runs, notes)


def _look_in_queue(names: Iterable[str], notes: list[str]) -> dict[str, JobState] | None:
    try:
        return queue(names)
    except SlurmError as error:
        notes.append(f"Slurm does not answer, so this is what the records say: {error}")
        return None


def _ask_accounting(jobs: Sequence[str], notes: list[str]) -> dict[str, JobState]:
    """What sacct knows of jobs that have ended. squeue knows that for a while, though not the exit code."""
    try:
        told = for_each(jobs, accounting([job.partition("_")[0] for job in jobs]))
        return {job: told[job] for job in jobs if job in told}
    except SlurmError as error:
        notes.append(f"sacct does not answer, so why some jobs have ended is not known: {error}")
        return {}


def _job_of(one: Submission | None, job: str | None, seen: dict[str, JobState] | None) -> JobState | None:
    """What Slurm says of a submission's job: the name tells it from another cluster's of the same id."""
    found = (seen or {}).get(job or "")
    return found if found is not None and one is not None and found.name == one.name else None


def _waits_for(one: Submission, folder: Path) -> bool:
    """Whether a record says that this very submission will train its run, or does."""
    status = read_status(RunPaths(folder))
    return status.state in UNFINISHED and status.content.get("submission") == one.token


def _is_to_come(folder: Path) -> bool:
    """Whether a launcher trains this run, or will."""
    return read_status(RunPaths(folder)).state in ("queued", "running")


def _ids(jobs: Iterable[JobState]) -> dict[str, str]:
    """The id of each submission's job, by name."""
    return {job.name: job.job.partition("_")[0] for job in jobs}
