"""The backend `slurm`: a submission is one job of sbatch, an array where it has several runs.

One query of squeue answers for all runs, and one of sacct for those whose job has left the queue although
their record does not say how they ended.
"""

import getpass
from collections.abc import Iterable, Sequence
from pathlib import Path

from jobs.cluster import sbatch, slurm_commands
from jobs.cluster.backend import Answer, NewJob, SubmittedRun
from jobs.cluster.job_verdicts import is_unsettled, may_come_back, of_job, of_requeued
from jobs.cluster.ledger import Submission
from jobs.cluster.run_status import RunStatus
from jobs.cluster.slurm_cluster import SlurmCluster
from jobs.cluster.slurm_commands import JobState, SlurmError
from suite.paths import RunPaths
from suite.record import UNFINISHED, read_status


class SlurmBackend:
    """Slurm, by its own commands and by Submitit's scripts. A job's id is `12`, or `12_3` in an array."""

    cluster_type = SlurmCluster
    job_noun = "job"
    ends_together = False

    def max_runs(self) -> int | None:
        return slurm_commands.max_array_size(slurm_commands.config())

    def preview(self, job: NewJob, cluster: SlurmCluster) -> str:
        one = job.submission
        return sbatch.script(len(job.runs), cluster, one.folder, Path(one.snapshot), job.after)

    def submit(self, job: NewJob, cluster: SlurmCluster) -> str:
        return sbatch.submit(job, cluster)

    def job_ids(self, submission: Submission, job_id: str | None = None) -> dict[str, str]:
        job_id = job_id or submission.job_id
        if job_id is None:
            return {}
        if len(submission.folders) == 1:
            return {submission.folders[0]: job_id}
        return {folder: f"{job_id}_{number}" for number, folder in enumerate(submission.folders)}

    def active(self, submissions: Sequence[Submission], output_dir: Path) -> dict[str, str]:
        """Return the job of every run folder that is queued or running, by name.

        An entry without an id belongs to a submission that was interrupted: its job is found by its name, and
        where Slurm knows no such job there is none. Where Slurm hides the jobs of other users (PrivateData),
        their records decide. Raises SlurmError when Slurm does not answer.
        """
        seen = slurm_commands.queue(one.name for one in submissions)
        ids = _ids(seen.values())
        active: dict[str, str] = {}
        for one in submissions:
            for folder, job in self.job_ids(one, ids.get(one.name)).items():
                seen_job = _job_of(one, job, seen)
                is_hidden = seen_job is None and one.user != getpass.getuser()
                if is_hidden and _waits_for(one, output_dir / folder):
                    active[folder] = f"{job} of {one.user}"
                if seen_job is not None and seen_job.is_active:
                    active[folder] = job
        return active

    def query(
        self, runs: Sequence[SubmittedRun], *, is_being_submitted: bool
    ) -> tuple[dict[Path, Answer], list[str]]:
        notes: list[str] = []
        noted = {run.submission.token: self.job_ids(run.submission) for run in runs}
        unsettled = [run for run in runs if is_unsettled(run.status)]
        returning = [
            run for run in runs if may_come_back(run.status, noted[run.submission.token].get(run.folder.name))
        ]
        seen = _look_in_queue([run.submission.name for run in [*unsettled, *returning]], notes)
        ids = _ids((seen or {}).values())
        # Once for each submission, which may have thousands of runs.
        named = {
            run.submission.token: run.submission for run in runs if ids.get(run.submission.name) is not None
        }
        noted |= {token: self.job_ids(one, ids[one.name]) for token, one in named.items()}
        jobs = {run.folder: noted[run.submission.token].get(run.folder.name) for run in runs}
        if seen is not None:
            names = {job: run.submission.name for run in unsettled if (job := jobs[run.folder])}
            seen = slurm_commands.for_each(names, seen)
            missing = [job for job in names if job not in seen or not seen[job].is_active]
            ended = _ask_accounting(missing, notes)
            # sacct may lag behind, and it may list an incomplete row for a job.
            seen |= {job: one for job, one in ended.items() if not one.is_active and one.name == names[job]}
        open_folders = {run.folder for run in unsettled}
        returning_folders = {run.folder for run in returning}
        answers = {}
        for run in runs:
            job, one = jobs[run.folder], run.submission
            seen_job = _job_of(one, job, seen)
            verdict = None
            if run.folder in open_folders:
                if seen is not None:
                    verdict = of_job(run.status, one, job, seen_job, is_being_submitted=is_being_submitted)
            elif run.folder in returning_folders:
                verdict = of_requeued(run.status, seen_job)
            answers[run.folder] = Answer(job, seen_job.nodes if seen_job else "", verdict)
        return answers, notes

    def out_of_reach(self, submission: Submission) -> str | None:
        return None

    def cancel(self, runs: Sequence[RunStatus]) -> None:
        slurm_commands.ask("scancel", *sorted({str(run.job) for run in runs}))

    def log_files(self, submission: Submission, job: str, rank: int) -> list[Path]:
        return [submission.folder / f"{job}_{rank}_log.{end}" for end in ("out", "err")]

    def current_job(self) -> str | None:
        return slurm_commands.current_job()


def _look_in_queue(names: Iterable[str], notes: list[str]) -> dict[str, JobState] | None:
    try:
        return slurm_commands.queue(names)
    except SlurmError as error:
        notes.append(f"Slurm does not answer, so this is what the records say: {error}")
        return None


def _ask_accounting(jobs: Sequence[str], notes: list[str]) -> dict[str, JobState]:
    """Ask sacct about jobs that have ended. squeue lists them for a while, but without their exit code."""
    try:
        found = slurm_commands.accounting([job.partition("_")[0] for job in jobs])
    except SlurmError as error:
        notes.append(f"sacct does not answer, so why some jobs have ended is not known: {error}")
        return {}
    found = slurm_commands.for_each(jobs, found)
    return {job: found[job] for job in jobs if job in found}


def _job_of(one: Submission, job: str | None, seen: dict[str, JobState] | None) -> JobState | None:
    """Return what Slurm says of a submission's job. A job of another name is another cluster's of that id."""
    found = (seen or {}).get(job or "")
    return found if found is not None and found.name == one.name else None


def _waits_for(one: Submission, folder: Path) -> bool:
    """Return whether the record says that this submission trains the run, or will."""
    status = read_status(RunPaths(folder))
    return status.state in UNFINISHED and status.content.get("submission") == one.token


def _ids(jobs: Iterable[JobState]) -> dict[str, str]:
    """Return the id of each submission's job, by name."""
    return {job.name: job.job.partition("_")[0] for job in jobs}
