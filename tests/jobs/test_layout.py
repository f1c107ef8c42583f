"""What the command line's help and completion show."""

import pytest

from jobs.commands.layout import complete_cluster, complete_config
from tests.helpers.command_line import shiftbench

COMMANDS = ("run", "submit", "tune", "reproduce", "status", "logs", "cancel", "retry", "report", "compare")
COMMANDS += ("probe", "diagnose", "robust", "init", "config", "data", "doctor")


def test_the_commands_are_in_groups() -> None:
    shown = shiftbench("-h", COLUMNS="80").stdout
    headings = [line.strip("╭─╮ ") for line in shown.splitlines() if line.startswith("╭")]
    assert headings == [
        *("Options", "Train runs", "Follow and control runs", "Results", "Any trained network", "Set up")
    ]
    assert [line.split()[1] for line in shown.splitlines() if line[:3] in [f"│ {c[0]}" for c in COMMANDS]]
    assert all(f"│ {command} " in shown for command in COMMANDS)


@pytest.mark.parametrize("command", COMMANDS)
def test_every_help_fits_80_columns_and_gives_flags_no_type(command: str) -> None:
    done = shiftbench(command, "-h", COLUMNS="80")
    assert done.returncode == 0
    assert "<bool>" not in done.stdout
    assert "…" not in done.stdout.replace("key=value …", "")
    assert max(map(len, done.stdout.splitlines())) <= 80
    assert shiftbench(command, "--help", COLUMNS="80").stdout == done.stdout


def test_cancel_and_retry_do_not_claim_to_take_all_runs() -> None:
    assert "default: all" in shiftbench("status", "-h", COLUMNS="200").stdout
    for command in ("cancel", "retry"):
        assert "default: all" not in shiftbench(command, "-h", COLUMNS="200").stdout


def test_completion_knows_shipped_configs_and_clusters() -> None:
    assert "demo" in complete_config("de")
    assert "local" in complete_cluster("lo")
    assert complete_cluster("nowhere") == []
    shell = {
        "_SHIFTBENCH_COMPLETE": "complete_bash",
        "COMP_WORDS": "shiftbench run small-ba",
        "COMP_CWORD": "2",
    }
    assert "small-batch-demo" in shiftbench(**shell).stdout.split()


def test_a_paragraph_of_help_flows() -> None:
    lines = [line.strip() for line in shiftbench("scale", "-h", COLUMNS="80").stdout.splitlines()]
    first = lines.index("The jobs run one after the other. The same command again submits only cells")
    assert lines[first + 1].startswith("that are missing or have failed, so ")
