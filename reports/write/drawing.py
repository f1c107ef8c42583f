"""Whether charts can be drawn here: V8, which draws them, reserves address space and needs much of it."""

import os
import resource
import signal
from functools import cache

TIMEOUT_S = 60
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
