"""Where to read what a run's processes said."""

from pathlib import Path

from jobs.cluster import detached
from jobs.cluster.overview import RunStatus


def log_files(run: RunStatus, rank: int) -> list[Path]:
    """What a run's processes said, where it can be read: its own log, and the job's output and errors."""
    files = [run.folder / "log.txt"] if rank == 0 else []
    one = run.submission
    if one is not None and run.job is not None:
        folder = Path(one.jobs_folder) / one.name
        if one.is_slurm:
            files += [folder / f"{run.job}_{rank}_log.{end}" for end in ("out", "err")]
        else:
            files.append(folder / detached.LOG)
    return [path for path in files if _is_readable(path)]


def _is_readable(path: Path) -> bool:
    try:
        return path.is_file()
    except PermissionError:  # a job's own files are its owner's alone
        return False
