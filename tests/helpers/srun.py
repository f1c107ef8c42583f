"""An srun on the PATH, which Submitit looks for, where Slurm is not asked for anything."""

import shutil
from pathlib import Path

import pytest


def with_srun(patch: pytest.MonkeyPatch, folder: Path) -> None:
    """Provide the srun that Submitit requires but does not call."""
    (folder / "srun").write_text("#!/bin/sh\nexit 1\n")
    (folder / "srun").chmod(0o755)
    patch.setenv("PATH", f"{folder}:{Path(str(shutil.which('sh'))).parent}")
