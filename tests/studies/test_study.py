"""Studies as files: those that we ship, and what is refused before the first trial."""

from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.testing import CliRunner

from jobs.cluster.clusters import load_cluster
from jobs.commands.config import app
from suite.errors import UserError
from suite.experiment import check_batches
from suite.studies.study import check_points, load_study
from tests.helpers.study_files import BASE, grid, write

ROOT = Path(__file__).parents[2]
STUDIES = ROOT / "configs" / "studies"


@pytest.mark.parametrize(
    ("name", "num_points"),
    [
        ("small-batch", 4 * 7 + 1),  # GN has no norm batch
        ("small-batch-demo", 2 * 4),
        ("federated-demo", 3 * (3 + 3 + 1)),
        ("lr-scaling", 2 * (5 + 4)),  # at 256 both rules say 0.1
        ("placement", 3 * 2 * 2 * 3),
        ("large-batch", 2 * 4),
    ],
)
def test_the_studies_that_we_ship(name: str, num_points: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("IMAGENET", "/data/imagenet")
    path = STUDIES / f"{name}.yaml"
    study = load_study(path)
    assert path.read_text().startswith("# ")
    assert len(study.points) == num_points
    assert len(study.runs) == 3 * num_points
    assert f"{num_points} points × 3 seeds" in path.read_text()
    if not name.endswith("demo"):
        check_batches(study.runs, load_cluster("gpu").ranks)


def test_every_study_is_tested() -> None:
    assert {path.stem for path in STUDIES.glob("*.yaml")} == {
        *("small-batch", "small-batch-demo", "lr-scaling", "placement", "federated-demo", "large-batch")
    }


def test_large_batch_scales_linearly_and_takes_lars_from_16384_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("IMAGENET", "/data/imagenet")
    runs = load_study(STUDIES / "large-batch.yaml").runs
    assert {
        (r.batch.global_batch_size, r.recipe.lr, r.recipe.optimizer, r.recipe.trust_coefficient) for r in runs
    } == {
        (4096, 1.6, "sgd", None),
        (8192, 3.2, "sgd", None),
        (16384, 6.4, "lars", 0.0025),
        (32768, 12.8, "lars", 0.0025),
    }
    assert {(r.batch.norm, r.recipe.norm_weight_decay, r.recipe.warmup_epochs) for r in runs} == {(256, 0, 5)}


def test_small_batch_moves_the_norm_batch_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("IMAGENET", "/data/imagenet")
    runs = load_study(STUDIES / "small-batch.yaml").runs
    assert len({(run.batch.global_batch_size, run.batch.per_gpu) for run in runs}) == 1
    assert len({run.recipe for run in runs}) == 1
    assert {run.batch.norm for run in runs} == {2, 4, 8, 16, 32, 64, 128}


def test_the_runs_of_a_point_are_an_experiments_own(tmp_path: Path) -> None:
    from suite.config import expand

    study = load_study(write(tmp_path, seeds=[3, 4]))
    content = {**BASE, "batch": {"global_batch_size": 16, "norm_batch_size": [2, 16]}, "seeds": [3, 4]}
    assert [run.run_id for run in study.runs] == [run.run_id for run in expand(content, "mine").runs]
    assert {run.experiment for run in study.runs} == {"mine"}


def test_objectives_know_their_direction(tmp_path: Path) -> None:
    wanted = [{"metric": "top1_percent"}, {"metric": "esm_sigma"}, {"metric": "learning_rate", "mode": "min"}]
    found = load_study(write(tmp_path, objectives=wanted)).spec.objectives
    assert [one.mode for one in found] == ["max", "min", "min"]


@pytest.mark.parametrize(
    ("keys", "sentence"),
    [
        (
            {"space": {"recipe.lrr": grid(0.1)}},
            "1 of 1 points are impossible: recipe.lrr=0.1: recipe.lrr: ",
        ),
        (
            {"space": {"recip.lr": grid(0.1)}},
            "space: recip.lr: expected a field of task, model, data, batch, recipe",
        ),
        ({"space": {"recipe": grid({})}}, "space: recipe: expected a field of"),
        ({"space": {"measure.warmup_steps": grid(1, 2)}}, "space: measure.warmup_steps: expected a field of"),
        ({"space": {"data.path": grid("a", "b")}}, "space: data.path: expected a field"),
        ({"space": {}}, "space: expected a mapping, each value a mapping with a key `kind`"),
        ({"space": {"batch.norm_batch_size": grid(None, 16)}}, "two points are the same run"),
        ({"space": {"recipe.lr": grid([0.1, 0.2])}}, "a point is one cell, but a list gives several"),
        ({"overrides": ["batch.norm_batch_size=4"]}, "the study itself sets batch.norm_batch_size"),
        ({"overrides": ["seeds=[7]"]}, "the study itself sets seeds"),
        (
            {"space": {"batch.norm_batch_size": grid(2, 3, 5, 7, 9, 16)}},
            "4 of 6 points are impossible: batch.norm_batch_size=3: batch: norm_batch_size 3 must divide",
        ),
        ({"space": {"batch.norm_batch_size": grid(2, 3, 5, 7, 9, 16)}}, "; and 1 more"),
        (
            {"space": {"model.norm": grid(*({"kind": "xbn", "num_groups": groups} for groups in (7, 8, 9)))}},
            "2 of 3 points are impossible: model.norm={kind: xbn, num_groups: 7}: model."
            "norm.num_groups 7 does not divide the 16, 32 and 64 channels of small_resnet",
        ),
        ({"objectives": [{"metric": "top1"}]}, "no run measures 'top1'; measured are loss, top1_percent"),
        ({"objectives": [{"metric": "learning_rate"}]}, "give mode, max or min"),
        ({"num_samples": 3}, "num_samples: no field of the space is drawn"),
        ({"seeds": [1, 1]}, "seeds: expected different numbers"),
        ({"sede": [1]}, "sede: unknown key; did you mean 'seeds'?"),
        ({"experiment": "nowhere.yaml"}, "nowhere.yaml: no such file"),
        ({"base": {**BASE, "recipe": {"lr": [0.1, 0.2]}}}, "a point is one cell, but a list gives several"),
    ],
)
def test_what_is_refused(keys: dict[str, Any], sentence: str, tmp_path: Path) -> None:
    with pytest.raises(UserError) as refused:
        load_study(write(tmp_path, **keys))
    assert sentence in str(refused.value)


def test_batches_that_the_ranks_cannot_make_up_are_counted(tmp_path: Path) -> None:
    study = load_study(write(tmp_path, space={"batch.batch_size_per_gpu": grid(2, 4, 8, 16)}))
    check_points(study, 1)
    with pytest.raises(UserError) as refused:
        check_points(study, 3)
    assert str(refused.value).startswith("4 of 4 points are impossible: batch.batch_size_per_gpu=2: batch: ")
    with pytest.raises(
        UserError, match=r"1 of 4 points are impossible: batch.batch_size_per_gpu=16: batch: "
    ):
        check_points(study, 2)


def test_a_study_is_shown_before_it_runs(tmp_path: Path) -> None:
    path = write(tmp_path, objectives=[{"metric": "esm_sigma"}])
    done = CliRunner().invoke(
        app, ["show", "--full", str(path), "recipe.epochs=7", "seeds=[5]", "name=other"]
    )
    assert done.exit_code == 0, done.output
    first, *documents = done.output.split("---\n")
    assert first == "# other: study with 2 points, 2 runs; esm_sigma (min)\n"
    shown = [yaml.safe_load(document) for document in documents]
    assert [run["batch"]["norm_batch_size"] for run in shown] == [2, 16]
    assert {(run["recipe"]["epochs"], run["seed"], run["experiment"]) for run in shown} == {(7, 5, "other")}


def test_an_objective_that_no_run_measures_is_refused(tmp_path: Path) -> None:
    space = {"model.norm": {"kind": "grid", "values": [{"kind": "gn", "num_groups": 8}]}}
    objectives = [{"metric": "top1_percent"}, {"metric": "esm_sigma"}]
    with pytest.raises(UserError, match="none of its runs measures esm_sigma: it takes BN layers"):
        load_study(write(tmp_path, space=space, objectives=objectives))


def test_a_scheduler_needs_values_before_the_end(tmp_path: Path) -> None:
    keys = {"objectives": [{"metric": "esm_sigma"}], "scheduler": {"kind": "asha"}}
    with pytest.raises(UserError, match="judges by esm_sigma, which no run measures before its last epoch"):
        load_study(write(tmp_path, **keys))
    load_study(write(tmp_path, **keys), ["measure.probe_every_epochs=1", "recipe.epochs=3"])


def test_overrides_reach_the_study_or_its_base(tmp_path: Path) -> None:
    overrides = ["trials.at_a_time=4", "budget.rank_hours=2.5", "recipe.epochs=7", "seeds=[5]"]
    study = load_study(write(tmp_path), overrides)
    assert study.spec.trials.at_a_time == 4
    assert study.spec.budget.rank_hours == 2.5
    assert {(run.num_epochs, run.seed) for run in study.runs} == {(7, 5)}
