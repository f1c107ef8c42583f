"""What a rank notes while it does not go on, on two gloo ranks of which one hangs; torch's variables."""

import os
import re
import time
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist

from suite.errors import Preempted
from suite.paths import RunPaths
from suite.record.hang import Hang, read_hang
from suite.train.distributed import Ranks
from suite.train.flight_recorder import (
    BUFFER,
    NUM_COLLECTIVES,
    PLACE,
    dumped_to,
    gloo_dump,
    record_collectives,
)
from suite.train.hang_watch import HangWatch
from tests.helpers.ranks import on_ranks

CPU = torch.device("cpu")
PATIENCE_S = 30.0


def reads_a_file_that_never_comes(paths: RunPaths) -> Hang:
    """The main thread of the second rank is here, until both ranks have noted that they do not go on."""
    deadline = time.monotonic() + PATIENCE_S
    while time.monotonic() < deadline:
        hang = read_hang(paths)
        if hang is not None and len(hang.stalls) == 2 and hang.gap is not None:
            return hang
        time.sleep(0.02)
    raise AssertionError(f"not noted in {PATIENCE_S:.0f} s")


def hanging(rank: int, world_size: int) -> dict[str, Any]:
    ranks, found = Ranks(rank, rank, world_size, CPU), dict[str, Any]()
    paths = RunPaths(Path(os.environ["HANGING_RUN"]))
    one, two = torch.ones(3), torch.ones(3)
    with HangWatch(paths, ranks, timeout_s=1.0) as watch:
        watch.beat(1, 6, "training")
        dist.all_reduce(one)
        if rank == 1:
            hang = reads_a_file_that_never_comes(paths)
            found = {"lagging": hang.lagging, "sentence": hang.sentence(), "stacks": [""] * 2}
            for number, stall in hang.stalls.items():
                found["stacks"][number] = stall.stack
        dist.all_reduce(two)
        watch.beat(1, 7, "training")
        deadline = time.monotonic() + PATIENCE_S
        while paths.stall(rank).exists() and time.monotonic() < deadline:
            time.sleep(0.02)
        found["forgotten"] = not paths.stall(rank).exists()
    dist.barrier()
    return found | {"left": paths.flight.exists(), "current": HangWatch.current}


def test_a_rank_that_hangs_is_named_while_the_others_wait(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HANGING_RUN", str(tmp_path))
    monkeypatch.setenv("SLURMD_NODENAME", "n7")
    waited, hung = on_ranks(hanging, 2, tmp_path)
    assert hung["lagging"] == [1]
    where = r"\(epoch 1, step 6, training; rank 0 on n7 waited in all_?reduce \d+\)"
    assert re.fullmatch(f"rank 1 on n7 hangs, or is slower .* {where}", hung["sentence"])
    assert "in reads_a_file_that_never_comes" in hung["stacks"][1]
    assert "in all_reduce" in hung["stacks"][0]
    for found in (waited, hung):
        assert found["forgotten"]
        assert not found["left"]
        assert found["current"] is None


@pytest.mark.parametrize(
    ("end", "is_kept"),
    [
        (Preempted("", is_warned=False), False),
        (ValueError("an error of its own"), False),
        (RuntimeError("Timed out waiting 10000ms for recv operation to complete"), True),
    ],
)
def test_what_was_noted_is_kept_after_a_fault_alone(
    end: Exception, is_kept: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv(PLACE[0], raising=False)
    monkeypatch.setattr(Ranks, "nodes", lambda ranks: ["n1", "n2"])
    watch = HangWatch(RunPaths(tmp_path), Ranks(0, 0, 2, CPU), 600.0)
    watch.__enter__()
    assert os.environ[PLACE[0]] == str(tmp_path / "flight" / "nccl-")
    watch.__exit__(type(end), end, None)
    hang = read_hang(RunPaths(tmp_path))
    assert (hang is not None) == is_kept
    assert (os.environ.pop(PLACE[0], None) is None) == isinstance(end, Preempted)
    if hang is not None:
        assert (list(hang.stalls), hang.lagging, hang.nodes) == ([0], [1], ["n1", "n2"])


def test_the_log_says_where_the_place_stands_once_it_does(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    paths = RunPaths(tmp_path)
    watch = HangWatch(paths, Ranks(1, 1, 2, CPU), 600.0)
    watch._waited_s = 480.4
    watch._note("")  # there is no folder
    assert "rank 1 has not gone on for 480 s, and where it is could not be written: " in caplog.text
    assert "says where it is" not in caplog.text
    paths.flight.mkdir()
    watch._note("")
    assert f"rank 1 has not gone on for 480 s; {paths.stall(1)} says where it is" in caplog.text


def test_one_rank_has_no_others_that_wait(tmp_path: Path) -> None:
    with HangWatch(RunPaths(tmp_path), Ranks(0, 0, 1, CPU), 600.0):
        assert HangWatch.current is None
    assert not list(tmp_path.iterdir())


def test_what_the_user_has_set_in_torchs_variables_stays(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for name in (*BUFFER, *PLACE):
        monkeypatch.delenv(name, raising=False)
    record_collectives()
    assert os.environ.pop(BUFFER[0]) == str(NUM_COLLECTIVES)
    with dumped_to(tmp_path / "nccl-"):
        assert os.environ[PLACE[0]] == str(tmp_path / "nccl-")
    assert PLACE[0] not in os.environ
    monkeypatch.setenv(BUFFER[1], "0")
    monkeypatch.setenv(PLACE[1], "/scratch/trace")
    record_collectives()
    with dumped_to(tmp_path / "nccl-"):
        assert not {BUFFER[0], PLACE[0]} & os.environ.keys()
    assert gloo_dump() is None
