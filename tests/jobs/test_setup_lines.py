"""Lines of a cluster's set-up that fail end the job, and `status` names the line and what it said."""

import subprocess
from pathlib import Path

import pytest

from jobs.cluster import sbatch, slurm_commands
from jobs.cluster.clusters import SlurmCluster, parse_cluster
from jobs.cluster.ledger import Ledger, new_submission
from jobs.cluster.overview import overview
from suite.config import expand
from suite.record import RecordWriter
from tests.helpers.slurm_answers import SLURM

# As Lmod and Environment Modules define it: a function that returns a code, and one that evaluates a failure.
LMOD = (
    """module() { eval "$(lmod "$@")" && eval "$(: -s sh)"; local my_status=$?; return $my_status; }""",
    """said='Lmod has detected the following error:  The following module(s) are unknown: "%s"'""",
    """lmod() { printf "$said\\n\\nPlease check the spelling.\\nOr spider.\\n" "$2" >&2; echo false; }""",
)
TCL = (
    """module() { module_raw "$@" 2>&1; }""",
    """said="ERROR: Unable to locate a modulefile for '%s'"; module_raw() {""",
    """    eval `printf "$said\\n" "$2" >&2; echo 'test 0 = 1;'`""",
    "}",
)
LMOD_SAID = 'Lmod has detected the following error:  The following module(s) are unknown: "cuda/99"'
TCL_SAID = "ERROR: Unable to locate a modulefile for 'cuda/99'"


def script(*lines: str, afterwards: str = "echo set up; false; exit 7") -> str:
    cluster = parse_cluster({**SLURM, "setup": list(lines)}, "x")
    assert isinstance(cluster, SlurmCluster)
    return "\n".join(["#!/bin/bash", "", *sbatch.set_up(cluster, Path("/code")), afterwards])


def ended(text: str, folder: Path, *, from_file: bool = True) -> tuple[int, str, list[str]]:
    """The exit code, what was printed, and the errors, of a script or of a text that bash is given."""
    path = folder / "script.sh"
    path.write_text(text)
    command = ["bash", str(path)] if from_file else ["bash", "-c", text]
    done = subprocess.run(command, capture_output=True, text=True, cwd=folder)
    return done.returncode, done.stdout, done.stderr.splitlines()


@pytest.mark.parametrize("from_file", [True, False])
@pytest.mark.parametrize(
    ("lines", "named", "code"),
    [
        ((*LMOD, "echo a", "module load cuda/99", "echo b"), "module load cuda/99", 1),
        ((*TCL, "module load cuda/99"), "module load cuda/99", 1),
        (("nosuch  'a  b'", "true"), "nosuch  'a  b'", 127),
        (("source nowhere.sh",), "source nowhere.sh", 1),
        (("source inner.sh",), "source inner.sh", 127),
        (("if true; then", "  nosuch", "fi"), "nosuch", 127),
        (("(cd /nowhere && ls)",), "(cd /nowhere && ls)", 1),
        (("A=$(cat /nowhere)",), "A=$(cat /nowhere)", 1),
        (("export A=${B_IS_NOT_SET:?}",), "export A=${B_IS_NOT_SET:?}", 1),
        (("true", "exit 3"), "exit 3", 3),
        (("set -u", "nosuch"), "nosuch", 127),
        (("set -u", "echo $B_IS_NOT_SET"), "echo $B_IS_NOT_SET", 1),
        (("exit 0",), "exit 0", 0),
    ],
)
def test_the_line_that_fails_is_named(
    lines: tuple[str, ...], named: str, code: int, from_file: bool, tmp_path: Path
) -> None:
    (tmp_path / "inner.sh").write_text("true\nnosuch\n")
    returned, printed, errors = ended(script(*lines), tmp_path, from_file=from_file)
    assert (returned, errors[-1].strip()) == (
        code,
        f"shiftbench: setup failed with exit code {code}: {named}",
    )
    assert "set up" not in printed


@pytest.mark.parametrize("first", ["true", "set -u"])
def test_what_cannot_fail_and_what_comes_afterwards_end_nothing(first: str, tmp_path: Path) -> None:
    lines = (
        first,
        "module() { false; }",
        "module load x || true",
        "trap 'echo cleaned' EXIT",
        "A=${B_IS_NOT_SET:-c}",
    )
    assert ended(script(*lines), tmp_path) == (7, "set up\ncleaned\n", [])


@pytest.mark.parametrize(("defined", "said"), [(LMOD, LMOD_SAID), (TCL, TCL_SAID)])
def test_status_names_the_line_and_what_it_said(
    defined: tuple[str, ...], said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = expand({"model": {"arch": "small_resnet11"}, "data": {"name": "fashion-mnist-7k"}}, "x").runs[0]
    ledger = Ledger(tmp_path / "runs")
    with ledger.held():
        one = new_submission("x", SLURM, tmp_path, tmp_path, [run.folder_name])
        ledger.accepted(one, "12")
    with RecordWriter(run, ledger.output_dir / run.folder_name) as record:
        record.queue()
    code, printed, errors = ended(script(*defined, "echo loading", "module load cuda/99"), tmp_path)
    one.folder.mkdir()
    (one.folder / "12_0_log.out").write_text(printed)
    (one.folder / "12_0_log.err").write_text("\n".join(errors))
    answers = {"squeue": "", "sacct": f"12|FAILED|{code}:0|n1|{one.name}\n"}
    monkeypatch.setattr(slurm_commands, "ask", lambda name, *_: answers[name])
    (seen,) = overview(ledger.output_dir).runs
    line = "shiftbench: setup failed with exit code 1: module load cuda/99"
    assert (seen.state, seen.reason) == ("failed", f"job 12: FAILED, exit code 1; {line}; {said}")
