"""Accounts as containers and login nodes have them: without a name and a home, and with little memory."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.helpers.records import write_run, write_waiting
from tests.helpers.runs import make_run

ROOT = Path(__file__).parents[2]
NAMES = ("HOME", "USER", "LOGNAME", "LNAME", "USERNAME", "XDG_CACHE_HOME", "SHIFTBENCH_DATA_DIR")


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("records")
    for seed in (0, 1):
        write_run(root, make_run(seeds=[seed]), esm_sigma=[1.0], layers=["bn1"], total_steps=24)
    return root


def call(*words: object, **env: str) -> "subprocess.CompletedProcess[str]":
    variables = {name: value for name, value in os.environ.items() if name not in NAMES}
    done = subprocess.run(
        [str(word) for word in words],
        cwd=ROOT,
        env={**variables, "COLUMNS": "200", **env},
        capture_output=True,
        text=True,
    )
    assert "Traceback" not in done.stderr, done.stderr
    return done


def nobody(*arguments: object, **env: str) -> "subprocess.CompletedProcess[str]":
    """Call `shiftbench` as a user whom no passwd knows, without HOME and USER."""
    namespace = ("unshare", "--user", "--map-user=54321")
    return call(*namespace, sys.executable, "-m", "jobs.cli", *arguments, **env)


needs_namespaces = pytest.mark.skipif(
    subprocess.run(["unshare", "--user", "true"], capture_output=True).returncode != 0,
    reason="NO NAMESPACES: a user without an entry in passwd needs a user namespace",
)


@needs_namespaces
@pytest.mark.parametrize("home", [None, ""])
def test_a_user_without_name_and_home_reads_runs_and_reports(
    runs: Path, tmp_path: Path, home: str | None
) -> None:
    assert_reports(runs, tmp_path / "out", home, "2 completed")
    assert list((tmp_path / "out").glob("figures/*.svg"))


@needs_namespaces
def test_a_home_that_is_the_root_folder_is_no_obstacle(tmp_path: Path) -> None:
    """The run has not begun, so that no charts are drawn."""
    write_waiting(tmp_path / "waiting", make_run())
    assert_reports(tmp_path / "waiting", tmp_path / "out", "/", "1 queued")


def assert_reports(runs: Path, out: Path, home: str | None, counted: str) -> None:
    env = {} if home is None else {"HOME": home}
    status = nobody("status", "--output-dir", runs, **env)
    assert (status.returncode, status.stderr) == (0, "")
    assert counted in status.stdout
    report = nobody("report", runs, "--out", out, **env)
    assert report.returncode == 0, report.stderr
    assert (out / "index.html").exists()


@needs_namespaces
def test_a_user_without_a_home_learns_where_data_may_lie(tmp_path: Path) -> None:
    refused = nobody("data", "prepare", "fashion-mnist-7k")
    assert refused.returncode == 2
    assert "set SHIFTBENCH_DATA_DIR" in refused.stderr
    done = nobody("data", "prepare", "fashion-mnist-7k", SHIFTBENCH_DATA_DIR=str(tmp_path))
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "fashion-mnist-7k" / "train").is_dir()


def test_a_report_below_a_limit_on_address_space_has_tables_and_a_sentence(
    runs: Path, tmp_path: Path
) -> None:
    limited = f'ulimit -v {4 * 2**20}; exec "$@"'
    out = tmp_path / "out"
    command = (sys.executable, "-m", "jobs.cli", "report", runs, "--out", out)
    done = call("bash", "-c", limited, "bash", *command, HOME=str(tmp_path))
    assert done.returncode == 0, done.stderr
    sentence = "Charts are left out: the program that draws them cannot start below this shell's limit on"
    assert sentence in done.stdout
    assert "Raise it (ulimit -v unlimited)" in (out / "report.md").read_text()
    assert (out / "results.csv").read_text().count("\n") == 3
    assert not list(out.glob("**/*.svg"))
