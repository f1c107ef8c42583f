"""Acts on submitted runs: cancels them, or submits them again."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from jobs.checks import read_run
from jobs.cluster.backends import AnyCluster, backend_of
from jobs.cluster.clusters import load_cluster, parse_cluster
from jobs.cluster.ledger import Ledger
from jobs.cluster.overview import overview
from jobs.cluster.run_status import RunStatus
from jobs.cluster.submit import Submitted, submit
from suite.errors import UserError
from suite.experiment import Run

RETRIED = ("failed", "cancelled", "preempted")


def cancel(output_dir: Path, wanted: Sequence[str]) -> tuple[list[RunStatus], list[RunStatus]]:
    """Cancel the runs of an output folder that are queued or running, or only the `wanted` ones.

    Returns the cancelled runs, and the queued or running ones that were left alone. Raises UserError.
    """
    seen = overview(output_dir)
    cancelled = cancel_runs(seen.select(wanted), seen.runs, Ledger(output_dir), named=bool(wanted))
    overview(output_dir)  # writes into the records which runs never began
    return cancelled, [run for run in seen.runs if run.is_unfinished and run not in cancelled]


def cancel_runs(
    runs: Sequence[RunStatus], everyone: Sequence[RunStatus], ledger: Ledger, named: bool
) -> list[RunStatus]:
    """Cancel the jobs of these runs, and return the runs that had one. Running ones write a checkpoint first.

    `everyone`: all runs of the folder. `named`: whether the user named these runs; if not, those of other
    users and machines are left alone. Raises UserError for such a run if it is named, when the scheduler
    refuses, and for a part of a submission whose runs can only be cancelled together.
    """
    chosen = [run for run in runs if run.is_unfinished and run.job is not None and run.submission is not None]
    obstacles = {run.folder: why for run in chosen if (why := _out_of_reach(run, ledger))}
    if obstacles and named:
        raise UserError(next(iter(obstacles.values())))
    chosen = [run for run in chosen if run.folder not in obstacles]
    groups: dict[str, list[RunStatus]] = {}
    for run in chosen:
        assert run.submission is not None
        groups.setdefault(run.submission.scheduler, []).append(run)
        if backend_of(run.submission).ends_together:
            _check_together(run, chosen, everyone)
    for group in groups.values():
        assert group[0].submission is not None
        backend_of(group[0].submission).cancel(group)
    return chosen


def _check_together(run: RunStatus, chosen: Sequence[RunStatus], everyone: Sequence[RunStatus]) -> None:
    """Raise UserError if other runs of the same submission would end too."""
    one = run.submission
    assert one is not None
    together = [other for other in everyone if other.submission and other.submission.token == one.token]
    others = [other for other in together if other.is_unfinished and other not in chosen]
    if others:
        raise UserError(
            f"{len(others)} other run{'s'[: len(others) != 1]} of the same {one.scheduler} submission would "
            f"end too: its {backend_of(one).job_noun} is one process; `shiftbench cancel --all` ends them "
            "all, and `submit` resumes them"
        )


def _out_of_reach(run: RunStatus, ledger: Ledger) -> str | None:
    """Return why this user cannot cancel a run from this machine, or None."""
    one = run.submission
    assert one is not None
    if not ledger.is_ours(one):
        return f"{run.folder.name} was submitted by {one.user}, who can cancel it"
    return backend_of(one).out_of_reach(one)


@dataclass
class Retried:
    """The outcome of a retry: a submission for each cluster, and a sentence for each run or part refused."""

    submitted: list[Submitted] = field(default_factory=list)
    refused: list[str] = field(default_factory=list)


def retry(output_dir: Path, wanted: Sequence[str], cluster: str | None) -> Retried:
    """Submit again the runs of an output folder that did not complete, or only the `wanted` ones.

    `cluster`: where to; None: to the cluster of each run's newest submission. Raises UserError.
    """
    seen = overview(output_dir).select(wanted)
    chosen, refused = to_retry(seen, cluster, Ledger(output_dir), named=bool(wanted))
    result = Retried(refused=refused)
    for where, name, group in resubmissions(chosen, cluster):
        try:
            done = submit(group, where, output_dir, name)
        except UserError as error:  # another cluster may take its runs
            result.refused.append(str(error))
        else:
            result.refused += [done.refused] if done.refused else []
            result.submitted.append(done)
    return result


def to_retry(
    runs: Sequence[RunStatus], cluster: str | None, ledger: Ledger, named: bool
) -> tuple[list[RunStatus], list[str]]:
    """Return the runs to submit again, and a sentence for each that cannot be.

    Runs of other users, and diverged ones, which would diverge again, are included only if they are named.
    """
    states = (*RETRIED, "diverged") if named else RETRIED
    chosen = [run for run in runs if run.state in states and (named or not _is_of_others(run, ledger))]
    obstacles = {run.folder: _obstacle(run, cluster, ledger) for run in chosen}
    return [run for run in chosen if not obstacles[run.folder]], [text for text in obstacles.values() if text]


def _obstacle(run: RunStatus, cluster: str | None, ledger: Ledger) -> str | None:
    """Return why a run cannot be submitted again, or None."""
    if not (run.folder / "run.json").exists():
        return f"{run.folder}: was removed; submit its experiment again"
    if cluster is None and run.submission is None:
        return f"{run.folder.name} was not submitted to a cluster; choose one with --cluster"
    # A cluster's file has lines of shell, which would be executed as this user.
    if cluster is None and run.submission is not None and not ledger.is_ours(run.submission):
        return f"{run.folder.name} was submitted by {run.submission.user}; choose a cluster with --cluster"
    return None


def _is_of_others(run: RunStatus, ledger: Ledger) -> bool:
    return run.submission is not None and not ledger.is_ours(run.submission)


def resubmissions(runs: Sequence[RunStatus], cluster: str | None) -> list[tuple[AnyCluster, str, list[Run]]]:
    """Group the runs of `to_retry` by cluster: the given one, or that of the newest submission.

    Returns the cluster, the experiment's name and the runs of each group. Raises UserError.
    """
    if cluster is not None:
        parsed = load_cluster(cluster)
        return [(parsed, "retry", [read_run(one.folder) for one in runs])] if runs else []
    groups: dict[str, tuple[AnyCluster, str, list[Run]]] = {}
    for one in runs:
        assert one.submission is not None
        key = repr(sorted(one.submission.cluster.items(), key=lambda item: item[0]))
        parsed = parse_cluster(one.submission.cluster, one.submission.name)
        name = one.submission.name.rpartition("-")[0]
        groups.setdefault(key, (parsed, name, []))[2].append(read_run(one.folder))
    return list(groups.values())
