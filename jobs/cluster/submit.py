"""Submits an experiment's runs, except those that are completed, queued or running.

The order of writing is the ledger's entry, `queued` in the records, the scheduler's call, the job's id in the
entry: after a crash or a refusal at any point no run is lost and none is submitted twice.
"""

import shutil
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from jobs.cluster.backend import NewJob
from jobs.cluster.backends import BACKENDS, AnyCluster
from jobs.cluster.ledger import Ledger, Submission, jobs_folder, new_submission, where_jobs_lie
from jobs.cluster.overview import active_jobs
from jobs.cluster.slurm_commands import SlurmError
from jobs.cluster.snapshot import snapshot, snapshot_name
from suite.errors import UserError
from suite.experiment import Run, check_batches
from suite.files import write_atomically
from suite.paths import RunPaths
from suite.record import RecordWriter, read_status


@dataclass
class Submitted:
    """The outcome of a submission, by names of run folders.

    `queued` maps runs that were under way already to their job. `refused` is the scheduler's message when it
    refused the runs `left`.
    """

    completed: list[str] = field(default_factory=list)
    queued: dict[str, str] = field(default_factory=dict)
    jobs: list[Submission] = field(default_factory=list)
    refused: str | None = None
    left: list[str] = field(default_factory=list)

    @property
    def num_submitted(self) -> int:
        return sum(len(one.folders) for one in self.jobs)


@dataclass(frozen=True)
class SubmitPlan:
    """What a submission would do."""

    to_submit: list[Run]
    completed: list[str]
    queued: dict[str, str]


def plan(runs: Sequence[Run], cluster: AnyCluster, output_dir: Path) -> SubmitPlan:
    """Sort runs into completed ones, queued or running ones with their job or host, and those to submit.

    Raises UserError when batches do not fit the cluster's ranks.
    """
    check_batches(runs, cluster.ranks)
    queued = active_jobs(Ledger(output_dir))
    result = SubmitPlan([], [], {})
    for run in runs:
        name = run.folder_name  # computed on every access
        paths = RunPaths(output_dir / name)
        status = read_status(paths) if paths.status.exists() else None
        state = status.state if status is not None else None
        if state == "completed":
            result.completed.append(name)
        elif name in queued:
            result.queued[name] = queued[name]
        elif status is not None and state == "running":
            result.queued[name] = f"running on {status.content.get('host')}"
        else:
            result.to_submit.append(run)
    return result


def submit(
    runs: Sequence[Run], cluster: AnyCluster, output_dir: Path, experiment: str, *, is_driven: bool = False
) -> Submitted:
    """Submit the runs that are neither completed nor queued, and return at once.

    `is_driven`: by the driver of the study `experiment`, which follows these jobs and may cancel them.

    Raises UserError when nothing was submitted; when only a part was, `refused` says why.
    """
    ledger = Ledger(output_dir)
    check_batches(runs, cluster.ranks)
    with ledger.held():
        planned = plan(runs, cluster, output_dir)
        done = Submitted(planned.completed, planned.queued)
        if not planned.to_submit:
            return done
        home = jobs_folder(output_dir, cluster.jobs_folder)
        sources = snapshot(home / "code")
        chunks = split(planned.to_submit, cluster)
        for number, chunk in enumerate(chunks):
            folders = [run.folder_name for run in chunk]
            spec = cluster.model_dump(mode="json")
            entry = new_submission(experiment, spec, home, sources, folders, is_driven=is_driven)
            # %N limits one array: a limit over several is kept by making each wait for the one before.
            is_limited = cluster.array_parallelism is not None and done.jobs
            job = NewJob(entry, chunk, output_dir, done.jobs[-1].job_id if is_limited else None)
            try:
                done.jobs.append(_submit_one(job, cluster, ledger))
            except UserError as error:
                if not done.jobs:
                    raise
                done.refused = str(error)
                done.left = [run.folder_name for rest in chunks[number:] for run in rest]
                break
    return done


def split(runs: Sequence[Run], cluster: AnyCluster) -> list[list[Run]]:
    """Split runs into chunks that the scheduler takes in one call."""
    size = BACKENDS[cluster.scheduler].max_runs() or max(1, len(runs))
    return [list(runs[start : start + size]) for start in range(0, len(runs), size)]


def scripts(
    chunks: Sequence[Sequence[Run]], cluster: AnyCluster, output_dir: Path, experiment: str
) -> list[str]:
    """Return the script or command line of each chunk. Writes nothing."""
    home, _ = where_jobs_lie(output_dir, cluster.jobs_folder)
    sources = home / "code" / snapshot_name()
    found: list[str] = []
    for chunk in chunks:
        folders = [run.folder_name for run in chunk]
        entry = new_submission(experiment, cluster.model_dump(mode="json"), home, sources, folders)
        after = "ID-OF-THE-FORMER" if found and cluster.array_parallelism is not None else None
        found.append(BACKENDS[cluster.scheduler].preview(NewJob(entry, chunk, output_dir, after), cluster))
    return found


def _submit_one(job: NewJob, cluster: AnyCluster, ledger: Ledger) -> Submission:
    entry = job.submission
    ledger.write(entry)
    former: dict[Path, str | None] = {}
    folders = [ledger.output_dir / name for name in entry.folders]
    made = [folder for folder in folders if not folder.exists()]
    try:
        for run, folder in zip(job.runs, folders, strict=True):
            _queue(run, folder, entry, former)
        job_id = BACKENDS[cluster.scheduler].submit(job, cluster)
    except (UserError, OSError) as error:
        if isinstance(error, SlurmError) and error.kind == "answer_lost":
            raise SlurmError(
                f"{error}; whether Slurm took the job is not known yet: run the same command again in a "
                "minute",
                error.kind,
            ) from None
        ledger.drop(entry)
        _restore(former, made)
        shutil.rmtree(entry.folder, ignore_errors=True)
        if isinstance(error, OSError):
            where = error.filename or ledger.output_dir
            raise UserError(f"{where}: cannot be written: {error.strerror}") from None
        raise
    return ledger.accepted(entry, job_id)


def _queue(run: Run, folder: Path, entry: Submission, former: dict[Path, str | None]) -> None:
    """Write `queued` into the record; its former status goes into `former` so that it can be restored."""
    status = RunPaths(folder).status
    text = status.read_text(encoding="utf-8") if status.exists() else None
    with RecordWriter(run, folder, durable=False) as record:
        former[folder] = text
        record.queue(submission=entry.token)


def _restore(former: dict[Path, str | None], made: Sequence[Path]) -> None:
    """Remove the folders that were created, and restore the status of the other records."""
    for folder in made:
        shutil.rmtree(folder, ignore_errors=True)
    for folder, text in former.items():
        if text is not None:
            write_atomically(RunPaths(folder).status, text)
        elif folder not in made:
            RunPaths(folder).status.unlink(missing_ok=True)
