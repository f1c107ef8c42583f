"""Which cells `shiftbench scale` plans, what it refuses, and what it does not wait for."""

import itertools
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml

from jobs.cluster.clusters import SlurmCluster
from jobs.scale import submitting
from jobs.scale.cells import Cell, ScalePlan, only_run, parse_nodes, plan_cells, study_folder
from suite.config import load_experiment
from suite.errors import UserError
from suite.record import RecordWriter
from tests.helpers.command_line import shiftbench
from tests.helpers.runs import make_run

CLUSTER = SlurmCluster(scheduler="slurm", name="gpu", gpus_per_node=2, time="60")
BATCH = {"global_batch_size": 32, "batch_size_per_gpu": 4}
STRONG = ScalePlan([1, 2, 4], "strong", 2, 30, 5)
WEAK = ScalePlan([2, 4], "weak", 1, 30, 5)


def cells_of(plan: ScalePlan, folder: Path, **sections: Any) -> list[Cell]:
    return plan_cells(make_run(batch=BATCH, **sections), CLUSTER, folder, plan)


def test_strong_scaling_trains_the_same_run_on_all_numbers_of_nodes(tmp_path: Path) -> None:
    """Each repeat has a seed of its own, and begins at the other end."""
    cells = cells_of(STRONG, tmp_path)
    assert [(cell.nodes, cell.repeat) for cell in cells] == [(1, 1), (2, 1), (4, 1), (4, 2), (2, 2), (1, 2)]
    assert [cell.run.seed for cell in cells] == [0, 0, 0, 1, 1, 1]
    assert len({cell.run.run_id for cell in cells}) == 2
    assert [cell.cluster.ranks for cell in cells[:3]] == [2, 4, 8]
    assert len({cell.output_dir for cell in cells}) == 6
    run = cells[0].run
    # 35 steps of one epoch, of which the first 5 are left out; the rate rises to the end.
    assert (run.recipe.iterations, run.num_epochs, run.measure.warmup_steps) == (35, 1, 5)
    assert run.recipe.lr_at(34) == run.recipe.lr
    assert run.recipe.lr_at(17) == pytest.approx(run.recipe.lr / 2)


def test_weak_scaling_lets_the_global_batch_grow(tmp_path: Path) -> None:
    cells = cells_of(WEAK, tmp_path)
    batches = [cell.run.batch for cell in cells]
    assert [(batch.global_batch_size, batch.per_gpu) for batch in batches] == [(32, 4), (64, 4)]


def test_what_decides_the_speed_decides_the_folder(tmp_path: Path) -> None:
    def folder(cluster: SlurmCluster = CLUSTER, plan: ScalePlan = STRONG, **sections: Any) -> Path:
        return study_folder(make_run(batch=BATCH, **sections), cluster, tmp_path, plan)

    assert folder() == folder()
    others = [folder(system={"data_threads": 7}), folder(plan=ScalePlan([1, 2], "strong", 1, 31, 5))]
    others += [folder(cluster=CLUSTER.model_copy(update={"name": "other"}))]
    others += [folder(cluster=CLUSTER.model_copy(update={"environment": {"NCCL_SOCKET_IFNAME": "eth1"}}))]
    assert len({folder(), *others}) == 5
    assert folder(cluster=CLUSTER.model_copy(update={"nodes": 3})) == folder()


def test_cells_of_another_number_of_ranks_are_not_mixed(tmp_path: Path) -> None:
    (cell, *_) = cells_of(STRONG, tmp_path)
    with RecordWriter(cell.run, cell.folder) as record:
        record.start({"world_size": 4})
        record.status("completed")
    with pytest.raises(UserError, match="was timed with 4 ranks, and cluster gpu now gives 2: take another"):
        cells_of(STRONG, tmp_path)


@pytest.mark.parametrize(
    ("plan", "sections", "said"),
    [
        (ScalePlan([1, 8], "strong", 1, 9, 1), {}, "on 8 nodes: .* 16 ranks .* 32; .* take --weak"),
        (
            WEAK,
            {"data": {"name": "fashion-mnist-7k", "train_images": 40}},
            "train_images: 40 .* 64 .* 4 nodes",
        ),
        (ScalePlan([3, 4], "weak", 1, 9, 1), {}, "on 3 nodes: .* 6 ranks .* that of the fewest nodes"),
        (
            WEAK,
            {"recipe": {"epochs": 4, "federated": {"clients": 2, "local_steps": 2}}},
            "recipe.federated: .* does not scale",
        ),
    ],
)
def test_batches_that_do_not_fit(plan: ScalePlan, sections: Any, said: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=said):
        cells_of(plan, tmp_path, **sections)


@pytest.mark.parametrize(
    ("text", "said"), [("1,two", "such as 1,2,4,8, got"), ("4", "one number"), ("0,1", "got")]
)
def test_numbers_of_nodes(text: str, said: str) -> None:
    assert parse_nodes("8, 1,2,2") == [1, 2, 8]
    with pytest.raises(UserError, match=said):
        parse_nodes(text)


def test_one_cell_is_chosen_and_several_are_refused(tmp_path: Path) -> None:
    config = tmp_path / "two.yaml"
    content = {"model": {"arch": "mlp10"}, "data": {"name": "fashion-mnist-7k", "image_size": 28}}
    config.write_text(yaml.safe_dump({**content, "batch": {"global_batch_size": [8, 16]}, "seeds": [3, 4]}))
    chosen = load_experiment(config, ["batch.global_batch_size=8"])
    assert only_run(chosen, config).seed == 3
    done = shiftbench("scale", config, "--cluster", "local")
    assert (done.returncode, done.stdout) == (2, "")
    assert "has 2 cells (mlp10 BN nb8, mlp10 BN nb16), and scale times one" in done.stderr
    done = shiftbench("scale", config, "batch.global_batch_size=8", "--cluster", "local")
    assert "cluster local: has one node, this machine; scale needs a Slurm cluster" in done.stderr


def test_a_job_that_cannot_start_is_not_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    answers = iter(
        [
            SimpleNamespace(state="queued", reason="Priority", job="7", is_unfinished=True),
            SimpleNamespace(state="completed", reason="", job="7", is_unfinished=False),
            SimpleNamespace(state="queued", reason="PartitionNodeLimit", job="8", is_unfinished=True),
            SimpleNamespace(state="queued", reason="Dependency", job="9", is_unfinished=True),
        ]
    )
    monkeypatch.setattr(submitting, "overview", lambda *_: SimpleNamespace(runs=[next(answers)]))
    monkeypatch.setattr(submitting, "_wait_for_its_end", lambda *_: None)
    seen: list[str] = []
    stuck = submitting.follow(
        cells_of(ScalePlan([1, 2, 4], "strong", 1, 30, 5), tmp_path),
        lambda cell, run: seen.append(f"{cell.nodes} {run.state}"),
    )
    assert seen == ["1 queued", "1 completed", "2 queued", "4 queued"]
    assert stuck == {
        "2 nodes, repeat 1": "PartitionNodeLimit: it will not start; end it by scancel 8",
        "4 nodes, repeat 1": "Dependency: it will not start; end it by scancel 9",
    }


def test_slurm_is_asked_less_and_less_often_and_at_once_when_a_cell_has_ended(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (cell, *_) = cells_of(STRONG, tmp_path)
    now_s, asked_s = 0.0, list[float]()

    def sleep(duration_s: float) -> None:
        nonlocal now_s
        now_s += duration_s
        if now_s == 1000:
            with RecordWriter(cell.run, cell.folder) as record:
                record.start({"world_size": 2})
                record.status("completed")

    def ask(*_: object) -> SimpleNamespace:
        asked_s.append(now_s)
        state = "completed" if now_s >= 1000 else "queued" if now_s < 300 else "running"
        is_unfinished = state != "completed"
        return SimpleNamespace(
            runs=[SimpleNamespace(state=state, reason="", job="7", is_unfinished=is_unfinished)]
        )

    with RecordWriter(cell.run, cell.folder, durable=False) as record:
        record.queue(submission="token")
    monkeypatch.setattr(submitting, "overview", ask)
    monkeypatch.setattr(submitting, "time", SimpleNamespace(sleep=sleep, monotonic=lambda: now_s))
    assert submitting.follow([cell], lambda *_: None) == {}
    gaps_s = [later - earlier for earlier, later in itertools.pairwise(asked_s)]
    # Queued for 300 s, then running: the gaps begin anew.
    assert gaps_s[:8] == [2, 4, 8, 16, 32, 60, 60, 60]
    assert gaps_s[8:15] == [60, 2, 4, 8, 16, 32, 60]
    assert asked_s[-1] == 1000
    assert len(asked_s) < 30
