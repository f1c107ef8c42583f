"""From an experiment's runs to jobs: what is done or under way is left alone, the rest is submitted.

Written in this order, so that a crash or a refusal at any point loses nothing and doubles nothing: the
ledger's entry, `queued` in the records, the scheduler's call, the job's id in the entry.
"""

import shlex
import shutil
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from jobs.cluster import detached, sbatch
from jobs.cluster.clusters import LocalCluster, SlurmCluster
from jobs.cluster.ledger import Ledger, Submission, jobs_folder, new_submission, where_jobs_lie
from jobs.cluster.overview import active_jobs
from jobs.cluster.slurm_commands import SlurmError, config, max_array_size
from jobs.cluster.snapshot import snapshot, snapshot_name
from suite.errors import UserError
from suite.experiment import Run, check_batches
from suite.paths import RunPaths
from suite.record import RecordWriter, read_status, write_atomically

AnyCluster = LocalCluster | SlurmCluster


@dataclass
class Submitted:
    """What came of a submission, by run folder."""

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
    """What a submission would do: nothing is touched yet."""

    to_submit: list[Run]
    completed: list[str]
    queued: dict[str, str]


def plan(runs: Sequence[Run], cluster: AnyCluster, output_dir: Path) -> SubmitPlan:
    """Sort runs into completed, queued (with their job, or the process that trains them) and to be submitted.

    Raises UserError when batches do not fit the cluster's ranks.
    """
    check_batches(runs, cluster.ranks)
    queued = active_jobs(Ledger(output_dir))
    result = SubmitPlan([], [], {})
    for run in runs:
        name = run.folder_name  # a hash of the run: not for nothing
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
    """Submit what is neither completed nor queued, and return without waiting for it.

    `is_driven`: by the driver of the study `experiment`, which follows these jobs and may end them.

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
            try:
                done.jobs.append(_submit_one(entry, chunk, cluster, ledger, _after(cluster, done.jobs)))
            except UserError as error:
                if not done.jobs:
                    raise
                done.refused = str(error)
                done.left = [run.folder_name for rest in chunks[number:] for run in rest]
                break
    return done


def split(runs: Sequence[Run], cluster: AnyCluster) -> list[list[Run]]:
    """Arrays no larger than the site takes."""
    size = len(runs) if isinstance(cluster, LocalCluster) else max_array_size(config())
    return [list(runs[start : start + size]) for start in range(0, len(runs), size)]


def scripts(
    chunks: Sequence[Sequence[Run]], cluster: AnyCluster, output_dir: Path, experiment: str
) -> list[str]:
    """What each array would be submitted as; nothing is written."""
    home, _ = where_jobs_lie(output_dir, cluster.jobs_folder)
    sources = home / "code" / snapshot_name()
    found: list[str] = []
    for chunk in chunks:
        folders = [run.folder_name for run in chunk]
        entry = new_submission(experiment, cluster.model_dump(mode="json"), home, sources, folders)
        if isinstance(cluster, LocalCluster):
            found.append(shlex.join(detached.command(entry, output_dir)))
        else:
            after = "ID-OF-THE-FORMER" if found and cluster.array_parallelism is not None else None
            target = sbatch.Target(entry.name, home, sources)
            found.append(sbatch.script(len(chunk), cluster, target, after))
    return found


def _after(cluster: AnyCluster, jobs: Sequence[Submission]) -> str | None:
    """%N holds within one array: a limit over several is kept by having them wait for one another."""
    if isinstance(cluster, LocalCluster) or cluster.array_parallelism is None or not jobs:
        return None
    return jobs[-1].job_id


def _submit_one(
    entry: Submission, runs: Sequence[Run], cluster: AnyCluster, ledger: Ledger, after: str | None
) -> Submission:
    ledger.write(entry)
    target = sbatch.Target(entry.name, Path(entry.jobs_folder), Path(entry.snapshot))
    former: dict[Path, str | None] = {}
    made = [folder for name in entry.folders if not (folder := ledger.output_dir / name).exists()]
    folders = [ledger.output_dir / name for name in entry.folders]
    try:
        for run, folder in zip(runs, folders, strict=True):
            _queue(run, folder, entry, former)
        if isinstance(cluster, LocalCluster):
            job_id = detached.start(entry, ledger)
        else:
            tasks = [
                sbatch.task_for(run.model_dump_json(), folder)
                for run, folder in zip(runs, folders, strict=True)
            ]
            job_id = sbatch.submit(tasks, cluster, target, after)
    except sbatch.NoAnswer as error:
        raise SlurmError(
            f"{error}; whether Slurm took the job is not known yet: run the same command again in a minute"
        ) from None
    except (UserError, OSError) as error:
        ledger.drop(entry)
        _take_back(former, made)
        shutil.rmtree(target.folder, ignore_errors=True)
        if isinstance(error, OSError):
            where = error.filename or ledger.output_dir
            raise UserError(f"{where}: cannot be written: {error.strerror}") from None
        raise
    return ledger.accepted(entry, job_id)


def _queue(run: Run, folder: Path, entry: Submission, former: dict[Path, str | None]) -> None:
    """Have the record say `queued`; what it said before goes to `former`, to be taken back."""
    status = RunPaths(folder).status
    text = status.read_text(encoding="utf-8") if status.exists() else None
    with RecordWriter(run, folder, durable=False) as record:
        former[folder] = text
        record.queue(submission=entry.token)


def _take_back(former: dict[Path, str | None], made: Sequence[Path]) -> None:
    """Remove the folders that were made, and give the other records back their word."""
    for folder in made:
        shutil.rmtree(folder, ignore_errors=True)
    for folder, text in former.items():
        if text is not None:
            write_atomically(RunPaths(folder).status, text)
        elif folder not in made:
            RunPaths(folder).status.unlink(missing_ok=True)
