"""Acting on what was submitted: cancel, submit again."""

from collections.abc import Sequence
from pathlib import Path

from jobs.checks import read_run
from jobs.clusters import load_cluster, parse_cluster
from jobs.local import detached
from jobs.slurm.commands import ask
from jobs.status.overview import RunStatus
from jobs.status.verdicts import Verdict, settle
from jobs.submissions.ledger import Ledger
from jobs.submit import AnyCluster
from suite.errors import UserError
from suite.experiment import Run
from suite.paths import RunPaths
from suite.record import read_status

RETRIED = ("failed", "cancelled", "preempted")


def cancel(
    runs: Sequence[RunStatus], everyone: Sequence[RunStatus], ledger: Ledger, named: bool
) -> list[RunStatus]:
    """Cancel the jobs of these runs; returns those that had one. What runs writes a checkpoint first.

    `everyone`: all runs there are. What others submitted is left alone. Raises UserError for that where it is
    `named`, when Slurm refuses, or for a part of a local submission: its launcher is one process.
    """
    chosen = [run for run in runs if run.state in ("queued", "running") and run.job is not None]
    others = [run for run in chosen if _is_of_others(run, ledger)]
    if others and named and others[0].submission is not None:
        raise UserError(f"{others[0].folder.name} was submitted by {others[0].submission.user}: ask there")
    chosen = [run for run in chosen if run not in others]
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
                Verdict("cancelled", "cancelled before it began"),
                read_status(RunPaths(run.folder)),
            )
    return chosen


def to_retry(runs: Sequence[RunStatus], ledger: Ledger, named: bool) -> list[RunStatus]:
    """What `retry` submits again. Others' runs, and those that diverged and would do so again, are not
    unless they are named.
    """
    if named:
        return [run for run in runs if run.state in (*RETRIED, "diverged")]
    return [run for run in runs if run.state in RETRIED and not _is_of_others(run, ledger)]


def _is_of_others(run: RunStatus, ledger: Ledger) -> bool:
    return run.submission is not None and not ledger.is_ours(run.submission)


def resubmissions(
    runs: Sequence[RunStatus], cluster: str | None, output_dir: Path
) -> list[tuple[AnyCluster, str, list[Run]]]:
    """Runs by the cluster that they go to: the given one, or the one that each was submitted to last.

    Raises UserError, without a given cluster, for a run that was not submitted before, or whose entry in the
    ledger others could have written: a cluster has lines of shell, to be executed as this user.
    """
    if cluster is not None:
        parsed = load_cluster(cluster)
        return [(parsed, "retry", [_run(one) for one in runs])] if runs else []
    groups: dict[str, tuple[AnyCluster, str, list[Run]]] = {}
    for one in runs:
        if one.submission is None:
            raise UserError(f"{one.folder.name} was not submitted to a cluster: say where, by --cluster")
        if not Ledger(output_dir).is_ours(one.submission):
            raise UserError(
                f"{one.folder.name} was submitted by {one.submission.user}: say where, by --cluster"
            )
        key = repr(sorted(one.submission.cluster.items(), key=lambda item: item[0]))
        parsed = parse_cluster(one.submission.cluster, one.submission.name)
        name = one.submission.name.rpartition("-")[0]
        groups.setdefault(key, (parsed, name, []))[2].append(_run(one))
    return list(groups.values())


def _run(one: RunStatus) -> Run:
    if not (one.folder / "run.json").exists():
        raise UserError(f"{one.folder}: was removed; submit its experiment again")
    return read_run(one.folder)
