"""A process without torch of its own for tests of how processes are started: `python -m … COMMAND OUT`."""

import json
import os
import random
import signal
import sys
import time
from pathlib import Path
from typing import Any

from suite.files import write_atomically


def state() -> dict[str, Any]:
    """What a fork must share with a fresh process."""
    torch = sys.modules.get("torch")
    paths = [path for path in Path("/proc/self/fd").iterdir() if path.exists()]  # less the listing's own
    descriptors = {path.name: str(path.readlink()) for path in paths}
    mask = os.umask(0)
    return {
        "argv": sys.argv[1:2],
        "environment": {name: value for name, value in os.environ.items() if name != "LC_CTYPE"},
        "cwd": str(Path.cwd()),
        "umask": mask,
        "descriptors": descriptors,
        "signals": {int(n): str(signal.getsignal(n)) for n in signal.valid_signals()},
        "blocked": sorted(map(int, signal.pthread_sigmask(signal.SIG_BLOCK, []))),
        "leads_its_session": os.getsid(0) == os.getpid(),
        "threads_of_torch": torch.get_num_threads() if torch else None,
        "threads": len(os.listdir("/proc/self/task")),  # noqa: PTH208
    }


def main() -> int:
    """Do what the first argument says. `OUT` appears when the process is ready, or has received SIGTERM."""
    command, out = sys.argv[1], Path(f"{sys.argv[2]}{os.environ.get('RANK', '')}")
    if command == "state":
        import torch  # noqa: F401

        out.write_text(json.dumps(state()))
    elif command == "random":
        import numpy as np

        print(f"{out.name}: {os.environ['RANK']} of {os.environ['WORLD_SIZE']}")
        out.write_text(f"{random.random()} {np.random.random()}")  # noqa: NPY002
    elif command.startswith("exit"):
        if os.environ.get("RANK", "1") == "1":
            return int(command.removeprefix("exit"))
        wait(out)
    elif command == "wait":
        wait(out)
    return 0


def wait(out: Path) -> None:
    """Wait for SIGTERM, and write that it came."""
    received = []
    signal.signal(signal.SIGTERM, lambda number, _: received.append(number))
    write_atomically(out, "ready")  # a test may look, or kill this process, at any time
    while not received:
        time.sleep(0.02)
    write_atomically(out, "asked to stop")


if __name__ == "__main__":
    sys.exit(main())
