"""`--json` of the commands that print a table."""

import json
from pathlib import Path

from tests.helpers.command_line import shiftbench
from tests.helpers.records import expand_runs, write_run


def test_a_comparison(tmp_path: Path) -> None:
    for side, top1 in (("a", 60.0), ("b", 62.5)):
        for run in expand_runs()[:2]:
            write_run(tmp_path / side, run, top1_percent=(50.0, top1))
    done = shiftbench("compare", tmp_path / "a", tmp_path / "b", "--json", "--out", tmp_path / "out")
    found = json.loads(done.stdout)  # and nothing else
    assert found["a"] == str(tmp_path / "a")
    rows = [row for row in found["rows"] if row["metric"] == "top1_percent"]
    assert [(row["a"], row["b"], row["estimate"]) for row in rows] == [(60.0, 62.5, 2.5)] * len(rows)
    assert rows
    assert found["verdicts"]
    assert "written: " in done.stderr


def test_the_runs_of_an_experiment_and_the_claims() -> None:
    runs = [json.loads(line) for line in shiftbench("config", "show", "demo", "--json").stdout.splitlines()]
    assert len({run["run_id"] for run in runs}) == 24
    assert {run["batch"]["norm_batch_size"] for run in runs} == {2, 32}
    done = shiftbench("reproduce", "A", "c", "--list", "--json")
    claims = [json.loads(line) for line in done.stdout.splitlines()]
    assert [claim["claim"] for claim in claims] == ["A", "C"]
    assert all(claim["minutes_at_first_look"] > 0 and claim["seeds_at_looks"] for claim in claims)
