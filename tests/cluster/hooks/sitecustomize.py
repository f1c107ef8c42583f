"""Imported by every Python of a test's jobs: makes training steps slow, or one rank fail, on demand.

SHIFTBENCH_TEST_PACE    a file with the seconds that each step sleeps, during which it uses no core
SHIFTBENCH_TEST_FAIL    `rank:step`, where that rank raises an error
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


sys.meta_path.insert(0, _AfterLoop())
