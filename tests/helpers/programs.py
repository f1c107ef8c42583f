"""Programs that a test needs, and that a machine may not have."""

import os
import shutil

import pytest


def required(program: str, package: str, without: str) -> str:
    """Where a program is. Without it the tests fail in CI and skip elsewhere: there, nobody reads a skip."""
    path = shutil.which(program)
    if path is None:
        reason = f"{program} is not on the PATH, so {without}; install Debian's {package}"
        if os.environ.get("CI"):
            pytest.fail(reason)
        pytest.skip(reason)
    return path
