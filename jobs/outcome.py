"""How the runs of a launch ended."""

import signal
from dataclasses import dataclass, field
from pathlib import Path

from jobs import exit_codes


@dataclass
class LaunchOutcome:
    """How each run of a launch ended, by folder. `failed` has an exit code for each run."""

    skipped: list[Path] = field(default_factory=list)
    completed: list[Path] = field(default_factory=list)
    failed: list[tuple[Path, int]] = field(default_factory=list)
    stopped_by: signal.Signals | None = None

    def add(self, folder: Path, code: int) -> None:
        """Note how a run ended."""
        if code == exit_codes.DONE:
            self.completed.append(folder)
        else:
            self.failed.append((folder, code))

    @property
    def exit_code(self) -> int:
        return exit_codes.of_runs([code for _, code in self.failed], self.stopped_by)

    def __str__(self) -> str:
        return (
            f"{len(self.completed)} completed, {len(self.skipped)} were complete, "
            f"{len(self.failed)} did not complete"
        )
