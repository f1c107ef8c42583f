"""GPUs shared out among the runs at a time, worked out by hand."""

from pathlib import Path

import pytest

from jobs.local.gpus import share_out, visible_gpus
from suite.errors import UserError


def test_what_a_process_would_see(tmp_path: Path) -> None:
    driver = tmp_path / "gpus"
    assert visible_gpus({}, driver) == []
    for bus in ("0000:01:00.0", "0000:02:00.0", "0000:03:00.0"):
        (driver / bus).mkdir(parents=True)
    assert visible_gpus({}, driver) == ["0", "1", "2"]
    assert visible_gpus({"CUDA_VISIBLE_DEVICES": "3, GPU-8a5f"}, driver) == ["3", "GPU-8a5f"]
    assert visible_gpus({"CUDA_VISIBLE_DEVICES": "1,-1,2"}, driver) == ["1"]
    assert visible_gpus({"CUDA_VISIBLE_DEVICES": ""}, driver) == []


def test_each_run_gets_gpus_of_its_own() -> None:
    slots = share_out(["4", "5", "6", "7", "8"], jobs=2, ranks=2)
    assert [slot["CUDA_VISIBLE_DEVICES"] for slot in slots] == ["4,5", "6,7"]
    assert share_out([], jobs=3, ranks=2) == [{}, {}, {}]


def test_too_few() -> None:
    with pytest.raises(UserError, match=r"2 jobs × 2 ranks need 4 GPUs, but there are 3 \(0, 1, 2\)"):
        share_out(["0", "1", "2"], jobs=2, ranks=2)
