"""What an installed shiftbench can do, in an empty folder: the wheel is built, installed and used."""

import os
import subprocess
import sys
import sysconfig
import venv
from collections.abc import Callable
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
# The demo's first cell, with fewer images.
CELL = ["seeds=[5001]", "model.norm={kind: bn}", "batch.norm_batch_size=2", "recipe.epochs=1"]
CELL += ["data.train_images=64", "data.val_images=40", "measure.precise_bn_images=32"]

Installed = Callable[..., str]


def checked(*command: object, cwd: Path, **env: str) -> str:
    """Run a program, and return what it prints."""
    kept = {
        name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "SHIFTBENCH"))
    }
    done = subprocess.run(
        list(map(str, command)), cwd=cwd, env={**kept, **env}, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A fresh environment with the wheel. Its other packages are those of the tests, which takes no time."""
    folder = tmp_path_factory.mktemp("wheel")
    checked(sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", folder, cwd=ROOT)
    (wheel,) = folder.glob("shiftbench-*.whl")
    venv.create(folder / "env", with_pip=True)
    python = folder / "env" / "bin" / "python"
    checked(
        python,
        "-m",
        "pip",
        "install",
        "--quiet",
        "--no-compile",
        "--no-deps",
        "--no-index",
        wheel,
        cwd=folder,
    )
    paths = checked(python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))", cwd=folder)
    Path(paths.strip(), "tests.pth").write_text(sysconfig.get_path("purelib"))
    return folder / "env" / "bin"


@pytest.fixture
def installed(environment: Path, tmp_path: Path) -> Installed:
    """`shiftbench` of that environment, in an empty folder."""

    def call(*arguments: object) -> str:
        return checked(environment / "shiftbench", *arguments, cwd=tmp_path, COLUMNS="80")

    return call


def test_it_imports_what_is_in_the_wheel(environment: Path, tmp_path: Path) -> None:
    code = "import jobs, reports, shiftbench, suite\n"
    code += "print(*(m.__file__ for m in (jobs, reports, shiftbench, suite)))"
    files = checked(environment / "python", "-c", code, cwd=tmp_path).split()
    assert all(Path(file).is_relative_to(environment.parent) for file in files)


def test_from_a_name_to_a_report(installed: Installed, tmp_path: Path) -> None:
    printed = installed("run", "demo", *CELL)
    assert "1 completed, 0 were complete, 0 did not complete" in printed
    assert "1 of 1 run completed." in installed("report", "runs", "--out", "out")
    assert (tmp_path / "out" / "index.html").stat().st_size > 10_000
    assert installed("status", "small_resnet20").startswith("run ")


def test_what_needs_no_training(installed: Installed, tmp_path: Path) -> None:
    assert "jobs.cluster.local_backend" in installed("submit", "demo", *CELL, "--dry-run")
    # Paths of the repository, as the README has them, mean the shipped files.
    assert "-m jobs.cluster" in installed("submit", "configs/experiments/demo.yaml", "--dry-run")
    assert installed("reproduce", "--list").startswith("A  ")
    assert "demo: 24 runs" in installed("config", "show", "demo")
    installed("init", "imagenet")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["cluster.yaml", "experiment.yaml"]
