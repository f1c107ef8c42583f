"""Draws figures in processes of their own, and says whether any can be drawn here.

V8, which draws them, reserves address space and needs much of it.
"""

import atexit
import base64
import hashlib
import importlib.metadata
import json
import os
import resource
import signal
import subprocess
import sys
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any

import altair as alt

from suite.errors import UserError
from suite.files import write_atomically
from suite.paths import cache_home

TIMEOUT_S = 60
# The Vega-Lite that this Altair writes, as vl-convert names it.
_VEGA_LITE = ".".join(alt.SCHEMA_VERSION.split(".")[:2])
# A process takes a second to start: fewer figures each are drawn sooner by fewer of them.
_FIGURES_EACH, _MAX_PROCESSES = 6, 4
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


def _drawer(what: str) -> subprocess.Popen[str]:
    command = [sys.executable, str(Path(__file__).with_name("drawer.py")), what, _VEGA_LITE]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    return subprocess.Popen(command, text=True, encoding="utf-8", **pipes)  # type: ignore[call-overload, no-any-return]


@cache
def start_bundling() -> subprocess.Popen[str] | None:
    """Begin to join Vega, Vega-Lite and Vega-Embed, which takes seconds, beside what this process does.

    Returns None where an earlier report has kept the result.
    """
    return None if _kept_bundle() else _drawer("bundle")


@cache
def vega_bundle() -> str:
    """Return Vega, Vega-Lite and Vega-Embed as one script that a page can contain."""
    if (process := start_bundling()) is None:
        return _kept_bundle()
    bundle, error = process.communicate()
    if process.returncode != 0:
        raise RuntimeError(f"the script that draws charts cannot be made: {error.strip()}")
    # A script element ends at the first "</script", wherever it is.
    bundle = bundle.replace("</script", "<\\/script")
    if (path := _place_of_bundle()) is not None:
        with suppress(OSError):
            path.parent.mkdir(parents=True, exist_ok=True)
            write_atomically(path, f"{_digest(bundle)}\n{bundle}", durable=False)
    return bundle


@cache
def _kept_bundle() -> str:
    """Return the script that an earlier report has kept; nothing if there is none, or it is damaged."""
    try:
        path = _place_of_bundle()
        digest, _, bundle = ("" if path is None else path.read_text()).partition("\n")
    except (OSError, UnicodeDecodeError):
        return ""
    return bundle if digest == _digest(bundle) else ""


def _place_of_bundle() -> Path | None:
    """Return the file of the script for these versions, in the user's cache folder; None without one."""
    with suppress(UserError):
        if (folder := cache_home()) is not None:
            version = f"{_VEGA_LITE}-{importlib.metadata.version('vl-convert-python')}"
            return folder / "shiftbench" / f"vega-{version}.js"
    return None


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


# Processes that have drawn and wait for more: a report that is written again and again draws at once.
_idle: list[subprocess.Popen[str]] = []


def _idle_or_new() -> subprocess.Popen[str]:
    with suppress(IndexError):
        while (process := _idle.pop()).poll() is not None:
            process.communicate()
        return process
    return _drawer("figures")


def _end(process: subprocess.Popen[str]) -> None:
    process.kill()
    process.communicate()


@atexit.register
def _end_idle() -> None:
    while _idle:
        _end(_idle.pop())


os.register_at_fork(after_in_child=_idle.clear)  # they draw for the parent


def draw(specs: Sequence[dict[str, Any]], on_each: Callable[[], None]) -> list[tuple[str, bytes]]:
    """Draw these specifications, in their order: the text of an SVG file and the content of a PDF file each.

    `on_each` is called from any thread whenever one is done.
    """
    count = min(len(os.sched_getaffinity(0)), _MAX_PROCESSES, -(-len(specs) // _FIGURES_EACH))
    found: dict[int, tuple[str, bytes]] = {}

    def work(first: int) -> None:
        process = _idle_or_new()
        try:
            assert process.stdin is not None
            assert process.stdout is not None
            assert process.stderr is not None
            for place in range(first, len(specs), count):
                process.stdin.write(json.dumps(specs[place]) + "\n")
                process.stdin.flush()
                if not (line := process.stdout.readline()):
                    raise RuntimeError(f"a figure cannot be drawn: {process.stderr.read().strip()}")
                drawn = json.loads(line)
                found[place] = drawn["svg"], base64.b64decode(drawn["pdf"])
                on_each()
        except BaseException:
            _end(process)
            raise
        _idle.append(process)

    if specs:
        with ThreadPoolExecutor(count) as pool:
            list(pool.map(work, range(count)))
    return [found[place] for place in range(len(specs))]
