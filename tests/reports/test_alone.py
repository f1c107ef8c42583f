"""A report needs nothing that trains or submits: not even installed."""

import subprocess
import sys
from pathlib import Path

from tests.helpers.command_line import shiftbench
from tests.helpers.records import expand_runs, write_run

PROGRAM = """
import sys

class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in ("torch", "torchvision", "nvidia", "ray", "submitit", "optuna"):
            raise ModuleNotFoundError(f"No module named {name!r}, since it is made absent", name=name)

sys.meta_path.insert(0, Absent())
from jobs.cli import main
main()
"""


def report(*arguments: object) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, "-c", PROGRAM, "report", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=250, check=False)


def test_the_command_works_without_what_trains(tmp_path: Path) -> None:
    write_run(tmp_path / "runs", expand_runs(batch={"global_batch_size": 4})[0])
    done = report(tmp_path / "runs", "--out", tmp_path / "out")
    assert done.returncode == 0, done.stderr
    assert "1 of 1 run completed." in done.stdout
    assert (tmp_path / "out" / "index.html").exists()
    assert (tmp_path / "out" / "results.parquet").exists()


def test_what_is_absent_is_indeed_absent() -> None:
    program = PROGRAM.replace("from jobs.cli import main\nmain()", "import torch")
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert "No module named 'torch', since it is made absent" in done.stderr


def test_bad_input_is_one_line_and_exit_code_2(tmp_path: Path) -> None:
    done = shiftbench("report", tmp_path, "--out", tmp_path / "out")
    assert done.returncode == 2
    assert done.stderr.strip() == f"error: no runs found below {tmp_path}; expected folders with a run.json"
