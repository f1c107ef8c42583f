"""xdist's workers as forks of a process that has imported what tests import.

xdist starts a worker as `PYTHON -u -c BOOTSTRAP`, and talks to it through its stdin and stdout. Here PYTHON
is this file: it has the session's server fork the worker, which takes this process's stdin and stdout.
"""

import gc
import json
import os
import shlex
import signal
import sys
import tempfile
from pathlib import Path

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
from jobs.local.fork_client import ForkedProcess
from jobs.local.fork_server import preload as preload_training
from jobs.local.process import ProcessSpec
from tests.helpers.shared_server import PATHS_VARIABLE, WORKERS_VARIABLE

OF_TESTS = ("tests", "website")  # whose modules each worker imports itself
COMMAND = shlex.join([sys.executable, __file__])


def preload() -> None:
    """Import what the tests import, for the session's server. Each worker imports the tests themselves."""
    import pytest

    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    # Tests ask for a GPU while they are imported, which otherwise initialises CUDA; that survives no fork.
    os.environ["PYTORCH_NVML_BASED_CUDA_CHECK"] = "1"
    pytest.main(["--collect-only", "-qq", "-n0", *json.loads(os.environ.pop(PATHS_VARIABLE))])
    sys.stdout.flush()
    if "torch" in sys.modules:
        preload_training()
    for name in [name for name in sys.modules if name.partition(".")[0] in OF_TESTS]:
        del sys.modules[name]
    gc.unfreeze()
    gc.collect()
    gc.freeze()


def main() -> int:
    """In the fork: be the worker of the process that the first argument names."""
    client, bootstrap = sys.argv[1:]
    for number, mode in ((0, os.O_RDONLY), (1, os.O_WRONLY)):
        pipe = os.open(f"/proc/{client}/fd/{number}", mode)
        os.dup2(pipe, number)
        os.close(pipe)
    sys.stdin = open(0, closefd=False)  # noqa: SIM115
    sys.argv = ["-c"]
    exec(bootstrap, {"__name__": "__main__"})
    return 0


def stand_for_worker() -> int:
    """Have a worker forked, pass interrupts on to it, and wait for its end. Without a fork, be the worker."""
    with tempfile.TemporaryDirectory() as folder:
        log = Path(folder, "log")
        arguments = (str(os.getpid()), sys.argv[-1])
        spec = ProcessSpec("tests.helpers.forked_worker", arguments, os.environ, log)
        try:
            worker = ForkedProcess(Path(os.environ[WORKERS_VARIABLE]), spec)
        except OSError as error:
            print(f"this worker imports everything itself, as it was not forked: {error}", file=sys.stderr)
        else:
            signal.signal(signal.SIGINT, lambda number, _: worker.send_signal(number))
            code = worker.wait()
            sys.stderr.write(log.read_text(errors="replace"))
            return code
    return os.execv(sys.executable, [sys.executable, *sys.argv[1:]])


if __name__ == "__main__":
    sys.exit(stand_for_worker())
