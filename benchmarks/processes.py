"""Times whole processes as a user starts them, and separately the Slurm commands that they call.

A folder of shims comes first on the PATH; each shim calls the real command and notes its start and end.
"""

import os
import resource
import shlex
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from suite.errors import UserError
from suite.provenance import ROOT

# The commands that submit and status may call.
SLURM_COMMANDS = ("sbatch", "squeue", "sacct", "scontrol", "srun", "scancel", "sinfo")
# bash tells the time without starting a process.
SHIM = """\
#!/usr/bin/env bash
start=$EPOCHREALTIME
{command} "$@"
code=$?
echo "{name} $start $EPOCHREALTIME" >> {log}
exit $code
"""


@dataclass(frozen=True)
class Call:
    """One call of a Slurm command."""

    command: str
    duration_s: float


@dataclass(frozen=True)
class Timed:
    """A process that has ended, and the Slurm commands that it called."""

    wall_s: float
    # Of the process and its children; steadier than the wall time where other work runs beside it.
    cpu_s: float
    calls: tuple[Call, ...]
    output: str = ""

    @property
    def slurm_s(self) -> float:
        return sum(call.duration_s for call in self.calls)

    @property
    def own_s(self) -> float:
        return self.wall_s - self.slurm_s

    def count(self, command: str) -> int:
        return sum(call.command == command for call in self.calls)


@dataclass(frozen=True)
class Spread:
    """Median and range over the rounds."""

    median: float
    low: float
    high: float

    @classmethod
    def of(cls, values: Sequence[float]) -> "Spread":
        return cls(statistics.median(values), min(values), max(values))


def environment(folder: Path, log: Path) -> dict[str, str]:
    """Return the environment for `timed`, with shims (made in `folder`) first on the PATH."""
    write_shims(folder / "shims", log)
    environment = os.environ | {
        "PATH": f"{folder / 'shims'}{os.pathsep}{os.environ['PATH']}",
        "PYTHONPATH": os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]),
        # Keeps compiled modules, as a user's Python does, even where this process must not write any.
        "PYTHONPYCACHEPREFIX": str(folder / "compiled"),
    }
    environment.pop("PYTHONDONTWRITEBYTECODE", None)
    return environment


def timed(arguments: Sequence[str], env: Mapping[str, str], log: Path) -> Timed:
    """Run `shiftbench` with these arguments to its end. Raises UserError with its output if it fails."""
    log.write_text("")
    start_s, start_cpu_s = time.perf_counter(), children_cpu_s()
    done = subprocess.run(
        [sys.executable, "-m", "jobs.cli", *arguments],
        env=env,
        capture_output=True,
        text=True,
        stdin=subprocess.DEVNULL,
    )
    wall_s, cpu_s = time.perf_counter() - start_s, children_cpu_s() - start_cpu_s
    if done.returncode != 0:
        said = (done.stderr or done.stdout).strip()
        raise UserError(f"shiftbench {arguments[0]} ended with {done.returncode}: {said}")
    return Timed(wall_s, cpu_s, tuple(parse_calls(log.read_text())), done.stdout)


def children_cpu_s() -> float:
    """Return the CPU time of this process's children that have ended, in seconds."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def time_files(like: Path, into: Path) -> float:
    """Return the seconds for making folders and files of the sizes below `like`, and nothing else."""
    found = [(into / path.relative_to(like), path) for path in (like, *sorted(like.rglob("*")))]
    content = [(copy, None if path.is_dir() else bytes(path.stat().st_size)) for copy, path in found]
    start_s = time.perf_counter()
    for copy, text in content:
        if text is None:
            copy.mkdir()
        else:
            copy.write_bytes(text)
    return time.perf_counter() - start_s


def write_shims(folder: Path, log: Path) -> None:
    """Write shims for Slurm's commands; each calls the real one and appends `name start end` to `log`."""
    folder.mkdir()
    for name in SLURM_COMMANDS:
        if (real := shutil.which(name)) is not None:
            shim = folder / name
            shim.write_text(SHIM.format(name=name, command=shlex.quote(real), log=shlex.quote(str(log))))
            shim.chmod(0o755)


def parse_calls(text: str) -> list[Call]:
    """Read the shims' log: seconds since 1970, with a decimal point or comma as the locale has it."""
    calls = []
    for line in text.splitlines():
        name, start, end = line.replace(",", ".").split()
        calls.append(Call(name, float(end) - float(start)))
    return calls
