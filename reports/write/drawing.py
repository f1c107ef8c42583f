"""Draws figures in processes of their own, and says whether any can be drawn here.

V8, which draws them, reserves address space and needs much of it.
"""

import base64
import json
import os
import resource
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path
from typing import Any

import altair as alt

TIMEOUT_S = 60
# The Vega-Lite that this Altair writes, as vl-convert names it.
_VEGA_LITE = ".".join(alt.SCHEMA_VERSION.split(".")[:2])
# A process takes a second to start: fewer figures each are drawn sooner by fewer of them.
_FIGURES_EACH, _MAX_PROCESSES = 6, 4
# Of one process: V8's memory grows with each, and its warnings fill a pipe that nobody reads.
_MOST_FIGURES = 200
_SMALLEST = '{"mark": "point", "data": {"values": [{"a": 1}]}, "encoding": {"x": {"field": "a"}}}'


@cache
def obstacle_to_drawing() -> str | None:
    """Return a sentence about the limit on address space if V8 cannot start below it, or None.

    A fork of this process tries it: it has as much address space in use.
    """
    limit_bytes, _ = resource.getrlimit(resource.RLIMIT_AS)
    if limit_bytes == resource.RLIM_INFINITY:
        return None
    try:
        child = os.fork()
    except OSError:
        return _sentence(limit_bytes)
    if child == 0:
        _draw_and_exit()
    _, status = os.waitpid(child, 0)
    return None if status == 0 else _sentence(limit_bytes)


def _sentence(limit_bytes: int) -> str:
    return (
        f"Charts are left out: the program that draws them cannot start below this shell's limit on address "
        f"space of {limit_bytes / 2**30:.1f} GiB. Raise it (ulimit -v unlimited), or write the report on a "
        "compute node; tables and data are complete."
    )


def _draw_and_exit() -> None:
    """Draw one point in this process, silently, and end it at once."""
    code = 1
    try:
        signal.alarm(TIMEOUT_S)
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, 1)
        os.dup2(null, 2)
        import vl_convert

        vl_convert.svg_to_pdf(vl_convert.vegalite_to_svg(_SMALLEST))
        code = 0
    finally:
        os._exit(code)


def _start_drawer(what: str) -> subprocess.Popen[str]:
    command = [sys.executable, str(Path(__file__).with_name("drawer.py")), what, _VEGA_LITE]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    return subprocess.Popen(command, text=True, encoding="utf-8", **pipes)  # type: ignore[call-overload, no-any-return]


@cache
def start_bundling() -> subprocess.Popen[str]:
    """Begin to join Vega, Vega-Lite and Vega-Embed, which takes seconds, beside what this process does."""
    return _start_drawer("bundle")


@cache
def vega_bundle() -> str:
    """Return Vega, Vega-Lite and Vega-Embed as one script that a page can contain. Raises RuntimeError."""
    process = start_bundling()
    bundle, error = process.communicate()
    if process.returncode != 0:
        raise RuntimeError(f"the script that draws charts cannot be made: {error.strip()}")
    # A script element ends at the first "</script", wherever it is.
    return bundle.replace("</script", "<\\/script")


class _Drawer:
    """A process that draws one figure after another."""

    def __init__(self) -> None:
        self._process = _start_drawer("figures")
        self.num_drawn = 0

    def draw(self, spec: dict[str, Any]) -> tuple[str, bytes]:
        """Return the text of an SVG file and the content of a PDF file. Raises RuntimeError or OSError."""
        process = self._process
        assert process.stdin is not None
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdin.write(json.dumps(spec) + "\n")
        process.stdin.flush()
        if not (line := process.stdout.readline()):
            raise RuntimeError(f"a figure cannot be drawn: {process.stderr.read().strip()}")
        self.num_drawn += 1
        drawn = json.loads(line)
        return drawn["svg"], base64.b64decode(drawn["pdf"])

    def has_ended(self) -> bool:
        """Return whether the process has ended, which a terminal's Ctrl-C may have done."""
        return self._process.poll() is not None

    def end(self) -> None:
        """End the process, and wait for it."""
        self._process.kill()
        self._process.communicate()


_kept: list[_Drawer] | None = None  # the drawers that wait for further figures; None: they are not kept


def _forget_parents_drawers() -> None:
    global _kept
    _kept = None


os.register_at_fork(after_in_child=_forget_parents_drawers)


@contextmanager
def keeping_drawers() -> Iterator[None]:
    """Keep the processes that draw until the end of the block: a report that is written again needs them."""
    global _kept
    former, _kept = _kept, []
    try:
        yield
    finally:
        ended, _kept = _kept, former
        for drawer in ended:
            drawer.end()


@contextmanager
def _one_drawer() -> Iterator[_Drawer]:
    """Yield a process that was kept, or a new one; keep it afterwards, or end it, as after an error."""
    drawer = None
    while _kept and drawer is None:
        with suppress(IndexError):  # another thread may have taken the last one
            drawer = _kept.pop()
        if drawer is not None and drawer.has_ended():
            drawer.end()
            drawer = None
    drawer = drawer or _Drawer()
    try:
        yield drawer
    except BaseException:
        drawer.end()
        raise
    if _kept is None or drawer.num_drawn >= _MOST_FIGURES:
        drawer.end()
    else:
        _kept.append(drawer)


def draw(specs: Sequence[dict[str, Any]], on_each: Callable[[], None]) -> list[tuple[str, bytes]]:
    """Draw these specifications, in their order: the text of an SVG file and the content of a PDF file each.

    `on_each` is called from any thread whenever one is done. Raises RuntimeError when one cannot be drawn.
    """
    count = min(len(os.sched_getaffinity(0)), _MAX_PROCESSES, -(-len(specs) // _FIGURES_EACH))
    found: dict[int, tuple[str, bytes]] = {}

    def work(first: int) -> None:
        with _one_drawer() as drawer:
            for place in range(first, len(specs), count):
                found[place] = drawer.draw(specs[place])
                on_each()

    if specs:
        with ThreadPoolExecutor(count) as pool:
            list(pool.map(work, range(count)))
    return [found[place] for place in range(len(specs))]
