"""File mechanics: what is published is whole, also after a kill; a lock ends with its process."""

import errno
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from suite.files import (
    NoLocks,
    append_line,
    draft_of,
    is_locked,
    locked,
    publish_folder,
    read_json,
    read_lines,
    write_atomically,
)

ROOT = Path(__file__).parent.parent
SETUP = """
import os, signal, sys, time
from pathlib import Path
from suite.files import *
path = Path(sys.argv[1])
def die(*_):
    os.kill(os.getpid(), signal.SIGKILL)
"""


def killed(code: str, path: Path) -> None:
    """Run `code`, which kills its own process, in a fresh one."""
    command = [sys.executable, "-c", SETUP + code, str(path)]
    assert subprocess.run(command, cwd=ROOT).returncode == -signal.SIGKILL


@contextmanager
def holder(path: Path) -> Iterator[subprocess.Popen[str]]:
    """Another process that holds the lock of `path`."""
    code = 'lock = locked(path, wait=True)\nprint("held", flush=True)\ntime.sleep(60)'
    command = [sys.executable, "-c", SETUP + code, str(path)]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == "held\n"
            yield process
        finally:
            process.kill()


# ------------------------------------------------------------ files


def test_an_atomic_write_leaves_the_old_file_when_it_fails(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "status.json"
    write_atomically(path, "old")
    monkeypatch.setattr(os, "fsync", lambda _: (_ for _ in ()).throw(OSError(28, "No space left on device")))
    with pytest.raises(OSError, match="No space"):
        write_atomically(path, "new")
    assert path.read_text() == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["status.json"]


@pytest.mark.parametrize("call", ["os.fsync", "Path.replace"])
def test_a_kill_in_an_atomic_write_leaves_the_old_file(tmp_path: Path, call: str) -> None:
    path = tmp_path / "status.json"
    write_atomically(path, "old")
    killed(f"{call} = die\nwrite_atomically(path, 'new')", path)
    assert path.read_text() == "old"
    assert [p.name for p in tmp_path.iterdir() if not p.name.startswith(".")] == ["status.json"]
    write_atomically(path, "new")
    assert path.read_text() == "new"


def test_an_appended_line_survives_a_kill_and_half_a_line_is_counted(tmp_path: Path) -> None:
    path = tmp_path / "lines.jsonl"
    killed("append_line(path, '{\"n\": 1}')\ndie()", path)
    append_line(path, json.dumps({"n": 2}))
    assert read_lines(path, ("n",)) == ([{"n": 1}, {"n": 2}], 0)
    path.write_bytes(path.read_bytes() + b'{"n')
    assert read_lines(path, ("n",)) == ([{"n": 1}, {"n": 2}], 1)


def test_a_disk_that_takes_half_a_line_is_full(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Half:
        def __enter__(self) -> "Half":
            return self

        def __exit__(self, *_: object) -> None: ...

        def write(self, data: bytes) -> int:
            return len(data) // 2

    monkeypatch.setattr(Path, "open", lambda *_, **__: Half())
    with pytest.raises(OSError, match="No space left") as raised:
        append_line(tmp_path / "lines.jsonl", "{}")
    assert raised.value.errno == errno.ENOSPC


def test_what_is_missing_or_not_json_is_none(tmp_path: Path) -> None:
    assert read_json(tmp_path / "absent") is None
    (tmp_path / "broken").write_text('{"a": ')
    assert read_json(tmp_path / "broken") is None
    assert read_lines(tmp_path / "absent", ()) == ([], 0)


# ------------------------------------------------------------ folders


def test_a_folder_is_published_whole_and_the_first_one_stays(tmp_path: Path) -> None:
    folder = tmp_path / "data"
    for content, is_first in (("one", True), ("two", False)):
        with draft_of(folder) as draft:
            (draft / "file").write_text(content)
            assert [p.name for p in tmp_path.glob("[!.]*")] == ([] if is_first else ["data"])
            assert publish_folder(draft, folder) is is_first
    assert (folder / "file").read_text() == "one"
    assert [p.name for p in tmp_path.iterdir()] == ["data"]


def test_a_kill_before_publishing_shows_no_draft_and_keeps_the_old_folder(tmp_path: Path) -> None:
    folder = tmp_path / "data"
    code = """
Path.rename = die
with draft_of(path) as draft:
    (draft / "file").write_text("new")
    publish_folder(draft, path)
"""
    killed(code, folder)
    assert not list(tmp_path.glob("[!.]*"))
    folder.mkdir()
    (folder / "file").write_text("old")
    killed(code, folder)
    assert (folder / "file").read_text() == "old"
    assert [p.name for p in tmp_path.glob("[!.]*")] == ["data"]


def test_a_folder_that_cannot_be_published_says_why(tmp_path: Path) -> None:
    (tmp_path / "data").write_text("a file")
    with draft_of(tmp_path / "data") as draft, pytest.raises(NotADirectoryError):
        publish_folder(draft, tmp_path / "data")
    assert [p.name for p in tmp_path.iterdir()] == ["data"]


# ------------------------------------------------------------ locks


def test_a_lock_is_held_by_one_and_ends_with_its_process(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    assert is_locked(path) is False
    with holder(path) as other:
        assert is_locked(path) is True
        with pytest.raises(BlockingIOError):
            locked(path, wait=False)
        other.kill()
        other.wait()
    with locked(path, wait=False):
        assert is_locked(path) is True
    assert is_locked(path) is False


def test_a_process_that_waits_gets_the_lock_when_it_is_free(tmp_path: Path) -> None:
    path, got = tmp_path / "lock", threading.Event()

    def wait() -> None:
        with locked(path, wait=True):
            got.set()

    with locked(path, wait=False):
        waiting = threading.Thread(target=wait)
        waiting.start()
        assert not got.wait(0.1)
    assert got.wait(10)
    waiting.join()


@pytest.mark.parametrize("wait", [True, False])
def test_a_missing_lock_service_and_an_unwritable_file_raise_different_errors(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, wait: bool
) -> None:
    with pytest.raises(FileNotFoundError):
        locked(tmp_path / "absent" / "lock", wait=wait)

    def no_locks(*_: Any) -> None:
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr("fcntl.flock", no_locks)
    with pytest.raises(NoLocks, match="No locks available") as raised:
        locked(tmp_path / "lock", wait=wait)
    assert raised.value.strerror == "No locks available"
    assert is_locked(tmp_path / "lock") is None


def test_a_fork_does_not_hold_the_lock_of_its_parent(tmp_path: Path) -> None:
    """Such as a loader's worker, which may outlive a training process by a moment."""
    path, (started, start) = tmp_path / "lock", os.pipe()
    with locked(path, wait=False):
        pid = os.fork()
        if pid == 0:
            os.write(start, b"!")
            time.sleep(60)
            os._exit(0)
        os.read(started, 1)
        assert is_locked(path) is True
    assert is_locked(path) is False
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
