"""`--json` of the commands that print a table."""

import json
from pathlib import Path

import pytest

from reports.write import report_folder
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


def test_a_report(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        report_folder, "obstacle_to_drawing", lambda: "nothing draws here"
    )  # which takes long
    runs = [run for run in expand_runs(seeds=[0, 1, 2]) if run.batch.norm_batch_size == 4]
    for run in runs:
        gain = 5.0 + 0.3 * (run.seed == 2) if run.model.norm.kind == "xbn" else 0.0
        write_run(tmp_path / "runs", run, top1_percent=(50.0, 60.0 + gain + 0.1 * run.seed))
    damaged = tmp_path / "runs" / "damaged"
    damaged.mkdir()
    (damaged / "run.json").write_text("{")
    done = shiftbench(
        "report", tmp_path / "runs", "--out", tmp_path / "out", "--json", XDG_CACHE_HOME=str(tmp_path)
    )
    found = json.loads(done.stdout)  # and nothing else
    assert found["page"] == str(tmp_path / "out" / "index.html")
    cells = {cell["norm"]: cell for cell in found["cells"]}
    assert cells["BN"]["top1_percent_mean"] == pytest.approx(60.1)
    assert (cells["BN"]["top1_percent_n"], cells["BN"]["completed"]) == (3, 3)
    assert cells["XBN-P2-GN8"]["top1_percent_mean"] == pytest.approx(65.2)
    assert "XBN-P2-GN8 beats BN" in found["answer"]["headline"]
    assert [Path(one["folder"]).name for one in found["not_read"]] == ["damaged"]
    assert found["left_out"] == "nothing draws here"
    assert f"report: {found['page']}" in done.stderr


def test_how_a_run_scales(tmp_path: Path) -> None:
    cluster = tmp_path / "cluster.yaml"
    cluster.write_text("scheduler: slurm\ntime: '60'\n")
    what = ("demo", "model.norm=bn", "batch.norm_batch_size=2", "seeds=[0]", "--cluster", cluster)
    done = shiftbench(
        "scale",
        *what,
        "--weak",
        "--nodes",
        "1,2",
        "--report-only",
        "--json",
        "--output-dir",
        tmp_path / "scaling",
    )
    assert done.returncode == 3, done.stderr
    found = json.loads(done.stdout)
    assert (
        sorted((cell["nodes"], cell["state"]) for cell in found["cells"])
        == [(1, "not submitted")] * 3 + [(2, "not submitted")] * 3
    )
    assert [point["images_per_s"] for point in found["points"]] == [None, None]
    assert "results: " in done.stderr


def test_the_runs_of_an_experiment_and_the_claims() -> None:
    runs = [json.loads(line) for line in shiftbench("config", "show", "demo", "--json").stdout.splitlines()]
    assert len({run["run_id"] for run in runs}) == 24
    assert {run["batch"]["norm_batch_size"] for run in runs} == {2, 32}
    done = shiftbench("reproduce", "A", "c", "--list", "--json")
    claims = [json.loads(line) for line in done.stdout.splitlines()]
    assert [claim["claim"] for claim in claims] == ["A", "C"]
    assert all(claim["minutes_at_first_look"] > 0 and claim["seeds_at_looks"] for claim in claims)
