"""Before the first step: one rank lists or copies, the others wait, and none does what another has done."""

import ctypes
import itertools
import json
import os
import re
import shutil
import signal
import subprocess
import threading
import time
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from suite.data import check_data, index, index_cache, train_loader, val_loader
from suite.data.pack_writer import sources_of, write_pack
from suite.data.packs import pack_index
from suite.data.sources import folder_index, indexes_to_share, prepare
from suite.data.staging import copies_folder
from suite.errors import Cancelled, Preempted, UserError
from suite.experiment import Run, SystemSpec
from suite.signals import StopFlag
from suite.train import data_start
from suite.train.data_start import data_ready
from suite.train.distributed import Ranks, joined
from tests.helpers.bit_equal import assert_bit_equal, final_state, measured
from tests.helpers.ranks import free_port, in_processes, on_ranks, rank_environment
from tests.helpers.runs import tiny_run
from tests.helpers.training_processes import train

CPU = torch.device("cpu")
PR_SET_PTRACER = 0x59616D61  # linux/prctl.h


def run_on(folder: Path, loader: str = "torchvision", **data: Any) -> Run:
    return tiny_run(data={"path": str(folder), "loader": loader, **data}, recipe={"epochs": 1})


def on_its_own(rank: int, world_size: int) -> Ranks:
    return Ranks(rank, rank, world_size, CPU)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """12 training images and 3 validation images of each of ten classes."""
    source, folder = prepare("fashion-mnist-7k"), tmp_path_factory.mktemp("few") / "folder"
    for split, count in (("train", 12), ("val", 3)):
        for class_folder in (source / split).iterdir():
            (folder / split / class_folder.name).mkdir(parents=True)
            for path in sorted(class_folder.iterdir())[:count]:
                shutil.copy(path, folder / split / class_folder.name)
    return folder


# ------------------------------------------------------------ lists


def system_calls(rank: int, world_size: int) -> dict[str, Counter[str]]:
    """What this rank asks of the folder's file system until it has had its first batches, by loader."""
    folder = Path(os.environ["SHIFTBENCH_TEST_FOLDER"])
    found = {}
    for loader in ("torchvision", "dali"):
        log = folder.parent / f"calls-{loader}-{rank}"
        run = run_on(folder, loader)
        with traced(log), data_ready(run, on_its_own(rank, world_size), StopFlag()) as here:
            check_data(here)
            training = train_loader(here, start_step=0, rank=rank, world_size=world_size, device=CPU)
            validation = val_loader(here, images_per_batch=5, rank=rank, world_size=world_size, device=CPU)
            batches = [*itertools.islice(training, 1), *validation]
            for one in (training, validation):
                one.close()
        found[loader] = calls_in(log, folder)
        found[loader]["images"] = sum(len(batch.labels_N) for batch in batches)
    return found


class traced:
    """Has strace write the calls of this process, and of those that it starts, to a file."""

    def __init__(self, log: Path) -> None:
        self._log = log

    def __enter__(self) -> None:
        ctypes.CDLL(None).prctl(PR_SET_PTRACER, ctypes.c_ulong(-1), 0, 0, 0)
        options = [
            "-f",
            "-y",
            "-e",
            "trace=open,openat,getdents64,stat,statx,newfstatat",
            "-o",
            str(self._log),
        ]
        command = ["strace", *options, "-p", str(os.getpid())]
        self._strace = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
        assert self._strace.stderr is not None
        assert "attached" in self._strace.stderr.readline()

    def __exit__(self, *_: object) -> None:
        self._strace.send_signal(signal.SIGINT)
        self._strace.communicate(timeout=60)


def calls_in(log: Path, folder: Path) -> Counter[str]:
    """How often the folder or what is below it was listed, asked for, or opened."""
    counts = Counter[str]()
    below = re.escape(str(folder))
    for line in log.read_text().splitlines():
        if re.search(rf"getdents64\(\d+<{below}", line):
            counts["listed"] += 1
        elif re.search(rf'open(at)?\((AT_FDCWD[^,]*, )?"{below}.*O_DIRECTORY', line):
            continue  # counted when it is listed
        elif re.search(rf'open(at)?\((AT_FDCWD[^,]*, )?"{below}', line):
            counts["opened"] += 1
        elif re.search(rf'(stat|statx|newfstatat)\((AT_FDCWD[^,]*, )?"{below}', line):
            counts["asked for"] += 1
    return counts


def test_only_the_first_rank_lists_the_files(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if shutil.which("strace") is None:
        pytest.skip("needs strace")
    monkeypatch.setenv("SHIFTBENCH_TEST_FOLDER", str(folder))
    first, second = on_ranks(system_calls, 2, tmp_path)
    # Both splits, and ten folders in each; a call that gets the names and one that gets no more.
    assert first["torchvision"]["listed"] >= 44
    for calls in second.values():
        assert calls["listed"] == 0
        # Its images, of which workers and the pipeline read some batches of 8 ahead.
        assert calls["images"] <= calls["opened"] <= calls["images"] + 5 * 8
        assert calls["asked for"] <= calls["opened"] + 10


def test_the_list_is_kept_until_a_folder_changes(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("SHIFTBENCH_DATA_DIR", str(tmp_path / "data"))
    monkeypatch.setattr(index_cache, "SETTLED_AFTER_S", 0)
    mine = Path(shutil.copytree(folder, tmp_path / "mine"))
    (mine / "val/8-bag/inner").mkdir()
    (mine / "val/8-bag/list.txt").write_text("")
    listings = 0
    walk = index._walk

    def counted(*arguments: Any) -> Any:
        nonlocal listings
        listings += 1
        return walk(*arguments)

    monkeypatch.setattr(index, "_walk", counted)

    def scanned() -> tuple[list[bytes], int]:
        """The names, as a new process would list them, and how many folders it listed."""
        nonlocal listings
        index.scan.cache_clear()
        before = listings
        found = index.scan(mine, "val")
        assert found.classes == tuple(sorted(path.name for path in (folder / "val").iterdir()))
        assert np.bincount(found.labels_N).sum() == len(found.names_N)
        return found.names_N.tolist(), listings - before

    names, count = scanned()
    assert (len(names), count) == (30, 11)
    assert "1 files are no images" in caplog.text
    caplog.clear()
    assert scanned() == (names, 0)
    assert "1 files are no images" in caplog.text
    shutil.copy(mine / os.fsdecode(names[0]), mine / "val/8-bag/inner/new.jpg")
    more, count = scanned()
    assert count == 11
    assert set(more) - set(names) == {b"val/8-bag/inner/new.jpg"}
    assert scanned() == (more, 0)
    (kept,) = (tmp_path / "data/indexes").iterdir()
    for damage in (b"nothing", kept.read_bytes()[:-100], kept.read_bytes().replace(b"8-bag", b"9-bag")):
        kept.write_bytes(damage)
        assert scanned() == (more, 11)
    (mine / "val/8-bag/inner/new.jpg").unlink()
    monkeypatch.setattr(index_cache, "SETTLED_AFTER_S", 60)
    assert scanned() == (names, 11)
    assert scanned() == (names, 11)  # it has just changed, and may do so again within its clock's tick


# ------------------------------------------------------------ waiting


def answers(rank: int, port: int, path: Path) -> None:
    """Write what each of two ranks gets where one of them works, fails or is asked to stop."""
    os.environ.update(rank_environment(rank, 2, port))
    with joined(SystemSpec(collective_timeout_s=2, device="cpu")) as ranks:
        cases = ("works", "user's error", "failure", "stop", "warning")
        path.write_text(json.dumps([_answer(case, ranks) for case in cases]))


def _answer(case: str, ranks: Ranks) -> str:
    stop = StopFlag()
    if ranks.rank == 1 and case in ("stop", "warning"):
        stop.raise_(signal.SIGTERM if case == "stop" else signal.SIGUSR2, None)

    def work(cancel: threading.Event) -> str:
        if case == "works":
            time.sleep(3)  # longer than a collective may take
            return "done"
        if case in ("stop", "warning"):
            return "ended early" if cancel.wait(60) else "not told"
        raise UserError("the disk is gone") if case == "user's error" else ValueError("a fault of ours")

    try:
        return str(data_start._all_wait_for(work if ranks.rank == 0 else None, ranks, stop))
    except Preempted as error:
        return f"preempted, {error.is_warned}"
    except (UserError, ValueError, RuntimeError) as error:
        return f"{type(error).__name__}: {error}"


def test_the_others_wait_and_learn_how_it_ended(tmp_path: Path) -> None:
    port, paths = free_port(), [tmp_path / f"rank-{rank}" for rank in range(2)]
    assert in_processes(answers, [(rank, port, path) for rank, path in enumerate(paths)]) == [0, 0]
    first, second = (json.loads(path.read_text()) for path in paths)
    gone, stopped, warned = "UserError: the disk is gone", "preempted, False", "preempted, True"
    assert first == ["done", gone, "ValueError: a fault of ours", stopped, warned]
    assert second == ["None", gone, "RuntimeError: another rank failed: a fault of ours", stopped, warned]


def test_a_list_that_is_made_is_given_up(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A listing on a network takes minutes: a stop signal ends it at the next folder."""
    monkeypatch.setenv("SHIFTBENCH_DATA_DIR", str(tmp_path / "data"))
    mine, cancel, walked = Path(shutil.copytree(folder, tmp_path / "mine")), threading.Event(), list[bytes]()
    add = index_cache.Folders.add

    def stop_at_the_first(folders: index_cache.Folders, listed: bytes) -> None:
        walked.append(listed)
        if os.path.dirname(listed) == os.fsencode(mine / "train"):  # noqa: PTH120
            cancel.set()
        add(folders, listed)

    monkeypatch.setattr(index_cache.Folders, "add", stop_at_the_first)
    monkeypatch.setattr(index, "LISTING_THREADS", 1)
    with pytest.raises(Cancelled):
        indexes_to_share(run_on(mine).data, cancel)
    assert len(walked) == 2  # train/ and one class
    assert len(indexes_to_share(run_on(mine).data, threading.Event()) or []) == 2


def test_a_stop_signal_ends_the_listing_of_one_rank(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SHIFTBENCH_DATA_DIR", str(tmp_path / "data"))
    monkeypatch.setattr(data_start, "ASK_EVERY_S", 0.01)
    mine, stop, images_in = Path(shutil.copytree(folder, tmp_path / "mine")), StopFlag(), index._images_in

    def stopped(root: Path, folders: index_cache.Folders, cancel: threading.Event) -> Any:
        stop.raise_(signal.SIGTERM, None)
        assert cancel.wait(5), "the listing is not told of the signal"
        return images_in(root, folders, cancel)

    monkeypatch.setattr(index, "_images_in", stopped)
    with pytest.raises(Preempted), data_ready(run_on(mine), on_its_own(0, 1), stop):
        pass
    monkeypatch.setattr(index, "_images_in", images_in)
    with data_ready(run_on(mine), on_its_own(0, 1), StopFlag()) as run:
        assert len(folder_index(run.data, "val").names_N) == 30
    other = run_on(mine, name="mine", num_classes=9)  # for which the list does not serve
    refused = pytest.raises(UserError, match=r"has 10 class folders, but data\.num_classes is 9")
    with refused, data_ready(other, on_its_own(0, 1), StopFlag()):
        pass


# ------------------------------------------------------------ runs


def test_a_staged_run_of_two_ranks_ends_as_on_the_folder(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pack = write_pack(*sources_of(folder), tmp_path / "pack", images_per_file=50).folder
    monkeypatch.setenv("TMPDIR", str(tmp_path / "node"))
    loose, staged = tmp_path / "loose", tmp_path / "staged"
    assert train(run_on(folder), loose, world_size=2) == [0, 0]
    assert train(run_on(pack, stage="$TMPDIR"), staged, world_size=2) == [0, 0]
    assert_bit_equal(final_state(staged), final_state(loose))
    assert measured(staged) == measured(loose)
    (copy,) = (path for path in copies_folder(tmp_path / "node").iterdir() if path.is_dir())
    assert {path.name for path in copy.iterdir()} == {*(path.name for path in pack.iterdir()), "staged.json"}


def test_a_run_reads_the_copy_and_not_the_source(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pack = write_pack(*sources_of(folder), tmp_path / "pack").folder
    with data_ready(run_on(pack, stage=str(tmp_path / "node")), Ranks(0, 0, 1, CPU), StopFlag()) as here:
        for path in pack.glob("*.data"):
            path.unlink()
        pack_index.cache_clear()  # which holds them open
        loader = train_loader(here, start_step=0, rank=0, world_size=1, device=CPU)
        assert len(next(iter(loader)).labels_N) == 8
        loader.close()
        assert here.run_id == run_on(folder).run_id
