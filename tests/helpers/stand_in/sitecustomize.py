"""Replaces `suite.train` by a stand-in without torch, in every Python that has this folder on its PYTHONPATH.

It is for tests of what surrounds training: the launcher, submit, status, retry, the driver of `tune`, the
ledger. The stand-in is the package `train` beside this file. It writes real records and ends as a real run
ends, but what it measures is made up. Another `sitecustomize` on the path, such as the one in
tests/cluster/hooks, is run too.
"""

import importlib.abc
import importlib.util
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
NAME = "suite.train"


class _StandIn(importlib.abc.MetaPathFinder):
    """Finds the stand-in under the name of the real package."""

    def find_spec(self, name, path=None, target=None):
        if name != NAME:
            return None
        package = HERE / "train"
        return importlib.util.spec_from_file_location(
            name, package / "__init__.py", submodule_search_locations=[str(package)]
        )


def _run_next_sitecustomize():
    """Python imports only the first `sitecustomize` of its path."""
    for entry in sys.path:
        file = Path(entry, "sitecustomize.py")
        if file.is_file() and file.resolve().parent != HERE:
            spec = importlib.util.spec_from_file_location("_next_sitecustomize", file)
            spec.loader.exec_module(importlib.util.module_from_spec(spec))
            return


sys.meta_path.insert(0, _StandIn())
_run_next_sitecustomize()
