"""One bad record takes no command down: a seeded fuzzer of records, ledger entries and errors of ranks."""

import json
import random
import shutil
import subprocess
import traceback
from pathlib import Path

import pytest

from jobs.cluster import slurm_commands
from jobs.cluster.ledger import Ledger, new_submission
from suite.experiment import Run
from suite.paths import RunPaths
from suite.record import Layer, RecordWriter
from tests.helpers.command_line import shiftbench
from tests.helpers.damage import damage, rename_badly
from tests.helpers.records import write_run
from tests.helpers.runs import CONFIG, make_run

DOCUMENTED = {0, 1, 2, 3}
ERROR = {"rank": 1, "host": "n1", "at": 1.79e9, "sentence": "ValueError: x", "traceback": "Traceback\n"}


def write_folder(root: Path) -> list[Run]:
    """Write three runs: one completed, one failed with a rank's error, one in Slurm's queue."""
    done, failed, queued = (make_run(seeds=[seed]) for seed in (0, 1, 2))
    write_run(root, done, esm_sigma=[1.0], layers=["bn1"], total_steps=24, images_per_s=9.5)
    folder = write_run(root, failed, layers=["bn1"], state="failed", reason="it rained", final=False)
    RunPaths(folder).errors.mkdir()
    RunPaths(folder).error(1).write_text(json.dumps(ERROR))
    with Ledger(root).held():
        for run, job in ((queued, "12"), (done, "11")):
            entry = new_submission("x", {"scheduler": "slurm"}, root, root, [run.folder_name])
            Ledger(root).accepted(entry, job)
            if run is queued:
                with RecordWriter(run, root / run.folder_name) as record:
                    record.queue(submission=entry.token)
                    record.layers([Layer("bn1", 16)])
    return [done, failed, queued]


@pytest.fixture(scope="module")
def intact(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("intact")
    write_folder(root)
    (root.parent / "x.yaml").write_text(CONFIG)
    return root


@pytest.fixture
def slurm(monkeypatch: pytest.MonkeyPatch) -> None:
    """A Slurm in which the waiting run's job waits. The name is that of whatever entry there is."""

    def ask(*command: str, timeout_s: float = 1.0) -> str:
        if command[0] == "squeue":
            named = [word.removeprefix("--name=") for word in command if word.startswith("--name=")]
            return "".join(f"12|PENDING|Priority||{name}\n" for text in named for name in text.split(","))
        return ""

    monkeypatch.setattr(slurm_commands, "ask", ask)


def files_of(root: Path) -> list[Path]:
    return sorted(path for path in root.rglob("*.json*") if path.is_file())


def call(*arguments: object, **env: str) -> "subprocess.CompletedProcess[str]":
    try:
        done = shiftbench(*arguments, **env)
    except Exception:
        raise AssertionError(f"{arguments}:\n{traceback.format_exc()[-3000:]}") from None
    assert "Traceback (most recent call last)" not in done.stderr, done.stderr[-3000:]
    assert done.returncode in DOCUMENTED, (arguments, done)
    assert done.returncode == 0 or done.stderr.strip() or done.stdout.strip(), arguments
    return done


CASES = 40


@pytest.mark.usefixtures("slurm")
def test_no_damage_ends_in_a_traceback(intact: Path, tmp_path: Path) -> None:
    config = intact.parent / "x.yaml"
    for number in range(1, CASES + 1):
        dice = random.Random(number)
        root = tmp_path / "runs"
        shutil.copytree(intact, root)
        done = [damage(dice.choice(files_of(root)), dice) for _ in range(dice.choice([1, 1, 2, 4]))]
        if dice.random() < 0.05:
            done.append(rename_badly(next(p for p in root.iterdir() if p.name != ".shiftbench"), dice))
        names = [path.name for path in root.iterdir() if path.name != ".shiftbench"]
        env = {"XDG_CACHE_HOME": str(tmp_path / "cache")}
        commands: list[tuple[object, ...]] = [
            ("status", "--output-dir", root),
            ("status", "--json", "--output-dir", root),
            ("status", dice.choice(names), "--output-dir", root),
            ("logs", dice.choice(names), "--output-dir", root),
            ("submit", config, "--dry-run", "--output-dir", root),
        ]
        if number % 8 == 0:
            commands.append(("compare", root, root))
        if number % 16 == 1:
            commands.append(("report", root, "--out", tmp_path / "out"))
        commands += [("cancel", "--all", "--output-dir", root), ("retry", "--failed", "--output-dir", root)]
        for command in commands:
            try:
                call(*command, **env)
            except AssertionError as error:
                raise AssertionError(f"case {number}: {done}: {error}") from None
        shutil.rmtree(root)
