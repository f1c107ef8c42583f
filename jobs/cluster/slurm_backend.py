"""The backend `slurm`: a submission is one job of sbatch, an array where it has several runs.

One query of squeue answers for all runs, and one of sacct for those whose job has left the queue although
their record does not say how they ended.
"""

import re
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from jobs.checks import writing
from jobs.cluster import sbatch, slurm_commands
from jobs.cluster.backend import ActiveJob, JobVerdict, NewJob, RunStatus, SchedulerAnswer, SubmittedRun
from jobs.cluster.container import why_not_started
from jobs.cluster.inside import Inside, inside_of
from jobs.cluster.ledger import Submission, private_folder
from jobs.cluster.slurm_cluster import SlurmCluster
from jobs.cluster.slurm_commands import JobState, SlurmError
from jobs.cluster.task import TrainTask
from suite.files import is_full
from suite.paths import RunPaths
from suite.record import UNFINISHED, Status, read_status
from suite.record.hang import Hang
from suite.record.rank_errors import why_aborted
from suite.user import user_name

# Submitit's own requeueing is used only before a task handles signals itself: see TrainTask.checkpoint.
MAX_EARLY_WARNINGS = 3
LONGEST_RETURN_S = 7 * 24 * 3600.0
WAITING = ("PENDING", "REQUEUED", "REQUEUE_HOLD", "CONFIGURING", "SUSPENDED")
ENDING = ("COMPLETING", "STAGE_OUT")
NUM_LINES = 20  # of a log, that may say why a job ended
# Lmod and Environment Modules say more than a line.
_REASON = re.compile(r"error|not found|no such|cannot|unable|unknown|not set", re.IGNORECASE)


class SlurmBackend:
    """Slurm, by its own commands and by Submitit's scripts. A job's id is `12`, or `12_3` in an array."""

    cluster_type = SlurmCluster
    job_noun = "job"
    ends_together = False

    def max_runs(self) -> int | None:
        return slurm_commands.max_array_size(slurm_commands.config())

    def preview(self, job: NewJob, cluster: SlurmCluster) -> str:
        return self._script(job, cluster, _inside(job, cluster))

    def _script(self, job: NewJob, cluster: SlurmCluster, inside: Inside | None) -> str:
        one = job.submission
        return sbatch.script(len(job.runs), cluster, one.folder, Path(one.snapshot), job.after, inside)

    def submit(self, job: NewJob, cluster: SlurmCluster) -> str:
        inside = _inside(job, cluster)
        folder, names = private_folder(job.submission.folder), job.submission.folders
        # The script and the pickles are written before the call, so that the job needs nothing else.
        path = folder / "submission.sh"
        path.write_text(self._script(job, cluster, inside), encoding="utf-8")
        for mounted in inside.folders if inside else ():
            with writing(mounted):
                mounted.mkdir(parents=True, exist_ok=True)
        from submitit.core.utils import DelayedSubmission

        for number, (run, name) in enumerate(zip(job.runs, names, strict=True)):
            folder_text = str((job.output_dir / name).absolute())
            task = TrainTask(run.model_dump_json(), folder_text, job.submission.snapshot)
            delayed = DelayedSubmission(task)
            delayed.set_timeout(sbatch.minutes(cluster) or 0, MAX_EARLY_WARNINGS)
            delayed.dump(folder / sbatch.TASK_PICKLE.format(number))
        with sbatch.outside_any_job():
            answer = slurm_commands.ask("sbatch", str(path))
        job_id = slurm_commands.submitted_job(answer, job.submission.name)
        if job_id is None:
            raise SlurmError(f"sbatch printed {answer.strip()!r} and no job's id", "answer_lost")
        return job_id

    def job_ids(self, submission: Submission, job_id: str | None = None) -> dict[str, str]:
        job_id = job_id or submission.job_id
        if job_id is None or len(submission.folders) == 1:
            return dict.fromkeys(submission.folders, job_id) if job_id else {}
        return {folder: f"{job_id}_{number}" for number, folder in enumerate(submission.folders)}

    def active(self, submissions: Sequence[Submission], output_dir: Path) -> dict[str, ActiveJob]:
        # The job of an interrupted submission, which has no id, is found by its name. Where Slurm hides the
        # jobs of other users (PrivateData), their records decide.
        seen = slurm_commands.queue(one.name for one in submissions)
        ids = {job.name: job.job.partition("_")[0] for job in seen.values()}
        active: dict[str, ActiveJob] = {}
        for one in submissions:
            for folder, job in self.job_ids(one, ids.get(one.name)).items():
                seen_job = _job_of(one, job, seen)
                if seen_job is not None and seen_job.is_active:
                    active[folder] = ActiveJob(job, _ends(seen_job, output_dir / folder))
                elif seen_job is None and one.user != user_name():
                    status = read_status(RunPaths(output_dir / folder))
                    if status.state in UNFINISHED and status.content.get("submission") == one.token:
                        active[folder] = ActiveJob(f"{job} of {one.user}")
        return active

    def query(
        self, runs: Sequence[SubmittedRun], *, is_being_submitted: bool
    ) -> tuple[dict[Path, SchedulerAnswer], list[str]]:
        notes: list[str] = []
        submissions = {run.submission.token: run.submission for run in runs}
        ids = {token: self.job_ids(one) for token, one in submissions.items()}
        unsettled = [run for run in runs if is_unsettled(run.status)]
        returning = [run for run in runs if may_come_back(run.status, _job_in(ids, run))]
        try:
            seen = slurm_commands.queue(run.submission.name for run in [*unsettled, *returning])
        except SlurmError as error:
            notes.append(f"Slurm does not answer, so this is what the records say: {error}")
            asked = {run.folder for run in [*unsettled, *returning]}
            return {
                run.folder: SchedulerAnswer(_job_in(ids, run), is_unknown=run.folder in asked) for run in runs
            }, notes
        by_name = {job.name: job.job.partition("_")[0] for job in seen.values()}
        ids |= {key: self.job_ids(one, by_name.get(one.name)) for key, one in submissions.items()}
        names = {job: run.submission.name for run in unsettled if (job := _job_in(ids, run))}
        seen = slurm_commands.for_each(names, seen)
        missing = {job for job in names if job not in seen or not seen[job].is_active}
        ended: dict[str, JobState] = {}
        try:  # squeue lists an ended job for a while, but without its exit code
            ended = slurm_commands.accounting([job.partition("_")[0] for job in missing])
            ended = slurm_commands.cancelled_in_waiting_arrays(missing, seen) | ended
        except SlurmError as error:
            notes.append(f"sacct does not answer, so why some jobs have ended is not known: {error}")
        for key, one in slurm_commands.for_each(missing, ended).items():
            # sacct may lag behind, and it may list an incomplete row for a job.
            if key in missing and not one.is_active and one.name == names[key]:
                seen[key] = one
        answers = {}
        for run in runs:
            job = _job_in(ids, run)
            found = _job_of(run.submission, job, seen)
            verdict = None
            if is_unsettled(run.status):
                verdict = of_job(run.status, run.submission, job, found, is_being_submitted)
                if verdict.state == "failed" and verdict.is_final:
                    full = _full_disk(run.folder, run.submission.folder)
                    verdict = replace(verdict, reason=verdict.reason + full)
            elif found is not None and found.state in WAITING and may_come_back(run.status, job):
                verdict = JobVerdict("queued", f"{found.reason or found.state}; {run.status.reason}")
            ends = found is not None and is_ending(run.status, found)
            answers[run.folder] = SchedulerAnswer(job, found.nodes if found else "", verdict, is_ending=ends)
        return answers, notes

    def out_of_reach(self, submission: Submission) -> str | None:
        return None

    def cancel(self, runs: Sequence[RunStatus]) -> None:
        slurm_commands.ask("scancel", *sorted({str(run.job) for run in runs}))

    def log_files(self, submission: Submission, job: str, rank: int) -> list[Path]:
        return [submission.folder / f"{job}_{rank}_log.{end}" for end in ("out", "err")]

    def current_job(self) -> str | None:
        return slurm_commands.current_job()


def _inside(job: NewJob, cluster: SlurmCluster) -> Inside | None:
    """Return the inside of a job's container, or None. Raises UserError for an image that is missing."""
    one = job.submission
    folders = (job.output_dir.absolute(), one.folder)
    return inside_of(cluster, job.runs, folders, one.folder, Path(one.snapshot))


def _job_in(ids: dict[str, dict[str, str]], run: SubmittedRun) -> str | None:
    return ids[run.submission.token].get(run.folder.name)


def _job_of(one: Submission, job: str | None, seen: dict[str, JobState]) -> JobState | None:
    """Return what Slurm says of a submission's job. A job of another name is another cluster's of that id."""
    found = seen.get(job or "")
    return found if found is not None and found.name == one.name else None


def _ends(seen: JobState, folder: Path) -> bool:
    return seen.state not in WAITING and is_ending(read_status(RunPaths(folder)), seen)


def is_ending(status: Status, seen: JobState) -> bool:
    """Return whether a run's job is about to leave the queue, by Slurm or by the run's record.

    A job that Slurm has just started again may have the same record: who waits for the end sees it run.
    """
    if seen.state in ENDING:
        return True
    if seen.state in WAITING or not seen.is_active:
        return False
    has_ended = status.died_silently or status.state not in ("queued", "running")
    return has_ended and status.content.get("job") == seen.job


def is_unsettled(status: Status) -> bool:
    """Return whether the record does not say how the run ended, so that its scheduler must be asked."""
    is_unreadable = status.is_missing or status.damage is not None
    return status.state in UNFINISHED or status.died_silently or is_unreadable


def may_come_back(status: Status, job: str | None) -> bool:
    """Return whether a failed run's own job may be in the queue again, as after the failure of a node."""
    if status.state != "failed" or job is None or status.content.get("job") != job:
        return False
    return time.time() - float(status.content.get("updated_at", 0.0)) < LONGEST_RETURN_S


def of_job(
    status: Status, one: Submission, job: str | None, seen: JobState | None, is_being_submitted: bool = False
) -> JobVerdict:
    """Judge a record that does not say how the run ended by what Slurm says of its job."""
    as_recorded = JobVerdict(status.state, status.reason or "")
    if status.state in ("running", "preempted") and status.content.get("job") != job:
        return as_recorded  # it was continued by another process
    if status.damage is not None and not (seen is not None and seen.is_active):
        return as_recorded
    if job is None and is_being_submitted:
        return JobVerdict("queued", "being submitted")
    if job is None:
        return JobVerdict("failed", "its submission was interrupted before Slurm took it: submit again")
    if seen is None:
        if status.state in UNFINISHED and one.user != user_name():
            return JobVerdict(status.state, f"submitted by {one.user}; Slurm does not show you job {job}")
        if status.state == "preempted":
            return as_recorded
        unknown = f"job {job} is no longer in the queue and Slurm gives no reason; see `shiftbench logs`"
        return JobVerdict("failed", unknown)
    recorded = "" if status.died_silently or status.is_missing or not status.reason else f"; {status.reason}"
    if seen.state in WAITING:
        return JobVerdict("queued", f"{seen.reason or seen.state}{recorded}")
    if seen.is_active:
        is_up = status.state == "running"
        return JobVerdict("running", "" if is_up else "its processes are starting, or ending")
    if seen.state == "CANCELLED":
        return JobVerdict("cancelled", f"job {job} was cancelled{recorded}", is_final=True)
    if seen.state == "COMPLETED" and status.state in ("running", "preempted"):
        return as_recorded  # its final record may not be visible yet
    if status.errors:
        return JobVerdict("failed", status.reason or "", is_final=True)
    # A requeued job goes on in its logs: where this end has a reason of its own, an abort in them is older.
    error = _last_error(one, job, status.hang, may_have_aborted=seen.state == "FAILED")
    return JobVerdict("failed", f"job {job}: {seen.end}{recorded or error}", is_final=True)


def _full_disk(*folders: Path) -> str:
    """Return that a job could write nothing, not even its errors, if that is so now."""
    full = next(filter(is_full, folders), None)
    return "" if full is None else f"; the file system of {full} is full"


def _last_error(one: Submission, job: str, hang: Hang | None, *, may_have_aborted: bool) -> str:
    """Return why a job ended: NCCL's watchdog, or a line of its log.

    That is the failed line of set-up, a container's that did not start, srun's error, or the last one.
    """
    for log in sorted(one.folder.glob(f"{job}_*_log.err")) if may_have_aborted else ():
        if why := why_aborted(log, hang):
            return f"; {why}"
    errors, output = (_last_lines(one.folder / f"{job}_0_log.{end}") for end in ("err", "out"))
    for number, line in reversed(list(enumerate(errors))):
        if line.startswith(sbatch.SETUP_FAILED):
            reasons = [text for text in [*output, *errors[:number]] if _REASON.search(text)]
            return "; ".join(["", line, *reasons[-1:]])
    if why := why_not_started(errors):
        return f"; {why}"
    own = [line for line in errors if line.startswith("srun: error")]
    return f"; {(own or errors[-1:])[0]}" if errors else ""


def _last_lines(log: Path) -> list[str]:
    """Return the end of a job's log, without what its verdict says already."""
    try:
        text = log.read_text(errors="replace")
    except OSError:
        return []
    known = ("Exited with exit code", "Terminating StepId", "Job step aborted")
    lines = [line.strip() for line in text.splitlines() if line.strip()][-NUM_LINES:]
    return [line for line in lines if not any(words in line for words in known)]
