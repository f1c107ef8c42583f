"""Made-up answers of Slurm's commands."""

import pytest

from jobs.cluster import slurm_commands

SLURM = {"scheduler": "slurm", "nodes": 1}


def answers(patch: pytest.MonkeyPatch, text: str) -> list[tuple[str, ...]]:
    """Have every command of Slurm answer `text`; returns the list to which the commands are appended."""
    asked: list[tuple[str, ...]] = []
    patch.setattr(slurm_commands, "ask", lambda *command: [asked.append(command), text][1])
    return asked
