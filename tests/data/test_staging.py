"""Copies of packs on a node's own disk: once, whole, reused, and never in the way."""

import errno
import json
import logging
import os
import resource
import shutil
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from suite.data import check_data, staging
from suite.data.packed import Packed
from suite.data.packs import Pack, check_pack, open_pack, pack_index
from suite.data.staging import copies_folder, copy_of, copy_pack, held_copy
from suite.errors import Cancelled, UserError
from suite.experiment import DataSpec
from suite.files import NoLocks, locked
from tests.data.test_packs import MakeRun
from tests.data.test_packs import pack as pack_of


@pytest.fixture(autouse=True)
def _words(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)


@pytest.fixture
def pack(pictures: Path, tmp_path: Path) -> Pack:
    return open_pack(pack_of(pictures, tmp_path / "source" / "pictures"))


@pytest.fixture
def stage(tmp_path: Path) -> Path:
    return tmp_path / "disk of the node"


def staged(pack: Pack, stage: Path) -> Path:
    """The folder that training would read."""
    copy_pack(pack, stage, threading.Event())
    with held_copy(pack, stage) as folder:
        return folder


def content(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.name != staging.STATE}


def count_reads(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    reads = list[str]()
    read = Packed.read

    def counted(packed: Packed, image: int, *, checked: bool = False):  # type: ignore[no-untyped-def]
        reads.append(str(packed.files.paths[0].parent))
        return read(packed, image, checked=checked)

    monkeypatch.setattr(Packed, "read", counted)
    return reads


def test_a_copy_is_made_once_and_reused(pack: Pack, stage: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    reads = count_reads(monkeypatch)
    folder = staged(pack, stage)
    assert folder == copy_of(pack, stage)
    assert folder.parent == copies_folder(stage)
    assert content(folder) == content(pack.folder)
    assert reads == [str(pack.folder)] * 51  # each image once
    assert staged(pack, stage) == folder
    assert len(reads) == 51
    index = pack_index(folder, "val")
    assert index.folder == folder


def test_a_copy_that_cannot_be_locked_for_reading_is_left_out(
    pack: Pack, stage: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    staged(pack, stage)

    def without_locks(path: Path, *, wait: bool, shared: bool = False) -> Any:
        raise NoLocks(errno.EBADF, "Bad file descriptor", str(path))

    monkeypatch.setattr(staging, "locked", without_locks)
    with held_copy(pack, stage) as folder:
        assert folder == pack.folder
    assert "cannot be locked (Bad file descriptor): training reads" in caplog.text


def test_two_jobs_at_once_make_one_copy(
    pack: Pack, stage: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    reads = count_reads(monkeypatch)
    publish, both = staging.publish_folder, threading.Event()

    def wait_for_the_other(draft: Path, folder: Path) -> bool:
        assert both.wait(20)
        return publish(draft, folder)

    monkeypatch.setattr(staging, "publish_folder", wait_for_the_other)
    with ThreadPoolExecutor(2) as threads:
        jobs = [threads.submit(staged, pack, stage) for _ in range(2)]
        while "another job is copying to" not in caplog.text:
            time.sleep(0.01)
        both.set()
        assert [job.result() for job in jobs] == [copy_of(pack, stage)] * 2
    assert len(reads) == 51


def test_a_job_that_waits_can_be_stopped(pack: Pack, stage: Path) -> None:
    copies_folder(stage).mkdir(parents=True)
    cancel = threading.Event()
    cancel.set()
    lock = copies_folder(stage) / f".{copy_of(pack, stage).name}.lock"
    with locked(lock, wait=False), pytest.raises(Cancelled):
        copy_pack(pack, stage, cancel)
    with pytest.raises(Cancelled):
        copy_pack(pack, stage, cancel)
    assert not [path for path in copies_folder(stage).iterdir() if path.is_dir()]


def test_what_a_killed_job_left_is_removed(pack: Pack, stage: Path, caplog: pytest.LogCaptureFixture) -> None:
    copy = copy_of(pack, stage)
    draft = copy.with_name(f".{copy.name}-abcd1234")
    other = copy.with_name(".other-0123456789ab-abcd1234")
    for folder in (draft, other):
        (folder / "copy").mkdir(parents=True)
        (folder / "copy/train-00000.data").write_bytes(b"half of it")
    with locked(copy.with_name(".other-0123456789ab.lock"), wait=False):  # this one is being written
        assert staged(pack, stage) == copy
    assert not draft.exists()
    assert other.exists()
    assert f"removing {draft}, left by a job that was killed while it copied" in caplog.text


def test_a_copy_that_does_not_fit_is_left_out(
    pack: Pack, stage: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    usage = shutil.disk_usage(pack.folder)
    small = usage._replace(free=pack.num_bytes)  # all of it is more than should be taken
    monkeypatch.setattr(shutil, "disk_usage", lambda _: small)
    assert staged(pack, stage) == pack.folder
    assert f"{stage} has 0.000" in caplog.text
    assert "and the pack takes 0.000" in caplog.text
    assert f"training reads {pack.folder}" in caplog.text


@contextmanager
def largest_file(num_bytes: int) -> Iterator[None]:
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (num_bytes, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_disk_that_fills_meanwhile_is_left(
    pack: Pack, stage: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with largest_file(20_000):
        assert staged(pack, stage) == pack.folder
    assert f"{stage} File too large: training reads {pack.folder}" in caplog.text
    assert not [path for path in copies_folder(stage).iterdir() if path.is_dir()]


def test_a_folder_that_cannot_be_written_is_an_error(pack: Pack, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"data.stage: .*file.*: Not a directory; name a folder that can be"):
        staged(pack, tmp_path / "file")


def test_a_damaged_pack_is_an_error_and_no_copy(pack: Pack, stage: Path) -> None:
    with (pack.folder / "train-00002.data").open("r+b") as file:
        file.seek(700)
        file.write(b"????")
    with pytest.raises(UserError, match=r"train-00002.data: .* has another checksum than in the index"):
        staged(pack, stage)
    assert not copy_of(pack, stage).exists()


def touch(copy: Path) -> None:
    path = copy / "train-00001.data"
    path.write_bytes(bytes(path.stat().st_size))
    os.utime(path, ns=(0, 0))


@pytest.mark.parametrize("change", ["a file removed", "a file changed", "the state is broken"])
def test_a_stale_copy_is_made_anew(
    pack: Pack, stage: Path, caplog: pytest.LogCaptureFixture, change: str
) -> None:
    copy = staged(pack, stage)
    {
        "a file removed": lambda: (copy / "val-00000.data").unlink(),
        "a file changed": lambda: touch(copy),
        "the state is broken": lambda: (copy / staging.STATE).write_text("{"),
    }[change]()
    with held_copy(pack, stage) as folder:  # as a rank that finds it so after it was copied
        assert folder == pack.folder
        assert staged(pack, stage) == pack.folder  # not under the feet of a run that may read it
    assert f"{copy} is stale, and another run still reads it: training reads {pack.folder}" in caplog.text
    assert staged(pack, stage) == copy
    assert f"{copy} is stale: files in it were changed or removed: copying anew" in caplog.text
    assert content(copy) == content(pack.folder)
    check_pack(copy)


def test_a_copy_of_an_older_state_is_removed_when_nobody_reads_it(
    pack: Pack, stage: Path, pictures: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    other = open_pack(pack_of(pictures, tmp_path / "elsewhere" / pack.folder.name, 9))
    of_other = staged(other, stage)
    older = staged(pack, stage)
    shutil.rmtree(pack.folder)
    newer_pack = open_pack(pack_of(pictures, pack.folder, 20))
    pack_index.cache_clear()
    with held_copy(pack, stage) as folder:
        newer = staged(newer_pack, stage)
        assert folder == older
        assert older.exists()
    assert staged(newer_pack, stage) == newer != older
    assert older.exists()  # it is looked for when a copy is made
    (newer / "train.npy").unlink()
    assert staged(newer_pack, stage) == newer
    assert not older.exists()
    assert f"removed {older}, which was stale: {pack.folder} has changed since" in caplog.text
    assert of_other.exists()


def test_what_cannot_be_staged_is_refused(pictures: Path, make_run: MakeRun) -> None:
    with pytest.raises(
        UserError, match=r"data.stage: packs are copied there, and .* is none: make one by `shift"
    ):
        check_data(make_run(pictures, 3, stage="$TMPDIR"))
    for options in (
        {"name": "synthetic"},
        {"loader": "memory", "crop_area": (1, 1), "flip": False, "eval_resize": 28, "image_size": 28},
    ):
        with pytest.raises(
            ValueError, match=r"stage: packs are copied there, and .* reads none; leave it out"
        ):
            DataSpec(stage="/tmp", **options)


def test_where_the_images_are_is_no_part_of_the_run_id(pictures: Path, make_run: MakeRun) -> None:
    run = make_run(pictures, 3)
    moved = make_run(Path("/elsewhere"), 3, stage="/tmp")
    assert moved.run_id == run.run_id
    assert json.loads(moved.model_dump_json())["data"]["stage"] == "/tmp"
