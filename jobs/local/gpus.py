"""Assigns GPUs to concurrent runs. Reads the drivers' files, because importing torch takes seconds."""

import itertools
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from suite.errors import UserError

NVIDIA_FOLDER = Path("/proc/driver/nvidia/gpus")
AMD_FOLDER = Path("/sys/class/kfd/kfd/topology/nodes")
AMD_DEVICES = Path("/dev/dri")
CUDA, HIP, ROCR = "CUDA_VISIBLE_DEVICES", "HIP_VISIBLE_DEVICES", "ROCR_VISIBLE_DEVICES"


@dataclass(frozen=True)
class VisibleGpus:
    """The GPUs that a process sees, by the names that the environment's `variable` takes."""

    names: list[str]
    variable: str = CUDA


def visible_gpus(
    env: Mapping[str, str],
    nvidia_folder: Path = NVIDIA_FOLDER,
    amd_folder: Path = AMD_FOLDER,
    amd_devices: Path = AMD_DEVICES,
) -> VisibleGpus:
    """Return the GPUs that torch sees in a process with this environment: NVIDIA's, or else AMD's."""
    nvidia = len(list(nvidia_folder.iterdir())) if nvidia_folder.is_dir() else 0
    amd = 0 if nvidia else _amd_gpus(amd_folder, amd_devices)
    if amd and HIP in env:
        return VisibleGpus(_named(env[HIP]), HIP)
    if amd and ROCR in env:  # HIP then counts anew what is left, and torch reads no other variable
        return VisibleGpus(_counted(len(env[ROCR].split(",")) if env[ROCR] else 0), HIP)
    if CUDA in env:  # which HIP obeys, too
        return VisibleGpus(_named(env[CUDA]))
    return VisibleGpus(_counted(amd), HIP) if amd else VisibleGpus(_counted(nvidia))


def _named(value: str) -> list[str]:
    names = (name.strip() for name in value.split(","))
    return list(itertools.takewhile(lambda name: name not in ("", "-1"), names))  # CUDA stops there too


def _counted(number: int) -> list[str]:
    return [str(index) for index in range(number)]


def _amd_gpus(folder: Path, devices: Path) -> int:
    """Return how many AMD GPUs the kernel's driver lists; it lists CPUs among them, which have no SIMD units.

    In a container it may list GPUs whose device files are not there.
    """
    count = 0
    for properties in folder.glob("*/properties"):
        try:
            lines = [line.split() for line in properties.read_text().splitlines()]
        except OSError:  # a GPU of another job, which may not be read
            continue
        node = {line[0]: line[1] for line in lines if len(line) == 2}
        is_here = (devices / f"renderD{node.get('drm_render_minor')}").exists()
        count += node.get("simd_count", "0") != "0" and is_here
    return count


def share_out(gpus: VisibleGpus, jobs: int, ranks: int) -> list[dict[str, str]]:
    """Return environment variables for each of `jobs` concurrent runs, with a GPU for each rank.

    They are empty without GPUs. Raises UserError when there are too few GPUs.
    """
    names = gpus.names
    if not names:
        return [{} for _ in range(jobs)]
    if jobs * ranks > len(names):
        raise UserError(
            f"{jobs} jobs × {ranks} ranks need {jobs * ranks} GPUs, but there are {len(names)} "
            f"({', '.join(names)}): lower --jobs or --ranks, or set system.device=cpu"
        )
    starts = range(0, jobs * ranks, ranks)
    return [{gpus.variable: ",".join(names[start : start + ranks])} for start in starts]
