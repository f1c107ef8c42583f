"""What the launcher asks is answered without torch and DALI, which take seconds to import."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from suite.experiment import DataSpec, Run

MakeRun = Callable[..., Run]


def heavy_modules_after(code: str) -> str:
    code += "\nimport sys; print([m for m in ('torch', 'nvidia.dali') if m in sys.modules])"
    return subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    ).stdout.strip()


def test_sources() -> None:
    assert heavy_modules_after("import suite.data.sources") == "[]"


@pytest.mark.parametrize("name", ["synthetic", "folder"])
def test_steps_and_the_check(pictures: Path, make_run: MakeRun, name: str) -> None:
    run = make_run(pictures, 3, train_images=30)
    if name == "synthetic":
        run = run.model_copy(update={"data": DataSpec(name="synthetic", num_classes=3, train_images=30)})
    code = (
        "import suite.data; from suite.experiment import Run\n"
        f"run = Run.model_validate_json({run.model_dump_json()!r})\n"
        "assert suite.data.steps_per_epoch(run) == 3\n"
        "suite.data.check_data(run)"
    )
    assert heavy_modules_after(code) == "[]"
