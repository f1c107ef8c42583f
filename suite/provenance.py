"""The provenance of a result: code, versions, machine, scheduler."""

import hashlib
import importlib.metadata
import json
import logging
import os
import platform
import subprocess
import tempfile
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

_PACKAGES = ("shiftbench", "torch", "torchvision", "nvidia-dali-cuda130", "numpy", "submitit")
ROOT = Path(__file__).resolve().parent.parent
SOURCE_PACKAGES = ("suite", "jobs", "reports")
SOURCES = (*SOURCE_PACKAGES, "pyproject.toml")
SNAPSHOT_NOTE = "code.json"
IMAGE_VARIABLE = "SHIFTBENCH_IMAGE"
"""The environment variable in which a job has its container's image, as the cluster's file names it."""
MAX_PATCH_BYTES = 4_000_000

log = logging.getLogger("shiftbench")


def provenance(device: str, hosts: list[str], device_type: str = "cpu") -> dict[str, Any]:
    """Return the provenance for the record. `device` is a device's name, `device_type` torch's type of it.

    `hosts` has one entry for each rank.
    """
    code = code_state()
    return {
        "git_sha": code.git_sha,
        "git_dirty": code.git_dirty,
        "patch": code.patch_name,
        "snapshot": code.snapshot,
        "versions": {"python": platform.python_version(), **_versions()},
        "device": device,
        "device_type": device_type,
        "world_size": len(hosts),
        "hosts": sorted(set(hosts)),
        "platform": platform.platform(),
        "cpu_count": os.cpu_count(),
        "scheduler_job": scheduler_job(os.environ),
        "restart": int(os.environ.get("SLURM_RESTART_COUNT", "0")),
        "nodes": os.environ.get("SLURM_STEP_NODELIST"),
        "container": container_image(os.environ),
    }


def container_image(env: Mapping[str, str]) -> str | None:
    """Return the image of the container that this process is in; None outside, and where nothing says it."""
    names = (IMAGE_VARIABLE, "APPTAINER_CONTAINER", "SINGULARITY_CONTAINER")
    return next((env[name] for name in names if env.get(name)), None)


def scheduler_job(env: Mapping[str, str]) -> str | None:
    """Return this process's Slurm job as Slurm's commands name it: `12` or, in an array, `12_3`."""
    if "SLURM_ARRAY_JOB_ID" in env:
        return f"{env['SLURM_ARRAY_JOB_ID']}_{env['SLURM_ARRAY_TASK_ID']}"
    return env.get("SLURM_JOB_ID")


@dataclass(frozen=True)
class CodeState:
    """The version of the sources: their commit, and their difference from it."""

    git_sha: str | None
    git_dirty: bool | None
    patch: str | None = None
    snapshot: str | None = None

    @property
    def patch_name(self) -> str | None:
        """The first 12 digits of the patch's SHA-256."""
        return None if self.patch is None else hashlib.sha256(self.patch.encode()).hexdigest()[:12]


@cache
def code_state() -> CodeState:
    """Return the state of the imported sources, from git or from the note in a submission's snapshot."""
    if (ROOT / SNAPSHOT_NOTE).exists():
        return CodeState(**json.loads((ROOT / SNAPSHOT_NOTE).read_text(encoding="utf-8")))
    changes = _git("status", "--porcelain", "--", *SOURCES)
    patch = _patch() if changes else None
    sha = _git("rev-parse", "HEAD")
    return CodeState(sha and sha.strip(), None if changes is None else changes != "", patch)


def _patch() -> str | None:
    """Return the difference from the commit, with new files; None when it is too large to keep."""
    with tempfile.TemporaryDirectory() as folder:
        # A temporary index, so that `add --intent-to-add`, by which diff sees new files, spares the user's.
        index = {"GIT_INDEX_FILE": str(Path(folder) / "index")}
        if _git("read-tree", "HEAD", env=index) is None:
            return None
        _git("add", "--intent-to-add", "--all", "--", *SOURCES, env=index)
        patch = _git("diff", "--binary", "HEAD", "--", *SOURCES, env=index)
    if patch and len(patch) > MAX_PATCH_BYTES:
        log.warning("the sources differ from their commit by %d bytes: too large to record", len(patch))
        return None
    return patch or None


def cpu_name() -> str:
    """Return the processor's model name from /proc, or the machine type."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.machine())


def _versions() -> dict[str, str]:
    found = {}
    for package in _PACKAGES:
        with suppress(importlib.metadata.PackageNotFoundError):
            found[package] = importlib.metadata.version(package)
    return found


def _git(*arguments: str, env: Mapping[str, str] | None = None) -> str | None:
    """Return git's output about the source tree, or None when it is not a checkout (an installed wheel)."""
    if not (ROOT / ".git").exists():
        return None
    command, variables = ["git", "-C", str(ROOT), *arguments], {**os.environ, **(env or {})}
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True, env=variables).stdout
    except (OSError, subprocess.CalledProcessError, UnicodeDecodeError):
        return None
