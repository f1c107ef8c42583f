"""The script for the day a GPU is there: what a stage says is kept, whatever becomes of the stage."""

import json
import os
import stat
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from benchmarks.gpu import check, training
from benchmarks.gpu.check import Outcome, Stage, markdown, run_stage, unpacked
from benchmarks.gpu.measuring import ON_GPU, REHEARSAL, Sizes
from benchmarks.gpu.stages import MODULES
from benchmarks.train import Step

ROW = {"what": "BN, batch 8", "value": 1234.5678, "unit": "img/s"}
STAGE = Stage("made-up", "Made up", 5)


@pytest.fixture
def stage_that(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> object:
    """A stage's process that prints a row, and then runs a shell command."""

    def put(then: str) -> None:
        program = tmp_path / "python"
        program.write_text(f"#!/bin/sh\necho 'a library says this'\necho '{json.dumps(ROW)}'\n{then}\n")
        program.chmod(program.stat().st_mode | stat.S_IXUSR)
        monkeypatch.setattr(check.sys, "executable", str(program))

    return put


@pytest.mark.parametrize(
    ("then", "left_out"),
    [
        ("exit 0", []),
        (
            f"echo '{json.dumps({'left_out': 'DALI: the package nvidia is not there'})}'",
            ["DALI: the package"],
        ),
        (
            "echo 'Traceback' >&2; echo 'CUDA error: out of memory' >&2; exit 1",
            ["with 1: CUDA error: out of"],
        ),
        ("sleep 60 & wait", ["what was not done in 1 s"]),
        (
            f"echo '{json.dumps({'planned': ['first', 'second', 'third']})}'; "
            f"echo '{json.dumps({'what': 'first', 'value': 'passed'})}'; sleep 60 & wait",
            ["what was not done in 1 s", "not reached, or not ended: second, third"],
        ),
    ],
)
def test_rows_are_kept_and_what_is_left_out_is_said(
    stage_that: object, then: str, left_out: list[str]
) -> None:
    stage_that(then)
    outcome = run_stage(STAGE, rehearse=True, limit_s=1, path=[])
    assert outcome.rows[0] == ROW
    assert len(outcome.left_out) == len(left_out)
    assert all(part in said for part, said in zip(left_out, outcome.left_out, strict=True))


def test_stages_for_which_no_time_is_left_are_left_out(
    stage_that: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    stage_that("sleep 1")
    monkeypatch.setattr(check, "MIN_STAGE_S", 0.5)
    monkeypatch.setattr(check, "STAGES", (STAGE, STAGE))
    first, second = check.check(rehearse=True, minutes=1 / 60, path=[])
    assert first.rows == [ROW]
    assert second.left_out == ["0.0166667 minutes were up"]


def test_without_a_gpu_nothing_else_is_tried(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(check, "run_stage", lambda *_, **__: Outcome("machine", "M", left_out=["no GPU"]))
    monkeypatch.setattr(check.sys, "argv", ["check"])
    assert check.main() == 2
    assert capsys.readouterr().err.splitlines()[-1] == "error: no GPU"


def test_the_report_has_a_table_for_each_stage_and_says_that_it_is_a_rehearsal() -> None:
    outcomes = [Outcome("steps", "Steps", rows=[ROW]), Outcome("loader", "Loader", left_out=["no DALI"])]
    text = markdown(outcomes, rehearse=True)
    assert "| BN, batch 8 | 1235 | img/s |" in text
    assert "its numbers mean nothing" in text
    assert (
        text.index("## Steps")
        < text.index("| BN")
        < text.index("## Loader")
        < text.index("- left out: no DALI")
    )
    assert "rehearsal" not in markdown(outcomes, rehearse=False)


def test_what_failed_is_shown_as_failed_and_is_the_exit_code(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    row = {"what": "test_a[x|y]", "value": "failed in call: 1 is not 2", "failed": True}
    monkeypatch.setattr(check, "STAGES", (STAGE,))
    monkeypatch.setattr(check, "run_stage", lambda *_, **__: Outcome("tests", "Tests", rows=[ROW, row]))
    monkeypatch.setattr(check.sys, "argv", ["check", "--out", str(tmp_path)])
    assert check.main() == 1
    assert capsys.readouterr().err.splitlines()[-1] == "error: 1 failed: test_a[x|y]"
    assert "| test_a[x\\|y] | **failed in call: 1 is not 2** |" in (tmp_path / "gpu-check.md").read_text()


def test_each_test_has_its_row_also_without_pytests_plugins(tmp_path: Path) -> None:
    """The options of pyproject.toml name a plugin's `timeout`, and refuse what they do not know."""
    (tmp_path / "pyproject.toml").write_text(
        '[tool.pytest.ini_options]\naddopts = "--strict-config"\ntimeout = 600\nmarkers = ["gpu: x"]\n'
    )
    first, second, third = (tmp_path / f"test_{name}.py" for name in ("b", "a", "c"))
    first.write_text(
        "import pytest\npytestmark = pytest.mark.gpu\n"
        "def test_good():\n    print('noise', end='')\n"
        "def test_bad():\n    assert 1 == 2, 'one is not two'\n"
        "def test_skipped():\n    pytest.skip('no such part')\n"
    )
    second.write_text("import pytest, no_such_package\npytestmark = pytest.mark.gpu\n")
    third.write_text("def test_of_a_cpu():\n    assert False\n")
    program = "import sys; from pathlib import Path; from benchmarks.gpu.testing import run_files; "
    program += "run_files([Path(one) for one in sys.argv[1:]])"
    done = subprocess.run(
        [sys.executable, "-c", program, str(first), str(second), str(third)],
        cwd=check.ROOT,
        env=os.environ | {"PYTEST_ADDOPTS": "-p no:timeout -p no:xdist"},
        capture_output=True,
        text=True,
    )
    outcome = Outcome("tests", "Tests")
    for line in done.stdout.splitlines():
        check._take(outcome, line)
    assert [row["what"].partition("::")[2] for row in outcome.rows] == [
        "test_good",
        "test_bad",
        "test_skipped",
    ]
    good, bad, skipped = (row["value"] for row in outcome.rows)
    assert good.startswith("passed in ")
    assert bad == "failed in call: AssertionError: one is not two"
    assert skipped == "Skipped: no such part"
    assert [name.partition("::")[2] for name in outcome.failed] == ["test_bad"]
    assert outcome.left_out == ["test_a.py: ModuleNotFoundError: No module named 'no_such_package'"]
    assert outcome.planned == []


def test_packages_come_from_a_folder_of_wheels(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "made_up-1-py3-none-any.whl", "w") as wheel:
        wheel.writestr("made_up_package/__init__.py", "value = 7")
    (folder,) = unpacked(tmp_path, tmp_path / "here")
    assert Path(folder, "made_up_package", "__init__.py").read_text() == "value = 7"
    with pytest.raises(SystemExit, match=r"no \*\.whl there"):
        unpacked(tmp_path / "here", tmp_path)


def test_steps_of_a_graph_are_timed_beside_others(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A norm batch of 2 takes twice as long, fused kernels half as long, and a graph a third."""

    def steps_ms(step: Step, _: Sizes) -> float:
        assert step.run().batch.norm == step.norm_batch_size
        ms = 12.0 * (2 if step.norm_batch_size == 2 else 1) * (0.5 if step.kernels == "fused" else 1)
        return ms / 3 if step.cuda_graphs else ms

    monkeypatch.setattr(training, "_steps_ms", steps_ms)
    monkeypatch.setattr(training, "_kernels", lambda _: ["native", "fused"])
    training.graphs(ON_GPU)
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [row["value"] for row in rows] == [12, 3, 24, 3, 6, 3, 12, 3]
    assert rows[2]["what"] == "batch 32, norm batch 2, native: launched one by one"
    training.graphs(REHEARSAL)
    assert "CUDA graphs: they need a GPU" in capsys.readouterr().out


def test_all_stages_together_may_take_eight_minutes() -> None:
    assert sum(stage.limit_s for stage in check.STAGES) <= 8 * 60


def test_every_stage_has_its_function() -> None:
    assert [stage.name for stage in check.STAGES] == list(MODULES)
    outcome = run_stage(check.STAGES[0], rehearse=True, limit_s=60, path=[str(Path(sys.prefix))])
    assert {"device", "torch", "python"} <= {row["what"] for row in outcome.rows}
    assert outcome.left_out == []
