"""Words for a job's shell, of which `~` and `$NAME` stay for it to replace, and nothing else."""

import re
import shlex
import sys

_VARIABLE = re.compile(r"(\$\w+|\$\{\w+\})", re.ASCII)


def words_of(python: str) -> list[str]:
    """Split `python:` into words as a shell does. Raises ValueError for quotes that do not match.

    A path with blanks is one word: it begins like a path, and its last word continues one.
    """
    last = python.split()[-1:] or [""]
    continues = "/" in last[0] and not last[0].startswith(("/", "~", "$", "-"))
    if python.startswith(("/", "~", "$")) and continues and not set(python) & set("'\"\\"):
        return [python]
    return shlex.split(python)


def shell_words(python: str | None) -> str:
    """Return an interpreter, and its wrapper, for a shell, which replaces `~` and `$NAME`."""
    return " ".join(map(shell_word, [sys.executable] if python is None else words_of(python)))


def shell_word(word: str) -> str:
    """Return one word for a shell, which replaces `~` at its beginning and `$NAME`."""
    home = re.match(r"~[\w.-]*(?:/|$)", word)
    start = home[0] if home else ""
    parts = _VARIABLE.split(word.removeprefix(start))
    # `:?` ends the job where the variable is empty, and says so; another Python would train otherwise.
    quoted = [
        f'"${{{part.strip("${}")}:?}}"' if n % 2 else shlex.quote(part)
        for n, part in enumerate(parts)
        if part
    ]
    return start + "".join(quoted)
