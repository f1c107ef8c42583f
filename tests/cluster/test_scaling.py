"""`shiftbench scale` on a real Slurm: its cells run one after the other, and a slow node is named."""

import csv
from pathlib import Path

import pytest

from suite.record import Record
from tests.helpers.cells import Cells

pytestmark = pytest.mark.timeout(600)
SHORT = ("--weak", "--repeats", "1", "--steps", "20", "--warmup-steps", "5")


def test_one_two_and_four_nodes_with_a_slow_one(cells: Cells) -> None:
    """The stand-in trainer's steps take as long on any number of nodes, so that weak scaling is ideal."""
    cells.describe(step_s=0.02, environment={"SHIFTBENCH_TEST_SLOW_NODE": "n2:1.8"})
    what = ("scale", str(cells.config), *SHORT, "--cluster", str(cells.folder / "cluster.yaml"))
    batch = ("batch.global_batch_size=8", "batch.batch_size_per_gpu=8")
    dry = cells.call(*what, *batch, "--nodes", "1,2", "--dry-run")
    assert dry.returncode == 0, dry.stderr
    assert "2 nodes, repeat 1: submit" in dry.stdout
    assert "#SBATCH --nodes=2" in dry.stdout
    assert not cells.output_dir.exists()

    first = cells.call(*what, *batch, "--nodes", "1,2")
    assert first.returncode == 0, first.stdout + first.stderr
    assert "2 submitted" in first.stdout
    done = cells.call(*what, *batch, "--nodes", "1,2,4")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "1 submitted, 2 complete" in done.stdout
    assert "4 nodes, repeat 1: completed" in done.stdout
    (folder,) = cells.output_dir.glob("*/cluster-weak")
    rows = list(csv.DictReader((folder / "scaling.csv").open()))
    assert [(row["nodes"], row["ranks"], row["state"]) for row in rows] == [
        (nodes, nodes, "completed") for nodes in ("1", "2", "4")
    ]
    runs = [Record.read(Path(row["folder"])) for row in rows]
    assert [run.config["batch"]["global_batch_size"] for run in runs] == [8, 16, 32]
    # None began before the one before it had ended.
    starts = [run.status["started_at"] for run in runs]
    assert all(later >= run.status["updated_at"] for run, later in zip(runs, starts[1:], strict=False))
    text = (folder / "scaling.md").read_text()
    assert "n2 is slow: its ranks work × " in text
    assert "a prediction, not a measurement" in text
    assert (folder / "scaling.svg").exists()


def test_a_cell_that_is_refused_and_one_that_fails(cells: Cells) -> None:
    """Eight nodes are more than there are; a rank of the second node ends with an error."""
    cells.describe(step_s=0.0, fail="1:3")
    what = ("scale", str(cells.config), *SHORT, "--cluster", str(cells.folder / "cluster.yaml"))
    done = cells.call(*what, "--nodes", "1,2,8", "batch.global_batch_size=8", "batch.batch_size_per_gpu=8")
    assert done.returncode == 3, done.stdout + done.stderr
    assert "8 nodes, repeat 1 was not submitted" in done.stderr
    (folder,) = cells.output_dir.glob("*/cluster-weak")
    rows = list(csv.DictReader((folder / "scaling.csv").open()))
    assert [row["state"] for row in rows] == ["completed", "failed", "not submitted"]
    assert "planted on this rank" in rows[1]["reason"]
    assert "No efficiency yet" in (folder / "scaling.md").read_text()
