"""Starts a job's task inside the image of its container: `python3 -m jobs.cluster.in_image FOLDER`.

An image that was not made for shiftbench may lack something, which one sentence then says. Until that is
known, only the standard library is imported, and an old Python understands this module.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
import re
import shutil
import sys
import tempfile
from pathlib import Path
from typing import NoReturn

OLDEST_PYTHON = (3, 11)
# The oldest versions with which a task trains, as pyproject.toml has them.
REQUIRED = {
    "torch": "2.11",
    "torchvision": "0.26",
    "numpy": "1.26",
    "orjson": "3.10",
    "pillow": "11",
    "pydantic": "2.9",
    "pyyaml": "6",
    "submitit": "1.5.3",
}
IMPORTED_AS = {"pillow": "PIL", "pyyaml": "yaml"}
IMAGE_FAULT = "shiftbench: the image "


def fault_of(image: str) -> str | None:
    """Return what an image lacks, in a sentence that names it; None if nothing."""
    if sys.version_info[:2] < OLDEST_PYTHON:
        needed, found = (".".join(map(str, version[:2])) for version in (OLDEST_PYTHON, sys.version_info))
        return f"{IMAGE_FAULT}{image} has Python {found}: set container.python to {needed} or newer"
    absent, old = [], []
    for package, oldest in REQUIRED.items():
        if importlib.util.find_spec(IMPORTED_AS.get(package, package)) is None:
            absent.append(package)
        elif (version := _version(package)) and _numbers(version) < _numbers(oldest):
            old.append(f"{package} {version}, and {oldest} is the oldest")
    if not absent and not old:
        return None
    faults = [*([f"lacks {', '.join(absent)}"] if absent else []), *(f"has {one}" for one in old)]
    fix = "install them in it, or build one from containers/shiftbench.def or containers/Dockerfile"
    return f"{IMAGE_FAULT}{image} {'; it '.join(faults)}: {fix}"


def _version(package: str) -> str | None:
    """Return a package's version; None where its files do not say it, as in some builds from source."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _numbers(version: str) -> list[int]:
    """Return the numbers of a version without what follows them: 2.11.0a0+git has 2, 11 and 0."""
    match = re.match(r"\d+(\.\d+)*", version)
    return [int(part) for part in match[0].split(".")] if match else []


def keep_caches() -> None:
    """Let libraries keep what they compile in a temporary folder where they cannot write into home."""
    if not os.access(os.path.expanduser("~"), os.W_OK):  # noqa: PTH111 - it may not be known
        folder = Path(tempfile.gettempdir(), f"shiftbench-{os.getuid()}")
        for name in ("XDG_CACHE_HOME", "TRITON_HOME"):
            os.environ.setdefault(name, str(folder))


def leave_requeueing_to_script() -> None:
    """Have Submitit, which handles the first signals, ask the job's script if there is no scontrol."""
    from submitit.slurm.slurm import SlurmJobEnvironment

    from suite.signals import ask_script_to_requeue

    if shutil.which("scontrol") is None:
        setattr(SlurmJobEnvironment, "_requeue", lambda job, countdown: ask_script_to_requeue(True))  # noqa: B010


def main() -> NoReturn:
    """Check the image, then become Submitit's program. An image with a fault is named, with exit code 2."""
    if fault := fault_of(os.environ.get("SHIFTBENCH_IMAGE", "")):
        print(fault, file=sys.stderr)
        sys.exit(2)
    keep_caches()
    leave_requeueing_to_script()
    from jobs.cluster import start_task
    from jobs.local.process_end import exit_with

    exit_with(start_task.main)


if __name__ == "__main__":
    main()
