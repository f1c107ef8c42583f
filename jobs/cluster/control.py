"""Acting on what was submitted: cancel, submit again."""

from collections.abc import Sequence

from jobs.checks import read_run
from jobs.cluster import detached
from jobs.cluster.clusters import load_cluster, parse_cluster
from jobs.cluster.job_verdicts import JobVerdict, settle
from jobs.cluster.ledger import Ledger
from jobs.cluster.overview import RunStatus
from jobs.cluster.slurm_commands import ask
from jobs.cluster.submit import AnyCluster
from suite.errors import UserError
from suite.experiment import Run
from suite.paths import RunPaths
from suite.record import read_status

RETRIED = ("failed", "cancelled", "preempted")


def cancel(
    runs: Sequence[RunStatus], everyone: Sequence[RunStatus], ledger: Ledger, named: bool
) -> list[RunStatus]:
    """Cancel the jobs of these runs; returns those that had one. What runs writes a checkpoint first.

    `everyone`: all runs there are. What is out of reach is left alone. Raises UserError for that where it is
    `named`, when Slurm refuses, or for a part of a local submission: its launcher is one process.
    """
    chosen = [run for run in runs if run.state in ("queued", "running") and run.job is not None]
    obstacles = {run.folder: why for run in chosen if (why := _out_of_reach(run, ledger))}
    if obstacles and named:
        raise UserError(next(iter(obstacles.values())))
    chosen = [run for run in chosen if run.folder not in obstacles]
    slurm = [run for run in chosen if run.submission is not None and run.submission.is_slurm]
    local = {run.submission.token: run.submission for run in chosen if run.submission and run not in slurm}
    for token in local:
        of_it = [run for run in everyone if run.submission is not None and run.submission.token == token]
        others = [run for run in of_it if run.state in ("queued", "running") and run not in chosen]
        if others:
            raise UserError(
                f"{len(others)} other run{'s'[: len(others) != 1]} of the same local submission would end "
                "too: its launcher is one process; `shiftbench cancel --all` ends them all, and `submit` "
                "resumes them"
            )
    if slurm:
        ask("scancel", *sorted({str(run.job) for run in slurm}))
    for one in local.values():
        detached.stop(one)
    for run in chosen:
        if run.state == "queued" and run not in slurm:
            settle(
                run.folder,
                JobVerdict("cancelled", "cancelled before it began"),
                read_status(RunPaths(run.folder)),
            )
    return chosen


def _out_of_reach(run: RunStatus, ledger: Ledger) -> str | None:
    """Why this user cannot cancel a run from this machine."""
    one = run.submission
    if one is not None and not ledger.is_ours(one):
        return f"{run.folder.name} was submitted by {one.user}: ask there"
    if one is not None and not one.is_slurm and detached.is_alive(one) is None:
        return f"the launcher of {one.name} runs on {one.host}: cancel there"
    return None


def to_retry(
    runs: Sequence[RunStatus], cluster: str | None, ledger: Ledger, named: bool
) -> tuple[list[RunStatus], list[str]]:
    """What `retry` submits again, and of what it cannot a sentence each.

    Others' runs, and those that diverged and would do so again, are only where they are named.
    """
    states = (*RETRIED, "diverged") if named else RETRIED
    chosen = [run for run in runs if run.state in states and (named or not _is_of_others(run, ledger))]
    obstacles = {run.folder: _obstacle(run, cluster, ledger) for run in chosen}
    return [run for run in chosen if not obstacles[run.folder]], [text for text in obstacles.values() if text]


def _obstacle(run: RunStatus, cluster: str | None, ledger: Ledger) -> str | None:
    """Why a run cannot be submitted again as it stands."""
    if not (run.folder / "run.json").exists():
        return f"{run.folder}: was removed; submit its experiment again"
    if cluster is None and run.submission is None:
        return f"{run.folder.name} was not submitted to a cluster: say where, by --cluster"
    # A cluster has lines of shell, to be executed as this user.
    if cluster is None and run.submission is not None and not ledger.is_ours(run.submission):
        return f"{run.folder.name} was submitted by {run.submission.user}: say where, by --cluster"
    return None


def _is_of_others(run: RunStatus, ledger: Ledger) -> bool:
    return run.submission is not None and not ledger.is_ours(run.submission)


def resubmissions(runs: Sequence[RunStatus], cluster: str | None) -> list[tuple[AnyCluster, str, list[Run]]]:
    """Runs of `to_retry` by the cluster that they go to: the given one, or that of the last submission."""
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
