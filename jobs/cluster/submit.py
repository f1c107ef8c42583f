"""Submits an experiment's runs, except those that are completed, queued or running.

The order of writing is the ledger's entry, `queued` in the records, the scheduler's call, the job's id in the
entry: after a crash or a refusal at any point no run is lost and none is submitted twice.
"""

import os
import shutil
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from jobs.cluster.backend import ActiveJob, NewJob
from jobs.cluster.clusters import BACKENDS, AnyCluster
from jobs.cluster.ledger import BadEntry, Ledger, Submission, jobs_folder, new_submission, where_jobs_lie
from jobs.cluster.overview import active_jobs, overview, usable_entries
from jobs.cluster.slurm_commands import SlurmError
from jobs.cluster.snapshot import snapshot, snapshot_name
from suite.errors import UserError
from suite.experiment import Run, check_batches
from suite.files import read_whole, write_atomically
from suite.paths import RunPaths
from suite.record import UNFINISHED, RecordWriter, Status, read_status

ENDING_S = 45.0
"""How long jobs that end are waited for, while their runs write a checkpoint. Slurm's KillWait is 30 s."""
POLL_S = 1.0


@dataclass
class Submitted:
    """What a submission would do, and has done."""

    completed: list[str] = field(default_factory=list)  # names of run folders
    queued: dict[str, str] = field(default_factory=dict)  # those under way already, with their job or host
    ending: dict[str, str] = field(default_factory=dict)  # those that wait for the end of this job
    unreadable: dict[str, str] = field(default_factory=dict)  # those left alone for what is wrong with them
    left: list[Run] = field(default_factory=list)  # runs to submit that are not in `jobs` yet
    jobs: list[Submission] = field(default_factory=list)
    active: dict[str, ActiveJob] = field(default_factory=dict)  # of every run that is under way in the folder
    waits_for: tuple[str, ...] = ()  # jobs of earlier submissions that must end first
    refused: str | None = None  # the scheduler's message when it refused those in `left`

    @property
    def num_submitted(self) -> int:
        return sum(len(one.folders) for one in self.jobs)


def plan(runs: Sequence[Run], cluster: AnyCluster, output_dir: Path) -> Submitted:
    """Sort runs into completed, queued, running and ending ones, and those to submit. Raises UserError."""
    check_batches(runs, cluster.ranks)
    ledger = Ledger(output_dir)
    active = active_jobs(ledger)
    _, bad = usable_entries(ledger)
    result = Submitted(active=active)
    for run in runs:
        name = run.folder_name  # computed on every access
        status = read_status(RunPaths(output_dir / name))
        if status.state == "completed":
            result.completed.append(name)
        elif name in active:
            (result.ending if active[name].is_ending else result.queued)[name] = active[name].text
        elif obstacle := status.damage or _obstacle(output_dir / name, status, bad):
            result.unreadable[name] = obstacle
        elif status.state == "running":
            result.queued[name] = f"running on {status.content.get('host')}"
        else:
            result.left.append(run)
    return result


def _obstacle(folder: Path, status: Status, bad: Sequence[BadEntry]) -> str | None:
    """Return why a run is left alone: it cannot be written, or an entry that cannot be read may have it."""
    if folder.exists() and not os.access(folder, os.W_OK | os.X_OK):
        return f"{folder}: cannot be written"
    if status.state in UNFINISHED:
        token = status.content.get("submission")
        for entry in bad:
            if entry.token in ("", token) or folder.name in entry.folders:
                return f"it may be queued: {entry.sentence}"
    return None


def submit(
    runs: Sequence[Run],
    cluster: AnyCluster,
    output_dir: Path,
    experiment: str,
    *,
    is_driven: bool = False,
    after: tuple[str, ...] = (),
) -> Submitted:
    """Submit the runs that are neither completed nor queued, and do not wait for them.

    Jobs of these runs that end, as after scancel, are waited for up to ENDING_S; the runs of those that have
    not ended then are left alone, in `ending`. `after`: the ids of jobs, of any output folder, that must end
    first. `is_driven`: by the driver of the study `experiment`, which follows these jobs, may cancel them,
    and does not wait here. Raises UserError when nothing was submitted; when only a part was, `refused` says
    why.
    """
    ledger = Ledger(output_dir)
    check_batches(runs, cluster.ranks)
    deadline = time.monotonic() + ENDING_S
    while True:
        with ledger.held():
            done = plan(runs, cluster, output_dir)
            if not done.ending or is_driven or time.monotonic() >= deadline:
                return _submit_planned(done, cluster, ledger, experiment, is_driven, after)
        time.sleep(POLL_S)
        # A run that was killed cannot say so: its record is settled by what the scheduler says.
        overview(output_dir, [output_dir / name for name in done.ending])


def _submit_planned(
    done: Submitted,
    cluster: AnyCluster,
    ledger: Ledger,
    experiment: str,
    is_driven: bool,
    after: tuple[str, ...],
) -> Submitted:
    """Submit what is `left`, and note the jobs. The ledger is held."""
    output_dir = ledger.output_dir
    if not done.left:
        return done
    home = jobs_folder(output_dir, cluster.jobs_folder)
    sources = snapshot(home / "code")
    driver = experiment if is_driven else None
    done.waits_for = () if is_driven else in_the_way(done, cluster, ledger)
    after = (*after, *done.waits_for)
    for job in _new_jobs(done.left, cluster, output_dir, experiment, home, sources, driver):
        try:
            done.jobs.append(_submit_one(replace(job, after=after), cluster, ledger))
        except UserError as error:
            if not done.jobs:
                raise
            done.refused = str(error)
            break
        done.left = done.left[len(job.runs) :]
        if cluster.runs_at_a_time is not None:
            after = tuple(filter(None, [done.jobs[-1].job_id]))

    return done


def in_the_way(planned: Submitted, cluster: AnyCluster, ledger: Ledger) -> tuple[str, ...]:
    """Return the jobs of earlier submissions that must end before the planned runs may begin.

    A scheduler limits one array; a limit over several is kept by making each wait for those before.
    """
    limit = cluster.runs_at_a_time
    newest = {name: one for one in usable_entries(ledger)[0] for name in one.folders}
    active = {
        name: job
        for name, job in planned.active.items()
        if newest[name].cluster.get("name") == cluster.name and ledger.is_ours(newest[name])
    }
    if limit is None or len(active) + len(planned.left) <= limit:
        return ()
    return tuple(sorted({newest[name].job_id or job.text.partition("_")[0] for name, job in active.items()}))


def scripts(
    planned: Submitted, cluster: AnyCluster, output_dir: Path, experiment: str
) -> list[tuple[Sequence[Run], str]]:
    """Return the runs and the script or command line of each call that `submit` makes. Writes nothing."""
    runs = planned.left
    if not runs:
        return []
    home = where_jobs_lie(output_dir, cluster.jobs_folder)
    sources = home / "code" / snapshot_name()
    jobs = list(_new_jobs(runs, cluster, output_dir, experiment, home, sources))
    jobs[0] = replace(jobs[0], after=in_the_way(planned, cluster, Ledger(output_dir)))
    if cluster.runs_at_a_time is not None:
        jobs[1:] = [replace(job, after=("ID-OF-THE-FORMER",)) for job in jobs[1:]]
    return [(job.runs, BACKENDS[cluster.scheduler].preview(job, cluster)) for job in jobs]


def _new_jobs(
    runs: Sequence[Run],
    cluster: AnyCluster,
    output_dir: Path,
    experiment: str,
    home: Path,
    sources: Path,
    driver: str | None = None,
) -> Iterator[NewJob]:
    """Yield the calls of the scheduler, each with as many runs as it takes."""
    size = BACKENDS[cluster.scheduler].max_runs() or max(1, len(runs))
    for start in range(0, len(runs), size):
        chunk = runs[start : start + size]
        names = [run.folder_name for run in chunk]
        entry = new_submission(experiment, cluster.model_dump(mode="json"), home, sources, names, driver)
        yield NewJob(entry, chunk, output_dir)


def _submit_one(job: NewJob, cluster: AnyCluster, ledger: Ledger) -> Submission:
    """Submit one job and return its entry. Undoes what was written if the scheduler refuses."""
    entry = job.submission
    entry = ledger.write(entry)
    former: dict[Path, bytes | None] = {}
    folders = [ledger.output_dir / name for name in entry.folders]
    made = [folder for folder in folders if not folder.exists()]
    try:
        for run, folder in zip(job.runs, folders, strict=True):
            status = RunPaths(folder).status
            text = read_whole(status)
            with RecordWriter(run, folder, durable=False) as record:
                former[status] = text
                record.queue(submission=entry.token)
        job_id = BACKENDS[cluster.scheduler].submit(job, cluster)
    except (UserError, OSError) as error:
        if isinstance(error, SlurmError) and error.kind == "answer_lost":
            unknown = "whether Slurm took the job is not known yet: run the same command again in a minute"
            raise SlurmError(f"{error}; {unknown}", error.kind) from None
        ledger.drop(entry)
        for folder in [*made, entry.folder]:
            shutil.rmtree(folder, ignore_errors=True)
        for status, text in former.items():
            if text is None:
                status.unlink(missing_ok=True)
            else:
                write_atomically(status, text)
        if isinstance(error, OSError):
            where = error.filename or ledger.output_dir
            raise UserError(f"{where}: cannot be written: {error.strerror}") from None
        raise
    return ledger.accepted(entry, job_id)
