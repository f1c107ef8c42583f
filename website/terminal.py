"""Records what `run`, `status` and `tune` show on a terminal of 80 columns, and writes docs/terminal.md.

`make terminal` calls it. The commands run in a pseudo-terminal, and what they write is put on a screen as a
terminal would, so that the page shows what a reader would see.
"""

import codecs
import fcntl
import os
import pty
import re
import select
import shlex
import struct
import subprocess
import tempfile
import termios
import textwrap
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from suite import __version__
from suite.errors import UserError
from suite.provenance import cpu_name

PAGE = Path(__file__).parents[1] / "docs" / "terminal.md"
COLUMNS, ROWS = 80, 30
# What a terminal is asked to do: a letter with its numbers, a title or link, or one of the single characters.
_CONTROL = re.compile(
    r"\x1b\[([\d;?]*)([A-Za-z])|\x1b\][^\x07\x1b]*(?:\x07|\x1b\\)|[\r\n\x07]|[^\x1b\r\n\x07]+"
)


class Screen:
    """The lines that a terminal shows and has shown, by the control sequences that rich uses.

    Raises UserError for any other sequence, so that no recording is wrong unnoticed.
    """

    def __init__(self, columns: int) -> None:
        self.columns, self.lines, self._row, self._column = columns, [""], 0, 0

    @property
    def text(self) -> str:
        return "\n".join(line.rstrip() for line in self.lines).rstrip()

    def write(self, text: str) -> None:
        """Put on the screen what a program writes."""
        for found in _CONTROL.finditer(text):
            whole, numbers, letter = found[0], found[1], found[2]
            if letter:
                self._obey(numbers, letter)
            elif whole == "\r":
                self._column = 0
            elif whole == "\n":
                self._next_line()
            elif not whole.startswith(("\x1b", "\x07")):
                for character in whole:
                    self._put(character)

    def _obey(self, numbers: str, letter: str) -> None:
        if letter == "A":
            self._row = max(0, self._row - int(numbers or 1))
        elif letter == "K" and numbers == "2":
            self.lines[self._row] = ""
        elif letter != "m" and (numbers, letter) not in (("?25", "l"), ("?25", "h")):
            raise UserError(f"terminal: no screen here for the control sequence ESC [ {numbers}{letter}")

    def _next_line(self) -> None:
        self._row, self._column = self._row + 1, 0
        if self._row == len(self.lines):
            self.lines.append("")

    def _put(self, character: str) -> None:
        if self._column == self.columns:
            self._next_line()
        line = self.lines[self._row].ljust(self._column)
        self.lines[self._row] = line[: self._column] + character + line[self._column + 1 :]
        self._column += 1


@dataclass(frozen=True)
class Recording:
    """What a command showed: at some seconds, and at its end. `longest_still_s`: without any change."""

    command: str
    moments: list[tuple[float, str]]
    last: str
    took_s: float
    longest_still_s: float


def record(words: Sequence[str], folder: Path, at_s: Sequence[float] = ()) -> Recording:
    """Call a command in a folder, on a terminal. `at_s`: the seconds at which its screen is kept, too.

    Raises UserError if it fails.
    """
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", ROWS, COLUMNS, 0, 0))
    kept = {name: value for name, value in os.environ.items() if name not in ("COLUMNS", "LINES", "NO_COLOR")}
    environment = {**kept, "TERM": "xterm-256color", "HOME": str(folder)}
    process = subprocess.Popen(
        words, cwd=folder, env=environment, stdin=theirs, stdout=theirs, stderr=theirs, start_new_session=True
    )
    os.close(theirs)
    screen, waiting, moments = Screen(COLUMNS), sorted(at_s), list[tuple[float, str]]()
    began = changed = time.monotonic()
    still_s, shown = 0.0, ""
    for text in _pieces(ours):
        now = time.monotonic()
        screen.write(text.replace(str(folder), "~"))
        if (current := screen.text) != shown:
            still_s, changed, shown = max(still_s, now - changed), now, current
        if waiting and now - began >= waiting[0]:
            waiting.pop(0)
            moments.append((now - began, shown))
    if process.wait() != 0:
        raise UserError(f"terminal: {shlex.join(words)} ended with {process.returncode}:\n{shown}")
    took_s = time.monotonic() - began
    return Recording(shlex.join(words), moments, shown, took_s, max(still_s, time.monotonic() - changed))


def _pieces(descriptor: int) -> Iterator[str]:
    """Yield what is written to a terminal, as it comes; now and then nothing, so that time is looked at."""
    decoder = codecs.getincrementaldecoder("utf-8")()
    with open(descriptor, "rb", buffering=0) as terminal:
        while True:
            ready, _, _ = select.select([terminal], [], [], 0.1)
            try:
                data = terminal.read(65536) if ready else b""
            except OSError:  # all have closed the other end
                return
            if ready and not data:
                return
            text = decoder.decode(data)
            # A sequence may be cut where a write ended.
            while text.endswith("\x1b") or re.search(r"\x1b(?:\[[\d;?]*|\][^\x07\x1b]*)$", text):
                text += decoder.decode(terminal.read(1))
            yield text


def recordings(folder: Path) -> Iterator[tuple[str, Recording]]:
    """Yield headings and recordings: of a run, of the status during it and after it, and of a study."""
    during: list[Recording] = []
    watcher = threading.Timer(25.0, lambda: during.append(record(["shiftbench", "status"], folder)))
    watcher.start()
    yield (
        "An experiment",
        record(
            ["shiftbench", "run", "demo", "seeds=[5001,5002]", "--jobs", "2"], folder, at_s=(4.0, 20.0, 30.0)
        ),
    )
    watcher.join()
    yield "Its runs, meanwhile", during[0]
    yield "Its runs, at the end", record(["shiftbench", "status"], folder)
    study = ["shiftbench", "tune", "small-batch-demo", "seeds=[5001,5002]", "--jobs", "2"]
    yield "A study", record(study, folder, at_s=(5.0, 20.0, 40.0))


def page(found: Sequence[tuple[str, Recording]]) -> str:
    """Return the page as Markdown."""
    still_s = max(one.longest_still_s for _, one in found)
    head = (
        f"Recorded by `make terminal` in a terminal of {COLUMNS} columns, with shiftbench {__version__} on "
        f"{os.cpu_count()} cores ({cpu_name()}) that other programs used, too. Colours are left out. "
        f"Nothing stood still for longer than {still_s:.1f} s."
    )
    parts = [
        "# What the terminal shows",
        textwrap.fill(head, 124),
    ]
    for heading, one in found:
        parts += [f"## {heading}", f"```console\n$ {one.command}\n```"]
        for seconds, text in one.moments:
            parts += [f"After {seconds:.0f} s:", _block(text)]
        parts += [f"After {one.took_s:.0f} s it has ended:" if one.moments else "", _block(one.last)]
    return "\n\n".join(part for part in parts if part) + "\n"


def _block(text: str) -> str:
    return f"```text\n{text}\n```"


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as made:
        PAGE.write_text(page(list(recordings(Path(made)))))
