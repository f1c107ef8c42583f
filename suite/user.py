"""Who the user is and where home is, also in containers without an entry in passwd, USER and HOME."""

import getpass
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from suite.errors import UserError


def user_name() -> str:
    """Return the user's name, or `uid-1234` where the system knows none."""
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # Python 3.13 raises OSError
        return f"uid-{os.getuid()}"


def home_or_none() -> Path | None:
    """Return the home folder, or None where the system knows none."""
    try:
        home = Path.home()
    except RuntimeError:
        return None
    return home if home.is_absolute() else None  # HOME is set to nothing


@contextmanager
def some_home() -> Iterator[None]:
    """Set HOME, where the system knows none, for the import of a library that cannot do without."""
    if home_or_none() is not None:
        yield
        return
    former, os.environ["HOME"] = os.environ.get("HOME"), "/"
    try:
        yield
    finally:
        if former is None:
            del os.environ["HOME"]
        else:
            os.environ["HOME"] = former


def expanded(path: Path | str) -> Path:
    """Return a path with a leading ~ or ~NAME replaced. Raises UserError where that home is not known."""
    try:
        return Path(path).expanduser()
    except RuntimeError:
        raise UserError(f"{path}: that home is not known: set HOME, or give the path without ~") from None
