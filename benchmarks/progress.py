"""Says how far a benchmark is and how long it will still take, on stderr."""

import sys
import time
from collections.abc import Callable

OnProgress = Callable[[int, int], None]


def progress_of(name: str, *, number: int = 1, of: int = 1) -> OnProgress:
    """Return a function of (rounds done, rounds) that says so, of the measurement `number` of several."""
    began_s = time.monotonic()
    on_terminal = sys.stderr.isatty()
    which = f"{number} of {of}, " if of > 1 else ""

    def tell(done: int, rounds: int) -> None:
        text = f"{which}{name}: {done} of {rounds} rounds"
        if 0 < done < rounds:
            left_s = (time.monotonic() - began_s) * (rounds - done) / done
            text += f", about {left_s:.0f} s left"
        sys.stderr.write(f"\r{text}\x1b[K" if on_terminal else f"{text}\n")
        if on_terminal and done == rounds:
            sys.stderr.write("\r\x1b[K")
        sys.stderr.flush()

    return tell
