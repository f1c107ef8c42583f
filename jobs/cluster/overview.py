"""The state of every run: its own files, joined with the ledger and the schedulers' answers.

What only a scheduler knows, such as a node that failed, is written into the record, so that reports show it.
"""

from collections.abc import Sequence
from pathlib import Path

from jobs.cluster.backend import Answer, SubmittedRun
from jobs.cluster.backends import backend_of, by_backend
from jobs.cluster.job_verdicts import JobVerdict, settle
from jobs.cluster.ledger import Ledger
from jobs.cluster.run_status import RunsOverview, RunStatus
from suite.errors import UserError
from suite.paths import RunPaths, find_runs
from suite.record import read_status


def active_jobs(ledger: Ledger) -> dict[str, str]:
    """Return the job of every run folder that is queued or running, by name.

    Raises UserError when a scheduler does not answer.
    """
    active: dict[str, str] = {}
    for backend, submissions in by_backend(ledger.read()):
        active |= backend.active(submissions, ledger.output_dir)
    return active


def overview(output_dir: Path, only: Sequence[Path] | None = None) -> RunsOverview:
    """Return every run below `output_dir` and in its ledger, or only these folders.

    Raises UserError when there is no such folder.
    """
    if not output_dir.is_dir():
        raise UserError(f"{output_dir}: no such folder; expected one that holds runs")
    ledger = Ledger(output_dir)
    latest = {output_dir / name: one for one in ledger.read() for name in one.folders}
    if only is None:
        folders = dict.fromkeys([*(paths.folder for paths in find_runs([output_dir])), *latest])
    else:
        folders = dict.fromkeys(only)
        latest = {folder: one for folder, one in latest.items() if folder in folders}
    statuses = {folder: read_status(RunPaths(folder)) for folder in folders}
    submitted = {folder: SubmittedRun(folder, statuses[folder], one) for folder, one in latest.items()}
    is_held = ledger.is_held()
    answers: dict[Path, Answer] = {}
    notes: list[str] = []
    for backend, submissions in by_backend(list({one.token: one for one in latest.values()}.values())):
        tokens = {one.token for one in submissions}
        runs = [run for run in submitted.values() if run.submission.token in tokens]
        found, unanswered = backend.query(runs, is_being_submitted=is_held)
        answers |= found
        notes += unanswered
    shown = []
    for folder, status in statuses.items():
        answer = answers.get(folder, Answer())
        verdict = answer.verdict or JobVerdict(status.state, status.reason or "")
        if verdict.is_final:
            settle(folder, verdict, status)
        node = status.content.get("nodes") or answer.nodes
        state, reason, one = verdict.state, verdict.reason, latest.get(folder)
        shown.append(RunStatus(folder, state, reason, answer.job, one, node, status.content, status.errors))
    return RunsOverview(shown, notes)


def log_files(run: RunStatus, rank: int) -> list[Path]:
    """Return the readable files with the output of a run's rank: the run's own log, and its job's."""
    files = [run.folder / "log.txt"] if rank == 0 else []
    if run.submission is not None and run.job is not None:
        files += backend_of(run.submission).log_files(run.submission, run.job, rank)
    return [path for path in files if _is_readable(path)]


def _is_readable(path: Path) -> bool:
    try:
        return path.is_file()
    except PermissionError:  # only its owner may enter a job's folder
        return False
