"""Slurm's answers, made up."""

import pytest

from jobs.cluster import slurm_commands

SLURM = {"scheduler": "slurm", "nodes": 1}


def answers(patch: pytest.MonkeyPatch, text: str) -> list[tuple[str, ...]]:
    asked: list[tuple[str, ...]] = []
    patch.setattr(slurm_commands, "ask", lambda *command: [asked.append(command), text][1])
    return asked
