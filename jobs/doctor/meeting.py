"""Where the login machine and the nodes meet: a folder in the output folder, and a lock held in it."""

import fcntl
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from jobs.cluster.ledger import FOLDER
from suite.errors import UserError

PATIENCE_S = 5.0  # for a network file system to show a new file


@dataclass(frozen=True)
class Meeting:
    """The folder, and the token that every file of it holds."""

    folder: Path
    token: str
    lock_error: str = ""

    def is_seen_from(self, node: str) -> bool:
        """Whether the file that `node` wrote is here."""
        deadline = time.monotonic() + PATIENCE_S
        while True:
            try:
                if (self.folder / node).read_text() == f"{self.token} {node}":
                    return True
            except OSError:
                pass
            if time.monotonic() > deadline:
                return False
            time.sleep(0.2)


@contextmanager
def meeting(output_dir: Path, token: str) -> Iterator[Meeting]:
    """Prepared for the nodes and removed afterwards. Raises UserError when nothing can be written there."""
    folder = output_dir.absolute() / FOLDER / f"doctor-{token}"
    try:
        folder.mkdir(parents=True)
        (folder / "from-login").write_text(token)
        lock = (folder / "lock").open("a")
    except OSError as error:
        raise UserError(f"{output_dir}: cannot be written: {error.strerror}") from None
    try:
        with lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX)
                refusal = ""
            except OSError as error:
                refusal = error.strerror or str(error)
            yield Meeting(folder, token, refusal)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
