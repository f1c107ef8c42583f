"""What an installed shiftbench can do, in an empty folder: the wheel is built, installed and used."""

import ast
import os
import re
import subprocess
import sys
import sysconfig
import tomllib
import venv
from collections.abc import Callable
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
# The demo's first cell, with fewer images.
CELL = ["seeds=[5001]", "model.norm={kind: bn}", "batch.norm_batch_size=2", "recipe.epochs=1"]
CELL += ["data.train_images=64", "data.val_images=40", "measure.precise_bn_images=32"]

# Come with a declared one (pydantic, Jinja, torch and Ray), or belong to a user's networks and trainers.
NOT_DECLARED = {"pydantic_core", "markupsafe", "triton", "tensorboardX", "timm", "safetensors"}
NOT_DECLARED |= {"lightning", "pytorch_lightning", "transformers"}

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
    code = "import importlib.util, sys, jobs, reports, shiftbench, suite\n"
    code += "print(*(m.__file__ for m in (jobs, reports, shiftbench, suite)))\n"
    code += "print(*sys.path)\nprint(importlib.util.find_spec('benchmarks'))"  # a folder of the repository
    files, path, repository = checked(environment / "python", "-c", code, cwd=tmp_path).splitlines()
    assert all(Path(file).is_relative_to(environment.parent) for file in files.split())
    assert str(ROOT) not in path.split()
    assert repository == "None"


def test_it_declares_what_it_imports() -> None:
    """So that a fresh environment has all of it: the packages of this one are those of the tests."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    optional = project["optional-dependencies"]
    extras = [line for extra, lines in optional.items() if extra not in ("dev", "build") for line in lines]
    declared = {canonical(line) for line in [*project["dependencies"], *extras]}
    brought_by = packages_distributions()
    missing = {}
    for package in ("suite", "jobs", "reports", "shiftbench"):
        for file in (ROOT / package).rglob("*.py"):
            for name in imported(ast.parse(file.read_text())) - NOT_DECLARED:
                if not declared & {canonical(one) for one in brought_by.get(name, [])}:
                    missing[name] = file.relative_to(ROOT)
    assert missing == {}


def canonical(requirement: str) -> str:
    """`Faster_coco-eval>=1.7` as `faster-coco-eval`."""
    return re.split(r"[^\w-]", requirement, maxsplit=1)[0].lower().replace("_", "-")


def imported(code: ast.Module) -> set[str]:
    """The packages of others that a module imports, wherever it does."""
    names = set()
    for node in ast.walk(code):
        if isinstance(node, ast.Import):
            names |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and not node.level:
            names.add(str(node.module).partition(".")[0])
    return names - sys.stdlib_module_names - {"suite", "jobs", "reports", "shiftbench"}


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
