"""Assigns GPUs to concurrent runs. Reads the driver's files, because importing torch takes seconds."""

import itertools
from collections.abc import Mapping
from pathlib import Path

from suite.errors import UserError

DRIVER_FOLDER = Path("/proc/driver/nvidia/gpus")


def visible_gpus(env: Mapping[str, str], driver_folder: Path = DRIVER_FOLDER) -> list[str]:
    """Return the GPUs that a process with this environment sees, as CUDA_VISIBLE_DEVICES names them."""
    if "CUDA_VISIBLE_DEVICES" in env:
        names = (name.strip() for name in env["CUDA_VISIBLE_DEVICES"].split(","))
        return list(itertools.takewhile(lambda name: name not in ("", "-1"), names))  # CUDA stops there too
    count = len(list(driver_folder.iterdir())) if driver_folder.is_dir() else 0
    return [str(index) for index in range(count)]


def share_out(gpus: list[str], jobs: int, ranks: int) -> list[dict[str, str]]:
    """Return environment variables for each of `jobs` concurrent runs, with a GPU for each rank.

    They are empty without GPUs. Raises UserError when there are too few GPUs.
    """
    if not gpus:
        return [{} for _ in range(jobs)]
    if jobs * ranks > len(gpus):
        raise UserError(
            f"{jobs} jobs × {ranks} ranks need {jobs * ranks} GPUs, but there are {len(gpus)} "
            f"({', '.join(gpus)}): lower --jobs or --ranks, or set system.device=cpu"
        )
    starts = range(0, jobs * ranks, ranks)
    return [{"CUDA_VISIBLE_DEVICES": ",".join(gpus[start : start + ranks])} for start in starts]
