"""`shiftbench robust`: of an experiment's runs, of a checkpoint, and what it refuses."""

import json
from pathlib import Path

import pytest
import yaml
from typer.testing import CliRunner, Result

from jobs.cli import app
from suite.config import load_experiment
from suite.paths import RunPaths
from suite.record import RobustnessRecord, read_robustness

EXPERIMENT = {
    "model": {"arch": "small_resnet11", "norm": [{"kind": "bn"}, {"kind": "gn", "num_groups": 8}]},
    "data": {
        "name": "fashion-mnist-7k",
        "loader": "memory",
        "image_size": 14,
        "eval_resize": 14,
        "crop_area": [1, 1],
        "flip": False,
        "train_images": 64,
        "val_images": 30,
    },
    "batch": {"global_batch_size": 16},
    "recipe": {"epochs": 1},
    "measure": {"precise_bn_images": 0},
    "system": {"torch_threads": 1},
}
FEW = ("--corruptions", "contrast,brightness", "--max-images", "20")


def call(*arguments: object) -> Result:
    return CliRunner().invoke(app, [str(one) for one in arguments])


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory, fork_server: Path) -> Path:
    """A folder with an experiment of two runs, trained."""
    folder = tmp_path_factory.mktemp("robust")
    (folder / "small.yaml").write_text(yaml.safe_dump(EXPERIMENT))
    done = call("run", folder / "small.yaml", "--output-dir", folder / "runs")
    assert done.exit_code == 0, done.output
    return folder


def records(folder: Path) -> dict[str, RobustnessRecord]:
    found = {}
    for run in load_experiment(folder / "small.yaml").runs:
        record = read_robustness(RunPaths(folder / "runs" / run.folder_name))
        assert record is not None
        found[run.model.norm.label] = record
    return found


def test_the_runs_of_an_experiment_are_measured_once_and_what_is_new_is_added(trained: Path) -> None:
    of_runs = ("robust", trained / "small.yaml", "--output-dir", trained / "runs", *FEW)
    done = call(*of_runs, "--severities", "5")
    assert done.exit_code == 0, done.output
    assert done.stdout.count("measured  ") == 2
    assert "2 of 2 runs are measured; next: shiftbench report" in done.stdout
    first = records(trained)
    for record in first.values():
        assert [one.key[::2][:2] for one in record.shifts] == [
            ("clean", None),
            ("brightness", 5),
            ("contrast", 5),
        ]
        assert {one.num_images for one in record.shifts} == {20}
    assert first["BN"].shifts[2].esm_sigma_scaled[0] > first["BN"].shifts[0].esm_sigma_scaled[0]
    assert first["GN8"].shifts[1].layers == ()
    again = call(*of_runs, "--severities", "5")
    assert "measured  " not in again.stdout
    more = call(*of_runs, "--severities", "1,5", "--methods", "unmix", "--images-per-batch", "4", "--parts")
    assert more.exit_code == 0, more.output
    second = records(trained)
    assert second["GN8"].shifts[:3] == first["GN8"].shifts
    assert [one.parts is not None for one in second["BN"].shifts] == [True] * 5
    assert {one.method for one in second["BN"].test_time} == {"frozen", "unmix"}
    assert {one.shifts for one in second["BN"].test_time} == {
        (("clean", None),),
        (("contrast", 5),),
        (("brightness", 5),),
        (("brightness", 5), ("contrast", 5)),
    }  # fmt: skip
    assert second["GN8"].test_time == ()


def test_a_stream_that_a_method_cannot_do_with_fails_its_run_and_keeps_the_shifts(
    trained: Path, tmp_path: Path
) -> None:
    content = {
        **EXPERIMENT,
        "model": {"arch": "mlp10"},
        "data": {**EXPERIMENT["data"], "image_size": 28, "eval_resize": 28},
    }  # type: ignore[dict-item]
    (tmp_path / "mlp.yaml").write_text(yaml.safe_dump(content))
    assert call("run", tmp_path / "mlp.yaml", "--output-dir", tmp_path / "runs").exit_code == 0
    options = ("--severities", "5", "--methods", "prediction-time", "--images-per-batch", "1")
    done = call("robust", tmp_path / "mlp.yaml", "--output-dir", tmp_path / "runs", *FEW, *options)
    assert done.exit_code == 3
    assert "prediction-time: pairs.0.bn1 gets one value per channel (a single image)" in done.stdout
    (run,) = load_experiment(tmp_path / "mlp.yaml").runs
    record = read_robustness(RunPaths(tmp_path / "runs" / run.folder_name))
    assert record is not None
    assert len(record.shifts) == 3


def test_a_checkpoint_is_printed_and_as_json(trained: Path) -> None:
    run = load_experiment(trained / "small.yaml").runs[0]
    paths = RunPaths(trained / "runs" / run.folder_name)
    options = ("--checkpoint", paths.checkpoint(paths.checkpoint_steps()[-1]), *FEW, "--severities", "3")
    printed = call("robust", *options, "--methods", "all", "--images-per-batch", "8")
    assert printed.exit_code == 0, printed.output
    for word in ("contrast", "ESM σ", "lost (%)", "prediction-time", "unmix"):
        assert word in printed.stdout
    done = call("robust", *options, "--json")
    record = RobustnessRecord.model_validate(json.loads(done.stdout))
    assert [one.key[::2][:2] for one in record.shifts] == [
        ("clean", None),
        ("brightness", 3),
        ("contrast", 3),
    ]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--corruptions", "fog"), "give an experiment's YAML, --checkpoint, or --model and --data"),
        (("small.yaml", "--corruptions", "rain"), "corruption 'rain' is unknown; expected common, all"),
        (("small.yaml", "--corruptions", "saturate"), "'saturate' says nothing about grey images"),
        (("small.yaml", "--corruptions", "none"), "no shift is named: give --corruptions or --shift"),
        (("small.yaml", "--severities", "0"), "--severities: expected 1 to 5, got '0'"),
        (("small.yaml", "--severities", "6"), "--severities: expected 1 to 5, got '6'"),
        (("small.yaml", "--severities", ","), "--severities: no number given"),
        (("small.yaml", "--shift", "imagenet-r"), "--shift 'imagenet-r': expected NAME=FOLDER"),
        (("small.yaml", "--shift", "x=/nowhere"), "--shift x: /nowhere is not a folder"),
        (("small.yaml", "--methods", "tent"), "--methods: 'tent' is unknown; expected all, none, or frozen"),
        (("small.yaml", "--orders", ","), "--orders: no order given; expected mixed, by_label"),
        (("small.yaml", "--orders", "sorted"), "--orders: expected mixed or by_label, got 'sorted'"),
        (
            ("small.yaml", "--images-per-batch", "0"),
            "--images-per-batch: expected whole numbers from 1, got '0'",
        ),
        (("small.yaml", "--arch", "resnet18"), "--arch is for a single network"),
        (("small.yaml", "--json"), "--json is for a single network"),
        (("small.yaml", "--output-dir", "elsewhere"), "none of the 2 runs of small.yaml has completed there"),
    ],
)
def test_what_makes_no_sense_is_refused_in_a_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: tuple[str, ...], message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "small.yaml").write_text(yaml.safe_dump(EXPERIMENT))
    done = CliRunner().invoke(app, ["robust", *arguments])
    assert message in str(done.exception)
    assert not list(tmp_path.rglob("robustness.json"))
