"""The Triton kernels on CPU tensors, in Triton's interpreter, beside torch in float64."""

import json
import os
import subprocess
import sys

import pytest

from tests.helpers.interpreted_kernels import CHECKS
from tests.helpers.small_experiment import ROOT


@pytest.fixture(scope="module")
def outcomes() -> dict[str, str]:
    """One process for all checks: the interpreter is chosen when Triton is imported."""
    command = [sys.executable, "-m", "tests.helpers.interpreted_kernels"]
    done = subprocess.run(
        command, cwd=ROOT, env=os.environ | {"TRITON_INTERPRET": "1"}, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    found: dict[str, str] = json.loads(done.stdout)
    return found


@pytest.mark.parametrize("name", CHECKS)
def test_in_the_interpreter(outcomes: dict[str, str], name: str) -> None:
    assert not outcomes[name], outcomes[name]
