"""Who the user is and where home is, also in containers without an entry in passwd, USER and HOME."""

import getpass
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from suite.errors import UserError

_VARIABLE = re.compile(r"\$(?:(\w+)|\{(\w+)\})", re.ASCII)


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


def expand_home(text: str, key: str) -> str:
    """Return a path with `~` replaced; `$NAME` stays. Raises UserError for a home that is not known here."""
    home, slash, rest = text.partition("/")
    return f"{expand_path(home, key)}{slash}{rest}" if home.startswith("~") else text


def expand_path(text: str, key: str) -> Path:
    """Return a path with `~`, `$NAME` and `${NAME}` replaced. Raises UserError for what is not known here."""
    if unset := [
        name for pair in _VARIABLE.findall(text) for name in pair if name and name not in os.environ
    ]:
        raise UserError(f"{key}: the environment variable {unset[0]} is not set, in {text!r:.120}")
    try:
        return Path(os.path.expandvars(text)).expanduser()
    except RuntimeError:
        remedy = "set HOME, or give the path without ~"
        raise UserError(f"{key}: that home is not known, in {text!r:.120}; {remedy}") from None
