"""How the runs of a launch ended."""

import signal
from dataclasses import dataclass, field
from pathlib import Path

from jobs import exit_codes


@dataclass
class LaunchOutcome:
    """How each run of a launch ended, by folder."""

    skipped: list[Path] = field(default_factory=list)
    completed: list[Path] = field(default_factory=list)
    failed: list[tuple[Path, int]] = field(default_factory=list)
    stopped_by: signal.Signals | None = None

    @property
    def exit_code(self) -> int:
        """Of the launch as a whole."""
        if self.stopped_by is signal.SIGINT:
            return exit_codes.INTERRUPTED
        codes = {code for _, code in self.failed}
        if self.stopped_by is not None or codes == {exit_codes.PREEMPTED}:
            return exit_codes.PREEMPTED
        if codes == {exit_codes.BAD_USAGE}:
            return exit_codes.BAD_USAGE
        return exit_codes.SOME_RUNS_FAILED if codes else exit_codes.DONE

    def __str__(self) -> str:
        return (
            f"{len(self.completed)} completed, {len(self.skipped)} were complete, "
            f"{len(self.failed)} did not complete"
        )
