"""Where a result came from: code, versions, machine, scheduler."""

import importlib.metadata
import os
import platform
import subprocess
from pathlib import Path
from typing import Any

_PACKAGES = ("shiftbench", "torch", "torchvision", "nvidia-dali-cuda130", "numpy")
_ROOT = Path(__file__).resolve().parent.parent


def provenance(device: str, hosts: list[str]) -> dict[str, Any]:
    """A plain dict for the record. `device` names what computed; `hosts` has one entry for each rank."""
    changes = _git("status", "--porcelain")
    return {
        "git_sha": _git("rev-parse", "HEAD"),
        "git_dirty": None if changes is None else changes != "",
        "versions": {"python": platform.python_version(), **_versions()},
        "device": device,
        "world_size": len(hosts),
        "hosts": sorted(set(hosts)),
        "platform": platform.platform(),
        "cpu_count": os.cpu_count(),
        "scheduler_job": os.environ.get("SLURM_JOB_ID"),
    }


def cpu_name() -> str:
    """The processor's marketing name where /proc tells it."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.machine())


def _versions() -> dict[str, str]:
    found = {}
    for package in _PACKAGES:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def _git(*arguments: str) -> str | None:
    """git's answer about the source tree, or None when it is not a checkout (an installed wheel)."""
    if not (_ROOT / ".git").exists():
        return None
    try:
        done = subprocess.run(
            ["git", "-C", str(_ROOT), *arguments], capture_output=True, text=True, check=True
        )
    except (OSError, subprocess.CalledProcessError):
        return None
    return done.stdout.strip()
