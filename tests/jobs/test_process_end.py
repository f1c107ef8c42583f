"""The end of a process: its exit code, what is waited for, and output that is lost."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.helpers.small_experiment import ROOT

CASES = {
    "returns nothing": ("None", 0, ""),
    "returns a code": ("75", 75, ""),
    "exits": ("sys.exit()", 0, ""),
    "exits with a code": ("sys.exit(3)", 3, ""),
    "exits with a negative code": ("sys.exit(-1)", 255, ""),
    "exits with a sentence": ("sys.exit('it is full')", 1, "it is full\n"),
    "exits with something else": ("sys.exit(('it', 1))", 1, "('it', 1)\n"),
    "is interrupted": ("signal.raise_signal(signal.SIGINT)", -2, "KeyboardInterrupt\n"),
    "raises": ("1 / 0", 1, "ZeroDivisionError: division by zero\n"),
}


def end_of(program: str, **options: object) -> "subprocess.CompletedProcess[str]":
    """Run a program whose task is `task`, with `exit_with`."""
    whole = f"import signal, sys\nfrom jobs.local.process_end import exit_with\n{program}\nexit_with(task)"
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    environment.pop("PYTHONUNBUFFERED", None)  # so that output is still buffered at the end
    command = [sys.executable, "-c", whole]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True, "timeout": 60}
    return subprocess.run(command, env=environment, **{**pipes, **options})  # type: ignore[call-overload,no-any-return]


@pytest.mark.parametrize("case", CASES)
def test_codes_are_pythons(case: str) -> None:
    expression, code, said = CASES[case]
    ended = end_of(f"def task(): return {expression}")
    plain = subprocess.run(
        [sys.executable, "-c", f"import signal, sys\n{expression}"], capture_output=True, text=True
    )
    assert ended.returncode == code
    assert ended.stderr.endswith(said)
    if case != "returns a code":
        assert plain.returncode == code


def test_threads_exit_functions_and_output_are_waited_for() -> None:
    program = """
import atexit, tempfile, threading, time
folder = tempfile.TemporaryDirectory()
def late():
    time.sleep(0.3)
    print("the thread")
def task():
    atexit.register(lambda: print("the exit function"))
    threading.Thread(target=late).start()
    sys.stdout.write("the task\\n")
    sys.stdout.write(folder.name + "\\n")
"""
    ended = end_of(program)
    first, folder, *others = ended.stdout.splitlines()
    assert (ended.returncode, ended.stderr) == (0, "")
    assert [first, *others] == ["the task", "the thread", "the exit function"]
    assert not Path(folder).exists()


def test_what_a_c_library_has_printed_is_written() -> None:
    ended = end_of("import ctypes\ndef task(): ctypes.CDLL(None).printf(b'of C\\n')")
    assert ended.stdout == "of C\n"


def test_modules_are_not_torn_down() -> None:
    program = """
class Torn:
    def __del__(self):
        print("torn down")
torn = Torn()
def task(): return None
"""
    assert end_of(program).stdout == ""


def test_a_signal_while_a_thread_is_waited_for_ends_the_process() -> None:
    program = """
import os, threading, time
signal.signal(signal.SIGUSR1, lambda *_: sys.exit(7))
def later():
    time.sleep(0.3)
    os.kill(os.getpid(), signal.SIGUSR1)
    time.sleep(60)
def task():
    threading.Thread(target=later).start()
"""
    ended = end_of(program)
    assert (ended.returncode, ended.stderr) == (7, "")


def test_a_task_starts_light() -> None:
    """Until Submitit handles signals, a warning would end it."""
    program = "import jobs.cluster.start_task\ndef task(): print(*sys.modules)"
    loaded = end_of(program).stdout.split()
    assert "jobs.cluster.start_task" in loaded
    assert not {"pydantic", "numpy", "suite.record", "torch"} & set(loaded)


def test_output_that_is_lost_is_a_failure() -> None:
    program = "def task(): sys.stdout.write('some of it')"
    with open("/dev/full", "w") as full:  # noqa: PTH123 - a device
        ended = end_of(program, stdout=full)
    assert ended.returncode == 1
    assert ended.stderr == "error: <stdout>: No space left on device\n"


def test_a_reader_that_has_left_is_not_told() -> None:
    reading, writing = os.pipe()
    os.close(reading)
    try:
        ended = end_of("def task(): sys.stdout.write('some of it')", stdout=writing)
    finally:
        os.close(writing)
    assert (ended.returncode, ended.stderr) == (1, "")


def test_a_process_without_output_ends_well() -> None:
    ended = end_of("sys.stdout.close()\nsys.stderr = None\ndef task(): sys.exit('to nobody')")
    assert (ended.returncode, ended.stdout) == (1, "")
    ended = end_of("sys.stdout.detach()\nsys.stderr.close()\ndef task(): return None")
    assert ended.returncode == 0
