"""Every file name of a run, once.

<output_dir>/<folder_name>/
  run.json            the resolved Run, and the schema's version
  status.json         state, reason, progress; replaced atomically
  provenance.jsonl    a line for each start: code, versions, devices, hosts, scheduler
  measurements.jsonl  a line for each measurement, appended
  layers.json         names and widths behind the per-layer measurements
  log.txt             what the process said
  errors/             rank-3.json: what a rank died of in the newest attempt
  patches/            how the sources differed from their commit, if they did
  lock                held by the process that writes here
  claim               a newer start asks that process to leave
  checkpoints/        step-00000123.pt, best.pt
"""

import os
import re
from pathlib import Path


class RunPaths:
    """The files of one run folder. Creates nothing."""

    def __init__(self, folder: Path | str) -> None:
        self.folder = Path(folder)
        self.run = self.folder / "run.json"
        self.status = self.folder / "status.json"
        self.provenance = self.folder / "provenance.jsonl"
        self.measurements = self.folder / "measurements.jsonl"
        self.layers = self.folder / "layers.json"
        self.log = self.folder / "log.txt"
        self.lock = self.folder / "lock"
        self.claim = self.folder / "claim"
        self.errors = self.folder / "errors"
        self.checkpoints = self.folder / "checkpoints"
        self.best = self.checkpoints / "best.pt"

    def error(self, rank: int) -> Path:
        """What this rank died of."""
        return self.errors / f"rank-{rank}.json"

    def patch(self, name: str) -> Path:
        """A difference of the sources from their commit, by its name in the provenance."""
        return self.folder / "patches" / f"{name}.patch"

    def checkpoint(self, step: int) -> Path:
        """The complete training state after `step` optimizer steps."""
        return self.checkpoints / f"step-{step:08d}.pt"

    def checkpoint_steps(self) -> list[int]:
        """Steps that have a checkpoint, oldest first."""
        found = (re.fullmatch(r"step-(\d{8})\.pt", p.name) for p in self.checkpoints.glob("step-*.pt"))
        return sorted(int(match[1]) for match in found if match)


def find_runs(roots: list[Path]) -> list[RunPaths]:
    """Run folders at or below the given folders, in a stable order."""
    found: dict[str, Path] = {}
    for root in roots:
        # Links to folders are not followed, so below the root a path is its own real one.
        top, begin = os.path.realpath(root), len(os.fspath(root))
        for folder, _, names in os.walk(root):
            if "run.json" in names:
                found[top + folder[begin:]] = Path(folder)
    return [RunPaths(folder) for folder in sorted(found.values())]
