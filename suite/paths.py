"""Every file name of a run, once.

<output_dir>/<folder_name>/
  run.json            the resolved Run, and the schema's version
  status.json         state, reason, progress; replaced atomically
  provenance.jsonl    a line for each start: code, versions, devices, hosts, scheduler
  measurements.jsonl  a line for each measurement, appended
  layers.json         names and widths behind the per-layer measurements
  noise.json          accuracy under noise on the estimates, where somebody asked for it
  log.txt             what the process said
  errors/             rank-3.json: what a rank died of in the newest attempt
  patches/            how the sources differed from their commit, if they did
  lock                held by the process that writes here
  claim               a newer start asks that process to leave
  stop.json           a study asks that process to end, and why
  checkpoints/        step-00000123.pt, best.pt
"""

import os
import re
from pathlib import Path


class RunPaths:
    """The files of one run folder. Creates nothing."""

    # Properties: to make all of these for thousands of runs takes a while, and most uses need one.

    def __init__(self, folder: Path | str) -> None:
        self.folder = Path(folder)

    @property
    def run(self) -> Path:
        return self.folder / "run.json"

    @property
    def status(self) -> Path:
        return self.folder / "status.json"

    @property
    def provenance(self) -> Path:
        return self.folder / "provenance.jsonl"

    @property
    def measurements(self) -> Path:
        return self.folder / "measurements.jsonl"

    @property
    def layers(self) -> Path:
        return self.folder / "layers.json"

    @property
    def noise(self) -> Path:
        return self.folder / "noise.json"

    @property
    def log(self) -> Path:
        return self.folder / "log.txt"

    @property
    def lock(self) -> Path:
        return self.folder / "lock"

    @property
    def claim(self) -> Path:
        return self.folder / "claim"

    @property
    def stop(self) -> Path:
        return self.folder / "stop.json"

    @property
    def errors(self) -> Path:
        return self.folder / "errors"

    @property
    def checkpoints(self) -> Path:
        return self.folder / "checkpoints"

    @property
    def best(self) -> Path:
        return self.checkpoints / "best.pt"

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
        for folder, deeper, names in os.walk(root):
            if "run.json" in names:
                found[top + folder[begin:]] = Path(folder)
                deeper.clear()  # nothing below a run is one
    return [RunPaths(folder) for folder in sorted(found.values())]
