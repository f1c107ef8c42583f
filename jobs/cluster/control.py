"""Acts on submitted runs: cancels them, or submits them again."""

import os
import time
from collections.abc import Sequence
from pathlib import Path

from jobs.checks import read_run
from jobs.cluster.backend import RunStatus, ask_to_end
from jobs.cluster.clusters import AnyCluster, backend_of, by_backend, load_cluster, parse_cluster
from jobs.cluster.ledger import Ledger, Submission
from jobs.cluster.overview import overview
from jobs.cluster.slurm_commands import SlurmError
from jobs.cluster.submit import ENDING_S, POLL_S, Submitted, submit
from suite.errors import UserError
from suite.experiment import Run

RETRIED = ("failed", "cancelled", "preempted")


class NoAnswer(UserError):
    """A scheduler did not answer, so not every run could be cancelled. `num_cancelled` were."""

    def __init__(self, message: str, num_cancelled: int) -> None:
        super().__init__(message)
        self.num_cancelled = num_cancelled


def cancel(
    output_dir: Path, wanted: Sequence[str]
) -> tuple[list[RunStatus], list[RunStatus], list[RunStatus]]:
    """Cancel queued and running runs, or the `wanted` ones, and wait until they have ended.

    So a `retry` right behind it finds runs to retry. Returns the cancelled runs, those that were left alone,
    and those of the cancelled that are still ending after ENDING_S.

    Raises NoAnswer when a scheduler does not say which runs it has, or does not take the request.
    """
    seen = overview(output_dir)
    try:
        cancelled = cancel_runs(seen.select(wanted), seen.runs, Ledger(output_dir), named=bool(wanted))
    except SlurmError as error:
        if not error.is_temporary:
            raise
        raise NoAnswer(str(error), 0) from None
    overview(output_dir)  # writes into the records which runs never began
    if seen.unanswered:
        raise NoAnswer("; ".join(seen.unanswered), len(cancelled))
    left = [run for run in seen.runs if run.is_unfinished and run not in cancelled]
    return cancelled, left, _still_ending(output_dir, cancelled)


def _still_ending(output_dir: Path, cancelled: Sequence[RunStatus]) -> list[RunStatus]:
    """Wait for cancelled runs that were running; return those that have not ended after ENDING_S.

    Their jobs may be in the queue for longer, which `submit` waits for.
    """
    deadline = time.monotonic() + ENDING_S
    ending = [run for run in cancelled if run.state != "queued"]
    while ending:
        seen = overview(output_dir, [run.folder for run in ending]).runs
        ending = [run for run in seen if run.is_unfinished]
        if not ending or time.monotonic() > deadline:
            break
        time.sleep(POLL_S)
    return ending


def cancel_runs(
    runs: Sequence[RunStatus], everyone: Sequence[RunStatus], ledger: Ledger, named: bool
) -> list[RunStatus]:
    """Cancel the jobs of these runs, and return the runs that had one. Running ones write a checkpoint first.

    `everyone`: all runs of the folder. `named`: whether the user named these runs; if not, those of other
    users and machines are left alone. Raises UserError for a named one of those, a refusal of the scheduler,
    and a part of a submission whose runs can only be cancelled together.
    """
    chosen = [run for run in runs if run.is_unfinished and run.job is not None and run.submission is not None]
    obstacles = {run.folder: why for run in chosen if (why := _out_of_reach(run, ledger))}
    if obstacles and named:
        raise UserError(next(iter(obstacles.values())))
    chosen = [run for run in chosen if run.folder not in obstacles]
    groups = by_backend(chosen, _submission)
    for run in chosen:
        if backend_of(_submission(run)).ends_together:
            _check_together(_submission(run), chosen, everyone)
    for backend, group in groups.items():
        backend.cancel(group)
        for run in group:
            ask_to_end(run)  # `status` shows it as cancelling
    return chosen


def _submission(run: RunStatus) -> Submission:
    assert run.submission is not None
    return run.submission


def _check_together(one: Submission, chosen: Sequence[RunStatus], everyone: Sequence[RunStatus]) -> None:
    """Raise UserError if other runs of the same submission would end too."""
    together = [run for run in everyone if run.submission and run.submission.token == one.token]
    others = [run for run in together if run.is_unfinished and run not in chosen]
    if others:
        raise UserError(
            f"{len(others)} other run{'s'[: len(others) != 1]} of the same {one.scheduler} submission would "
            f"end too: its {backend_of(one).job_noun} is one process; `shiftbench cancel --all` ends them "
            "all, and `shiftbench submit` resumes them"
        )


def _out_of_reach(run: RunStatus, ledger: Ledger) -> str | None:
    """Return why this user cannot cancel a run from this machine, or None."""
    one = _submission(run)
    if not ledger.is_ours(one):
        return f"{run.folder.name} was submitted by {one.user}, who can cancel it"
    return backend_of(one).out_of_reach(one)


def retry(output_dir: Path, wanted: Sequence[str], cluster: str | None) -> tuple[list[Submitted], list[str]]:
    """Submit again the runs of an output folder that did not complete, or only the `wanted` ones.

    Those whose job is ending are waited for.

    `cluster`: where to; None: to the cluster of each run's newest submission. Returns a submission for each
    cluster, and a sentence for each run or part that was refused. Raises UserError.
    """
    seen = overview(output_dir).select(wanted)
    chosen, refused = to_retry(seen, cluster, Ledger(output_dir), named=bool(wanted))
    submitted = []
    groups, unreadable = resubmissions(chosen, cluster)
    refused += unreadable
    for where, name, group in groups:
        try:
            submitted.append(submit(group, where, output_dir, name))
        except UserError as error:  # another cluster may take its runs
            refused.append(str(error))
    refused += [sentence for done in submitted for sentence in done.unreadable.values()]
    return submitted, refused + [done.refused for done in submitted if done.refused]


def to_retry(
    runs: Sequence[RunStatus], cluster: str | None, ledger: Ledger, named: bool
) -> tuple[list[RunStatus], list[str]]:
    """Return the runs to submit again, also those that are ending, and a sentence for each that cannot be.

    Runs of other users, and diverged ones, which would diverge again, are included only if they are named.
    """
    chosen: list[RunStatus] = []
    refused: list[str] = []
    for run in runs:
        one = run.submission
        is_of_others = one is not None and not ledger.is_ours(one)
        has_failed = run.state in ((*RETRIED, "diverged") if named else RETRIED)
        is_ending = run.state == "cancelling" or (run.state == "running" and run.is_ending)
        if not (has_failed or is_ending) or (is_of_others and not named):
            continue
        if not os.access(run.folder / "run.json", os.F_OK):
            refused.append(f"{run.folder}: was removed; submit its experiment again")
        elif cluster is None and one is None:
            refused.append(f"{run.folder.name} was not submitted to a cluster; choose one with --cluster")
        # A cluster's file has lines of shell, which would be executed as this user.
        elif cluster is None and one is not None and is_of_others:
            refused.append(f"{run.folder.name} was submitted by {one.user}; choose a cluster with --cluster")
        else:
            chosen.append(run)
    return chosen, refused


def resubmissions(
    runs: Sequence[RunStatus], cluster: str | None
) -> tuple[list[tuple[AnyCluster, str, list[Run]]], list[str]]:
    """Group runs by cluster, the given one or their own.

    Returns clusters, experiments' names and runs, and a sentence for each run or cluster that cannot be read.
    """
    groups: dict[str, tuple[AnyCluster, str, list[Run]]] = {}
    refused: dict[str, None] = {}
    given = load_cluster(cluster) if cluster is not None and runs else None
    for run in runs:
        try:
            if given is not None:
                key, parsed, name = "", given, "retry"
            else:
                one = _submission(run)
                key = repr(sorted(one.cluster.items()))
                parsed, name = parse_cluster(one.cluster, one.name), one.name.rpartition("-")[0]
            groups.setdefault(key, (parsed, name, []))[2].append(read_run(run.folder))
        except UserError as error:
            refused[str(error)] = None
    return [group for group in groups.values() if group[2]], list(refused)
