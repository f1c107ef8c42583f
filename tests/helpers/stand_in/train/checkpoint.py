"""The checkpoints of a stand-in run: small JSON files."""

import json
import os
from pathlib import Path
from typing import Any

from suite.paths import RunPaths


def write(path: Path, state: dict[str, Any]) -> None:
    """Writes a checkpoint, which is whole or not there. OSError on a full disk."""
    path.parent.mkdir(exist_ok=True)
    temporary = path.with_name(f".{path.name}.tmp")
    try:
        least_bytes = int(os.environ.get("SHIFTBENCH_TEST_CHECKPOINT_BYTES", "0"))
        temporary.write_text(json.dumps(state).ljust(least_bytes))
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def newest_state(paths: RunPaths) -> tuple[dict[str, Any], list[str]]:
    """The newest readable checkpoint, or nothing, and a sentence for each damaged one."""
    passed_over = []
    for step in reversed(paths.checkpoint_steps()):
        try:
            return json.loads(paths.checkpoint(step).read_text()), passed_over
        except ValueError:
            passed_over.append(f"{paths.checkpoint(step)}: is damaged; passed over")
    return {}, passed_over
