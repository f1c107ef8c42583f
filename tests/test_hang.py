"""Of ranks that wait for one another, the one for which they wait is named, by dumps in NCCL's format."""

import os
import pickle
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from jobs.cluster.backend import RunStatus
from jobs.commands.status_view import details
from suite.errors import UserError
from suite.paths import RunPaths
from suite.record import Record, RecordWriter, collectives, errors_noted, read_status
from suite.record.collectives import find_gap, read_dump
from suite.record.hang import Hang, read_hang
from tests.helpers.flights import dump, leave
from tests.helpers.runs import make_run

NODES = ["n1", "n1", "n2", "n2"]
STEP = ["all_reduce"] * 3
WAITS = dump([*STEP, "all_reduce"], pending=1)
LAGS = dump(STEP)


def hang_of(folder: Path, dumps: dict[int, Any], steps: dict[int, int] | None = None) -> Hang:
    paths = RunPaths(folder)
    leave(paths, NODES, dumps, steps)
    hang = read_hang(paths)
    assert hang is not None
    return hang


SLOW = "slower than the others by more than system.collective_timeout_s"
WAITED = "ranks 0 on n1, 1 on n1 and 2 on n2 waited in all_reduce 4"
CASES: dict[str, tuple[dict[int, Any], dict[int, int] | None, list[int], str]] = {
    "a rank did not enter": (
        {0: WAITS, 1: WAITS, 2: WAITS, 3: LAGS},
        {0: 20, 1: 20, 2: 20, 3: 20},
        [3],
        f"rank 3 on n2 hangs, or is {SLOW} (epoch 2, step 20, training; {WAITED})",
    ),
    "a rank left nothing": (
        {0: WAITS, 1: WAITS, 2: WAITS},
        {0: 20, 1: 20, 2: 20},
        [3],
        f"rank 3 on n2 hangs, or is {SLOW} (it left no word: it was stopped or lost, or hangs in native "
        f"code; the others were at epoch 2, step 20, training; {WAITED})",
    ),
    "two ranks": (
        {0: WAITS, 1: LAGS, 2: WAITS, 3: LAGS},
        None,
        [1, 3],
        f"ranks 1 on n1 and 3 on n2 hang, or are {SLOW} (ranks 0 on n1 and 2 on n2 waited in all_reduce 4)",
    ),
    "a rank did not enter, and another one left no dump": (
        {0: WAITS, 1: LAGS, 2: WAITS},
        None,
        [1],
        f"rank 1 on n1 hangs, or is {SLOW} (ranks 0 on n1 and 2 on n2 waited in all_reduce 4; rank 3 on n2 "
        "left no dump)",
    ),
    "two ranks left no dump": (
        {0: WAITS, 1: WAITS},
        None,
        [2, 3],
        f"ranks 2 on n2 and 3 on n2 hang, or are {SLOW} (ranks 0 on n1 and 1 on n1 waited in all_reduce 4)",
    ),
    "another collective": (
        {0: WAITS, 1: WAITS, 2: WAITS, 3: dump([*STEP, "broadcast"], pending=1)},
        None,
        [3],
        f"rank 3 on n2 hangs, or is {SLOW} (it called broadcast; {WAITED})",
    ),
    "all have entered": (
        dict.fromkeys(range(4), WAITS),
        None,
        [],
        f"a rank hangs, or is {SLOW} (all have entered all_reduce 4)",
    ),
    "no dumps, and one step behind": (
        {},
        {0: 21, 1: 21, 2: 20, 3: 21},
        [2],
        f"rank 2 on n2 hangs, or is {SLOW} (epoch 2, step 20, training)",
    ),
    "no dumps, and one rank silent": ({}, {0: 20, 1: 20, 3: 20}, [2], "rank 2 on n2 hangs"),
    "no dumps, and all are alike": ({}, dict.fromkeys(range(4), 20), [], f"a rank hangs, or is {SLOW}"),
    "nothing pending": (dict.fromkeys(range(4), LAGS), {1: 3, 0: 4, 2: 4, 3: 4}, [1], "rank 1 on n1 hangs"),
}


@pytest.mark.parametrize("case", CASES)
def test_who_is_waited_for(case: str, tmp_path: Path) -> None:
    dumps, steps, lagging, sentence = CASES[case]
    hang = hang_of(tmp_path, dumps, steps)
    assert hang.lagging == lagging
    assert hang.sentence().startswith(sentence)


def test_of_several_groups_the_one_that_waited_first_counts(tmp_path: Path) -> None:
    """Ranks 2 and 3 wait for rank 1, which waits for rank 0 in a group of their own since before."""
    pair = {"ranks": "[0, 1]", "group": "pair"}
    world_0, world_1, waits = dump(STEP), dump(STEP), dump([*STEP, "all_reduce"], pending=1, start_ns=5000)
    pair_0, pair_1 = dump(["all_gather"], **pair), dump(["all_gather"] * 2, pending=1, start_ns=2000, **pair)
    by_rank = {0: both(world_0, pair_0), 1: both(world_1, pair_1), 2: waits, 3: waits}
    gap = find_gap([{}, {rank: read(tmp_path / "dump", one) for rank, one in by_rank.items()}])
    assert gap is not None
    assert (gap.collective.name, gap.collective.number, gap.waiting, gap.suspects) == (
        "all_gather",
        2,
        [1],
        [0],
    )


def both(one: dict[str, Any], other: dict[str, Any]) -> dict[str, Any]:
    config = one["pg_config"] | other["pg_config"]
    return {**one, "pg_config": config, "entries": [*one["entries"], *other["entries"]]}


def read(path: Path, content: object) -> list[collectives.Collective]:
    path.write_bytes(pickle.dumps(content))
    return read_dump(path, 4)


def test_sends_are_no_collectives_and_groups_may_be_unknown(tmp_path: Path) -> None:
    content = dump(["all_reduce", "send"])
    content["entries"][1]["is_p2p"] = True
    content["pg_config"] = {}
    (one,) = read(tmp_path / "dump", content)
    assert (one.name, one.number, one.members, one.is_done) == ("all_reduce", 1, (0, 1, 2, 3), True)


class Evil:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.system, ("touch planted",)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "not a dump of collectives"),
        (pickle.dumps(dump(STEP))[:-40], "not a dump of collectives"),
        (pickle.dumps(Evil()), "it names posix.system, and a dump holds plain values only"),
        (pickle.dumps([1, 2]), "not a dump of collectives as torch writes it: TypeError"),
        (pickle.dumps({"pg_config": {}, "entries": [{}]}), "as torch writes it: KeyError"),
        (b"x" * 101, "101 bytes are more than a dump of collectives has"),
    ],
    ids=["empty", "cut short", "executable", "a list", "without fields", "too large"],
)
def test_a_bad_dump_is_named_and_the_others_are_used(
    content: bytes, words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    paths = RunPaths(tmp_path)
    leave(paths, NODES, {0: WAITS, 1: WAITS, 2: WAITS, 3: LAGS})
    paths.trace("nccl", 1).write_bytes(content)
    if len(content) == 101:
        monkeypatch.setattr(collectives, "MAX_BYTES", 100)
        with pytest.raises(UserError, match=words):
            read_dump(paths.trace("nccl", 1), 4)
        return
    hang = read_hang(paths)
    assert hang is not None
    assert hang.lagging == [3]
    assert "rank 1 on n1 left no dump" in hang.sentence()
    assert not Path("planted").exists()
    (note,) = hang.notes
    assert note.startswith(f"{paths.trace('nccl', 1)}: ")
    assert words in note


def test_bad_words_of_a_rank_are_named(tmp_path: Path) -> None:
    paths = RunPaths(tmp_path)
    leave(paths, NODES, {}, {0: 1, 1: 1})
    paths.stall(1).write_text('{"rank": -1}')
    paths.rank_nodes.write_text("[1]")
    hang = read_hang(paths)
    assert hang is not None
    assert hang.lagging == []
    assert [note.partition(": not as")[0] for note in hang.notes] == [
        str(paths.rank_nodes),
        str(paths.stall(1)),
    ]


def test_many_ranks_are_named_by_their_nodes() -> None:
    hang = Hang([f"n{rank // 4}" for rank in range(32)])
    assert hang.named(range(6)) == "6 ranks (4 on n0, 2 on n1)"
    assert hang.named(range(32)) == "32 ranks (4 on n0, 4 on n1, 4 on n2, 4 on n3, …)"


def test_while_ranks_wait_nothing_is_said_of_a_time_out(tmp_path: Path) -> None:
    waits = hang_of(tmp_path / "waits", {}, {0: 20, 1: 20, 2: 19, 3: 20})
    assert waits.sentence_so_far() == (
        "the others have waited for rank 2 on n2 for 480 s (epoch 2, step 19, training)"
    )
    alike = hang_of(tmp_path / "alike", dict.fromkeys(range(4), WAITS), dict.fromkeys(range(4), 20))
    assert alike.sentence_so_far() == ("its ranks have not gone on for 480 s (all have entered all_reduce 4)")
    dumped = hang_of(tmp_path / "dumped", {0: WAITS, 1: WAITS, 2: WAITS, 3: LAGS})
    assert dumped.sentence_so_far() == dumped.sentence()


def test_dumps_are_read_when_they_are_asked_for_and_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read: list[Path] = []

    def counted(path: Path, world_size: int) -> list[collectives.Collective]:
        read.append(path)
        return read_dump(path, world_size)

    monkeypatch.setattr("suite.record.hang.read_dump", counted)
    paths = RunPaths(tmp_path)
    with RecordWriter(make_run(), tmp_path) as record:
        record.start({})
        leave(paths, NODES, {0: WAITS, 1: WAITS, 2: WAITS, 3: LAGS})
        with pytest.raises(RuntimeError), errors_noted(paths, 1):
            raise RuntimeError("Timed out waiting 600000ms for recv operation to complete")
        record.status("failed", reason="RuntimeError: Timed out")
    status = read_status(paths)
    assert (status.state, read) == ("failed", [])
    for _ in range(2):
        status = read_status(paths)
        assert status.reason is not None
        assert status.reason.startswith("rank 3 on n2 hangs")
        assert status.hang is not None
    assert read == [paths.trace("nccl", rank) for rank in range(4)]
    leave(paths, NODES, {2: LAGS, 3: WAITS})
    assert str(read_status(paths).reason).startswith("rank 2 on n2 hangs")
    paths.trace("nccl", 0).write_bytes(b"")
    for number in (2, 3):  # what could not be read is tried again
        found = read_status(paths).hang
        assert found is not None
        assert len(found.notes) == 1
        assert len(read) == 4 * (number + 1)


def test_status_names_the_rank_and_shows_where_it_hangs(tmp_path: Path) -> None:
    paths = RunPaths(tmp_path)
    with RecordWriter(make_run(), tmp_path) as record:
        record.start({})
        leave(paths, NODES, {0: WAITS, 1: WAITS, 2: WAITS, 3: LAGS}, dict.fromkeys(range(4), 20))
        with pytest.raises(RuntimeError), errors_noted(paths, 0):
            raise RuntimeError("Timed out waiting 600000ms for recv operation to complete")
        record.status("failed", reason="RuntimeError: Timed out")
    status = read_status(paths)
    assert status.reason is not None
    assert status.reason.startswith("rank 3 on n2 hangs, or is slower than the others")
    assert "as rank 0 on " in status.reason
    console = Console(width=300)
    with console.capture() as capture:
        run = RunStatus(tmp_path, "failed", status.reason, errors=status.errors, hang=status.hang)
        console.print(details(run, []))
    shown = capture.get()
    assert "epoch 2, step 20, training: ranks 0 on n1, 1 on n1, 2 on n2 and 3 on n2" in shown
    assert "rank 3 on n2 has not gone on for 480 s" in shown
    assert 'File "loop.py", line 3, in advance' in shown
    assert 'File "loop.py", line 0, in advance' in shown  # of one that waited
    assert 'File "loop.py", line 1, in advance' not in shown
    with RecordWriter(make_run(), tmp_path) as record:
        record.forget_errors()
        record.start({})
        record.status("failed", reason="another one")
    assert read_hang(paths) is None
    assert Record.read(tmp_path).reason == "another one"
