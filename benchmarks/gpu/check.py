"""`make gpu-check`: what only a GPU can show, in eight minutes, without a network.

    python -m benchmarks.gpu.check [--rehearse] [--out FOLDER] [--wheels FOLDER] [--minutes 8]

Needs Python with torch and torchvision. Each stage is a process of its own, so that one that fails, or lacks
a package, leaves out nothing but itself; what is left out is said. A test that fails makes the exit code 1.
The stages are in their order of worth, and the last ones are left out when the time is up. Packages that the
machine lacks may lie in FOLDER as wheels. `--rehearse` does the same on a CPU with tiny networks, to see that
the script works; its numbers mean nothing. Only the standard library is imported here.
"""

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
import zipfile
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent.parent
MIN_STAGE_S = 10.0


@dataclass(frozen=True)
class Stage:
    """A part of the check: a function of `benchmarks.gpu.stages`, and the longest that it may take."""

    name: str
    title: str
    limit_s: float


STAGES = (
    Stage("machine", "Machine", 20),
    Stage("tests", "Tests that need a GPU", 150),
    Stage("norms", "Fused norms against torch's", 45),
    Stage("steps", "Training steps", 110),
    Stage("ghost", "Small norm batches", 45),
    Stage("shares", "What probe and TID cost", 45),
    Stage("graphs", "CUDA graphs", 35),
    Stage("loader", "Loader", 30),
)


@dataclass
class Outcome:
    """What a stage printed, a row for each measurement, and what it left out and why.

    `planned`: of rows that it named before, those that have not come.
    """

    stage: str
    title: str
    rows: list[dict[str, Any]] = field(default_factory=list)
    left_out: list[str] = field(default_factory=list)
    planned: list[str] = field(default_factory=list)
    duration_s: float = 0.0

    @property
    def failed(self) -> list[str]:
        """What failed, rather than being measured."""
        return [row["what"] for row in self.rows if row.get("failed")]


def check(*, rehearse: bool, minutes: float, path: list[str]) -> list[Outcome]:
    """Run the stages, one after another; the first alone if it fails. `path`: folders with more packages."""
    end_s = time.monotonic() + 60 * minutes
    outcomes = []
    for number, stage in enumerate(STAGES, start=1):
        left_s = end_s - time.monotonic()
        _say(f"{number} of {len(STAGES)}, {stage.title}: at most {min(stage.limit_s, max(0, left_s)):.0f} s")
        if left_s < MIN_STAGE_S:
            outcomes.append(Outcome(stage.name, stage.title, left_out=[f"{minutes:g} minutes were up"]))
            continue
        outcomes.append(run_stage(stage, rehearse=rehearse, limit_s=min(stage.limit_s, left_s), path=path))
        for why in outcomes[-1].left_out:
            _say(f"   left out: {why}")
        if not outcomes[0].rows:
            break  # no GPU, or no torch
    return outcomes


def run_stage(stage: Stage, *, rehearse: bool, limit_s: float, path: list[str]) -> Outcome:
    """Run a stage in a process of its own, and end it after `limit_s`. Its rows until then are kept."""
    command = [sys.executable, "-m", "benchmarks.gpu.stages", stage.name, *["--rehearse"][: int(rehearse)]]
    packages = [str(ROOT), *path, *filter(None, [os.environ.get("PYTHONPATH")])]
    env = os.environ | {"PYTHONPATH": os.pathsep.join(packages), "PYTHONUNBUFFERED": "1"}
    outcome, start_s = Outcome(stage.name, stage.title), time.monotonic()
    with tempfile.TemporaryFile("w+") as errors:
        process = subprocess.Popen(
            command,
            cwd=ROOT,
            env=env,
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
            start_new_session=True,
        )
        assert process.stdout is not None
        ending = threading.Timer(limit_s, _end, [process])
        ending.start()
        try:
            for line in process.stdout:
                _take(outcome, line)
            code = process.wait()
        finally:
            is_over = not ending.is_alive()
            ending.cancel()
        outcome.duration_s = round(time.monotonic() - start_s, 1)
        errors.seek(0)
        last = (errors.read().strip().splitlines() or ["it said nothing"])[-1]
    if is_over:
        outcome.left_out.append(f"what was not done in {limit_s:.0f} s")
    elif code:
        outcome.left_out.append(f"the stage ended with {code}: {last}")
    if outcome.planned:
        outcome.left_out.append(f"not reached, or not ended: {', '.join(outcome.planned)}")
    return outcome


def _end(process: "subprocess.Popen[str]") -> None:
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)  # with its children


def _take(outcome: Outcome, line: str) -> None:
    try:
        content = json.loads(line)
    except ValueError:
        return  # what a library printed
    if isinstance(content, dict) and "left_out" in content:
        outcome.left_out.append(content["left_out"])
    elif isinstance(content, dict) and "planned" in content:
        outcome.planned = content["planned"]
    elif isinstance(content, dict) and "what" in content:
        outcome.rows.append(content)
        outcome.planned = [what for what in outcome.planned if what != content["what"]]
        _say(f"   {content['what']}: {shown(content['value'])} {content.get('unit', '')}")


def shown(value: object) -> str:
    """Return a value as the table has it: numbers with four digits."""
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def markdown(outcomes: list[Outcome], *, rehearse: bool) -> str:
    """Return the report: a table for each stage, and what was left out."""
    lines = ["# GPU check", ""]
    if rehearse:
        lines += ["A rehearsal on a CPU with tiny networks: **its numbers mean nothing.**", ""]
    for outcome in outcomes:
        lines += [f"## {outcome.title}", ""]
        if outcome.rows:
            lines += ["| what | value | unit |", "|---|---:|---|"]
            lines += [_line(row) for row in outcome.rows]
            lines.append("")
        lines += [f"- left out: {why}" for why in outcome.left_out]
        lines += [""] * bool(outcome.left_out)
    return "\n".join(lines)


def _line(row: dict[str, Any]) -> str:
    what, value = (text.replace("|", "\\|") for text in (row["what"], shown(row["value"])))
    return f"| {what} | {f'**{value}**' if row.get('failed') else value} | {row.get('unit', '')} |"


def unpacked(wheels: Path, into: Path) -> list[str]:
    """Unpack wheels, without an installer, and return the folder to import from. SystemExit without any."""
    found = sorted(wheels.glob("*.whl"))
    if not found:
        sys.exit(f"error: --wheels {wheels}: no *.whl there")
    for wheel in found:
        with zipfile.ZipFile(wheel) as content:
            content.extractall(into)
    return [str(into)]


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def main() -> int:
    """Run the check, and write its two files.

    Return the exit code: 1 where something failed, 2 where there is nothing to run it on.
    """
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.gpu.check", description=__doc__.partition("\n")[0]
    )
    parser.add_argument("--rehearse", action="store_true", help="on a CPU, with tiny networks")
    parser.add_argument("--out", type=Path, default=Path("out/gpu-check"), help="folder of the two files")
    parser.add_argument("--wheels", type=Path, help="folder with wheels of packages that are missing")
    parser.add_argument("--minutes", type=float, default=8.0, help="after which no further stage begins")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        path = unpacked(arguments.wheels, Path(folder)) if arguments.wheels else []
        outcomes = check(rehearse=arguments.rehearse, minutes=arguments.minutes, path=path)
    if not outcomes[0].rows:
        _say(f"error: {'; '.join(outcomes[0].left_out)}")
        return 2
    arguments.out.mkdir(parents=True, exist_ok=True)
    content = {"is_rehearsal": arguments.rehearse, "stages": [asdict(outcome) for outcome in outcomes]}
    (arguments.out / "gpu-check.json").write_text(json.dumps(content, indent=1) + "\n")
    (arguments.out / "gpu-check.md").write_text(markdown(outcomes, rehearse=arguments.rehearse))
    _say(f"{arguments.out / 'gpu-check.md'} and gpu-check.json")
    if failed := [what for outcome in outcomes for what in outcome.failed]:
        _say(f"error: {len(failed)} failed: {', '.join(failed)}")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
