"""Importing large packages at their own cost."""

import gc
import os
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def collecting_no_garbage() -> Iterator[None]:
    """Pause the garbage collector, and let it leave out from then on what exists at the end.

    It would examine all objects again and again, of which none is garbage: a tenth of the CPU time of a short
    run, and a fifth of that of importing torch and torchvision.
    """
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        if was_enabled:
            gc.enable()


@contextmanager
def keeping_library_path() -> Iterator[None]:
    """Restore LD_LIBRARY_PATH: OpenCV changes it, for this process and those that it starts."""
    path = os.environ.get("LD_LIBRARY_PATH")
    try:
        yield
    finally:
        os.environ.pop("LD_LIBRARY_PATH", None)
        if path is not None:
            os.environ["LD_LIBRARY_PATH"] = path
