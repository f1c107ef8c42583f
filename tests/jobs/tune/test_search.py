"""Which run comes next, and what Optuna learns, in a first driver and in a later one."""

from pathlib import Path
from typing import Any

import pytest
from ray.tune.search import Searcher

from jobs.cluster.clusters import LocalCluster
from jobs.tune.runners import TrialContext
from jobs.tune.search import EveryRun, Proposals
from jobs.tune.study_folder import StudyFolder
from jobs.tune.trial import is_result, run_of
from suite.errors import UserError
from suite.paths import RunPaths
from suite.record import RecordWriter, StopRequest, read_status, request_stop
from suite.studies.study import Study, load_study
from tests.helpers.study_files import write

SPACE = {
    "model.norm": {"kind": "grid", "values": [{"kind": "bn"}, {"kind": "gn", "num_groups": 8}]},
    "recipe.lr": {"kind": "loguniform", "low": 0.001, "high": 1.0},
    "recipe.momentum": {"kind": "uniform", "low": 0.5, "high": 0.99, "when": {"model.norm.kind": "bn"}},
}


def proposing(folder: Path, num_points: int = 4, **keys: Any) -> tuple[Study, StudyFolder, TrialContext]:
    search = {"kind": "optuna", "num_points": num_points}
    study = load_study(write(folder, **{"space": SPACE, "search": search, "seeds": [0, 1], **keys}))
    study_folder = StudyFolder(study, folder / "runs")
    with study_folder.held():
        study_folder.compare(accept=True)
        study_folder.write()
    cluster, is_resumed = LocalCluster(name="local"), study_folder.is_begun
    context = TrialContext(study, folder / "runs", cluster, 1, None, "driver", is_resumed)
    return study, study_folder, context


def finish(
    context: TrialContext, config: dict[str, Any], top1_percent: float, state: Any = "completed"
) -> None:
    run = run_of(context.study, config)
    with RecordWriter(run, context.output_dir / run.folder_name, durable=False) as record:
        record.measure("top1_percent", top1_percent, epoch=1, step=4, split="val")
        record.status(state)


def test_every_run_of_every_point_once(tmp_path: Path) -> None:
    study = load_study(write(tmp_path, seeds=[0, 1]))
    search = EveryRun(study)
    configs = [search.suggest(str(n)) for n in range(5)]
    assert configs.pop() == Searcher.FINISHED
    assert [run_of(study, config) for config in configs] == list(study.runs)
    assert [(config["point"], config["seed"]) for config in configs] == [
        ({"batch.norm_batch_size": 2}, 0),
        ({"batch.norm_batch_size": 2}, 1),
        ({"batch.norm_batch_size": 16}, 0),
        ({"batch.norm_batch_size": 16}, 1),
    ]


def test_optuna_learns_the_mean_over_seeds(tmp_path: Path) -> None:
    _, study_folder, context = proposing(tmp_path)
    search = Proposals(context, study_folder)
    first, second = search.suggest("a"), search.suggest("b")
    assert first["point"] == second["point"]
    assert (first["seed"], second["seed"]) == (0, 1)
    for config, value in ((first, 20.0), (second, 30.0)):
        finish(context, config, value)
    search.on_trial_complete("a")
    assert search._optuna.trials[0].values is None
    search.on_trial_complete("b")
    assert search._optuna.trials[0].values == [25.0]


def test_a_later_driver_knows_the_points_and_their_values(tmp_path: Path) -> None:
    _, study_folder, context = proposing(tmp_path)
    first = Proposals(context, study_folder)
    configs = [first.suggest(str(n)) for n in range(4)]
    for number, config in enumerate(configs[:3]):
        finish(context, config, 20.0 + 10 * number)
        first.on_trial_complete(str(number))
    _, study_folder, context = proposing(tmp_path)
    assert context.is_resumed
    later = Proposals(context, study_folder)
    assert [trial.params for trial in later._optuna.trials] == [
        trial.params for trial in first._optuna.trials
    ]
    assert [trial.values for trial in later._optuna.trials] == [[25.0], None]
    # All of them are trials again, to be read or run, and then come the new ones.
    again = [later.suggest(str(n)) for n in range(8)]
    assert again[:4] == configs
    assert len({repr(config["point"]) for config in again}) == 4
    assert later.suggest("end") == Searcher.FINISHED


def test_conditions_hold_in_proposals(tmp_path: Path) -> None:
    _, study_folder, context = proposing(tmp_path, num_points=12, seeds=[0])
    search = Proposals(context, study_folder)
    points = [search.suggest(str(n))["point"] for n in range(12)]
    kinds = {point["model.norm"]["kind"] for point in points}
    assert kinds == {"bn", "gn"}
    assert all(("recipe.momentum" in point) == (point["model.norm"]["kind"] == "bn") for point in points)


def test_a_space_that_is_used_up_ends_the_search(tmp_path: Path) -> None:
    space = {"batch.norm_batch_size": {"kind": "grid", "values": [2, 4]}}
    _, study_folder, context = proposing(tmp_path, num_points=9, space=space, seeds=[0])
    search = Proposals(context, study_folder)
    configs = [search.suggest(str(n)) for n in range(3)]
    assert configs[2] == Searcher.FINISHED
    assert Proposals(context, study_folder).is_over  # also for a driver that comes after
    assert {config["point"]["batch.norm_batch_size"] for config in configs[:2]} == {2, 4}


def test_points_of_a_space_that_has_changed_are_left_out(tmp_path: Path) -> None:
    space = {"batch.norm_batch_size": {"kind": "grid", "values": [2, 4, 16]}}
    _, study_folder, context = proposing(tmp_path, num_points=3, space=space, seeds=[0])
    first = Proposals(context, study_folder)
    assert len({first.suggest(str(n))["point"]["batch.norm_batch_size"] for n in range(3)}) == 3
    # The same places in the list mean other values now, and one is gone.
    space = {"batch.norm_batch_size": {"kind": "grid", "values": [16, 4]}}
    _, study_folder, context = proposing(tmp_path, num_points=3, space=space, seeds=[0])
    later = Proposals(context, study_folder)
    assert later.left_out == 2
    assert [run.batch.norm for run in later.runs] == [4]


def test_two_proposals_that_are_one_run_are_one_point(tmp_path: Path) -> None:
    space = {
        "model.norm": {"kind": "grid", "values": [{"kind": "gn", "num_groups": 8}]},
        "batch.norm_batch_size": {"kind": "grid", "values": [2, 4, 8, 16]},
    }
    keys = {"space": space, "seeds": [0], "objectives": [{"metric": "top1_percent"}]}
    _, study_folder, context = proposing(tmp_path, num_points=3, **keys)
    search = Proposals(context, study_folder)
    assert search.suggest("a")["point"]["model.norm"]["kind"] == "gn"
    assert search.suggest("b") == Searcher.FINISHED
    assert len(search.runs) == 1


def test_a_point_with_a_failed_seed_has_no_value(tmp_path: Path) -> None:
    _, study_folder, context = proposing(tmp_path)
    search = Proposals(context, study_folder)
    first, second = search.suggest("a"), search.suggest("b")
    finish(context, first, 90.0)
    finish(context, second, 90.0, "diverged")
    search.on_trial_complete("a")
    search.on_trial_complete("b")
    assert search._optuna.trials[0].state.name == "FAIL"


def test_corners_that_are_impossible_are_counted(tmp_path: Path) -> None:
    space = {"batch.norm_batch_size": {"kind": "choice", "values": [2, 3, 5, 16]}}
    with pytest.raises(UserError, match="2 of 4 points are impossible: batch"):
        proposing(tmp_path, space=space)


def test_only_tune_runs_a_study_whose_points_come_later(tmp_path: Path) -> None:
    study, _, _ = proposing(tmp_path)
    assert study.num_trials == 8
    with pytest.raises(UserError, match="only `shiftbench tune` runs it"):
        _ = study.runs


@pytest.mark.parametrize(
    ("state", "is_one"),
    [("completed", True), ("failed", True), ("diverged", True), ("cancelled", True), ("preempted", False)],
)
def test_what_is_a_result_already(tmp_path: Path, state: Any, is_one: bool) -> None:
    _, study_folder, context = proposing(tmp_path)
    config = Proposals(context, study_folder).suggest("a")
    _, _, resumed = proposing(tmp_path)
    finish(context, config, 20.0, state)
    run = run_of(context.study, config)
    assert is_result(run, resumed) == is_one
    # A study that has just begun knows of no failures: another one may have had them.
    assert is_result(run, context) == (state == "completed")


def test_what_a_scheduler_has_stopped_stays_so_while_the_study_has_one(tmp_path: Path) -> None:
    keys = {"scheduler": {"kind": "asha"}}
    _, study_folder, _ = proposing(tmp_path, **keys)
    _, _, context = proposing(tmp_path, **keys)
    config = Proposals(context, study_folder).suggest("a")
    run = run_of(context.study, config)
    finish(context, config, 20.0, "preempted")
    folder = context.output_dir / run.folder_name
    assert not is_result(run, context)
    # The run had ended before the driver, killed, could have its record say why.
    request_stop(RunPaths(folder), StopRequest("stopped", "asha after epoch 1 of 4", "asha", 1))
    assert is_result(run, context)
    assert read_status(RunPaths(folder)).state == "preempted"
