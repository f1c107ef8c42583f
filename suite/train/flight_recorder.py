"""torch's flight recorder: the newest collectives of this rank, which a dump tells when ranks wait in vain.

NCCL's is dumped by torch when a collective times out, gloo's by `HangWatch`. What the user has set in torch's
variables stays.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch

# torch's names, the newer one first: it warns where the older one is set.
BUFFER = ("TORCH_FR_BUFFER_SIZE", "TORCH_NCCL_TRACE_BUFFER_SIZE")
PLACE = ("TORCH_FR_DUMP_TEMP_FILE", "TORCH_NCCL_DEBUG_INFO_TEMP_FILE")
NUM_COLLECTIVES = 256
"""Of many steps; a dump takes 30 kB, and those of 500 ranks are read in seconds. torch's default is 2,000."""


def record_collectives() -> None:
    """Turn the recorder on. Call it before the process group is made."""
    if not any(name in os.environ for name in BUFFER):
        os.environ[BUFFER[0]] = str(NUM_COLLECTIVES)


@contextmanager
def dumped_to(prefix: Path) -> Iterator[None]:
    """Let torch write its dumps to `prefix` and the rank, unless the user has named a place.

    torch reads the variable when it writes. After an error it stays, as the process may end with a dump.
    """
    is_users = any(name in os.environ for name in PLACE)
    if not is_users:
        os.environ[PLACE[0]] = str(prefix)
    yield
    if not is_users:
        del os.environ[PLACE[0]]


def gloo_dump() -> bytes | None:
    """Return the collectives that this rank has entered over gloo, as torch pickles them.

    None where the recorder is off, and for a torch that does not record them.
    """
    dump = getattr(torch._C._distributed_c10d, "_dump_fr_trace", None)
    if dump is None or any(os.environ.get(name) == "0" for name in BUFFER):
        return None
    found: bytes = dump(includeCollectives=True, includeStackTraces=False, onlyActive=False)
    return found
