"""Imported by every Python of a test's jobs: makes steps slow, a rank fail, or a clock wrong, on demand.

SHIFTBENCH_TEST_PACE    a file with the seconds that each step sleeps, during which it uses no core
SHIFTBENCH_TEST_FAIL    `rank:step`, where that rank raises an error
SHIFTBENCH_TEST_CLOCK   a file with the seconds that the clock is ahead of this machine's
"""

import importlib.abc
import importlib.util
import os
import sys
import time


class _AfterLoop(importlib.abc.MetaPathFinder):
    """Patches the training loop when it is imported, so that torch is not imported earlier."""

    def find_spec(self, name, path=None, target=None):
        if name != "suite.train.loop":
            return None
        sys.meta_path.remove(self)
        spec = importlib.util.find_spec(name)
        execute = spec.loader.exec_module

        def execute_and_patch(module):
            execute(module)
            _patch(module.Trainer)

        spec.loader.exec_module = execute_and_patch
        return spec


def _patch(trainer_class):
    advance = trainer_class.advance
    rank, _, step = os.environ.get("SHIFTBENCH_TEST_FAIL", "-1:0").partition(":")

    def patched(trainer, *arguments):
        with open(os.environ["SHIFTBENCH_TEST_PACE"]) as pace:  # noqa: PTH123
            time.sleep(float(pace.read() or 0))
        if (trainer.ranks.rank, trainer.step) == (int(rank), int(step)):
            raise ValueError("planted on this rank")
        return advance(trainer, *arguments)

    trainer_class.advance = patched


if "SHIFTBENCH_TEST_CLOCK" in os.environ:
    with open(os.environ["SHIFTBENCH_TEST_CLOCK"]) as clock:  # noqa: PTH123
        _right_time, _ahead_s = time.time, float(clock.read())
    time.time = lambda: _right_time() + _ahead_s

sys.meta_path.insert(0, _AfterLoop())
