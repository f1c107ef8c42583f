"""The stand-in trainer: see `sitecustomize.py` in this folder."""

import os
from pathlib import Path

FOLDER = Path(__file__).parent


def stand_in(**settings: object) -> dict[str, str]:
    """Returns environment variables under which processes train with the stand-in.

    `settings` are the variables of `train/__init__.py` without their prefix, in lower case: `step_s=0.1` sets
    SHIFTBENCH_TEST_STEP_S.
    """
    path = os.pathsep.join(filter(None, (str(FOLDER), os.environ.get("PYTHONPATH"))))
    return {"PYTHONPATH": path} | {
        f"SHIFTBENCH_TEST_{name.upper()}": str(value) for name, value in settings.items()
    }
