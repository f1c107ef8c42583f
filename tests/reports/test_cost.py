"""What the runs took of their cluster, against hand-computed sums."""

import shutil
from pathlib import Path
from typing import Any

from reports.collect import collect
from reports.frames import build_frames
from reports.tables.cost_tables import cost_display
from reports.tables.table import Table
from tests.helpers.records import PROVENANCE, expand_runs, write_run, write_waiting

ONE_BATCH = {"global_batch_size": 64, "norm_batch_size": 4}
BN = {"arch": "small_resnet20", "norm": {"kind": "bn"}}
CPU = {**PROVENANCE, "device": "Some 64-core processor", "device_type": "cpu"}


def cost_of(root: Path) -> Table | None:
    return cost_display(build_frames(collect([root])))


def rows_of(table: Table | None) -> list[dict[str, str]]:
    assert table is not None
    headers = [column.header for column in table.columns]
    plain = ([cell.replace("\u00a0", " ") for cell in row] for row in table.texts)
    return [dict(zip(headers, row, strict=True)) for row in plain]


def took(start_s: float, end_s: float, ranks: int) -> dict[str, Any]:
    return {"started_at": start_s, "updated_at": end_s, "world_size": ranks}


def test_costs_golden(tmp_path: Path) -> None:
    """All that a cell's runs took, those that came to nothing too."""
    bn = expand_runs(model=BN, batch=ONE_BATCH)
    xbn = expand_runs(model={**BN, "norm": {"kind": "xbn"}}, batch=ONE_BATCH)
    # 1800 + 2 × 3600 = 9000 s, and 1 × 1800 s: three hours.
    first = took(1000, 4600, 2) | {"rank_s": 1800.0, "attempts": 3, "lost_steps": 30, "queue_wait_s": 600.0}
    write_run(tmp_path, bn[0], **first)
    write_run(tmp_path, bn[1], state="failed", **took(1000, 2800, 1), lost_steps=12, queue_wait_s=1200.0)
    write_waiting(tmp_path, bn[2], "cancelled", "job 12_2 was cancelled")
    # 4 × 900 s: one hour.
    write_run(tmp_path, xbn[0], **took(5000, 5900, 4), queue_wait_s=90.0)
    write_waiting(tmp_path, xbn[1])
    table = cost_of(tmp_path)
    assert rows_of(table) == [
        {
            "Norm": "BN",
            "Norm batch": "4",
            "Runs": "1 of 3 (1 failed, 1 cancelled)",
            "GPU-hours": "3",
            "Restarts": "2",
            "Steps lost": "42",
            "Waited in queue (min)": "30",
        },
        {
            "Norm": "XBN-P2-GN8",
            "Norm batch": "4",
            "Runs": "1 of 3 (1 queued, 1 not started)",
            "GPU-hours": "1",
            "Restarts": "0",
            "Steps lost": "0",
            "Waited in queue (min)": "1.50",
        },
    ]
    assert table is not None
    assert "All cells together: GPU-hours 4, restarts 2, steps lost 42." in table.notes


def test_a_long_wait_is_told_in_hours(tmp_path: Path) -> None:
    first, second, _ = expand_runs(model=BN, batch=ONE_BATCH)
    write_run(tmp_path, first, **took(0, 3600, 1), queue_wait_s=3600.0)
    write_run(tmp_path, second, **took(0, 1800, 1), queue_wait_s=5400.0)
    (row,) = rows_of(cost_of(tmp_path))
    assert (row["GPU-hours"], row["Waited in queue (h)"]) == ("1.50", "2.50")


def test_hours_of_processors_are_not_called_those_of_gpus(tmp_path: Path) -> None:
    first, second, _ = expand_runs(model=BN, batch=ONE_BATCH)
    write_run(tmp_path / "cpu", first, provenance=CPU, **took(0, 1800, 2))
    (row,) = rows_of(cost_of(tmp_path / "cpu"))
    assert row["Rank-hours"] == "1"
    assert "Waited in queue (min)" not in row
    shutil.copytree(tmp_path / "cpu", tmp_path / "both")
    gpu = {**PROVENANCE, "device": "A card yet to come", "device_type": "cuda"}
    write_run(tmp_path / "both", second, provenance=gpu, **took(0, 7200, 2))
    (row,) = rows_of(cost_of(tmp_path / "both"))
    assert (row["GPU-hours"], row["Rank-hours, CPU"]) == ("4", "1")


def test_a_copy_costs_nothing(tmp_path: Path) -> None:
    (run, *_) = expand_runs(model=BN, batch=ONE_BATCH)
    folder = write_run(tmp_path / "a", run, **took(0, 3600, 1))
    shutil.copytree(folder, tmp_path / "b")
    (row,) = rows_of(cost_of(tmp_path))
    assert row["GPU-hours"] == "1"


def test_there_is_no_table_when_nothing_was_taken(tmp_path: Path) -> None:
    for run in expand_runs(model=BN, batch=ONE_BATCH):
        write_waiting(tmp_path, run)
    assert cost_of(tmp_path) is None
