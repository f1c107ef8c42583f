"""`shiftbench probe` and `diagnose` on the checkpoint of a detection run."""

import json
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

from jobs.cli import app
from suite.detection.network import build_detector
from suite.detection.parts import means_by_part
from suite.errors import UserError
from suite.paths import RunPaths
from suite.record import RecordWriter
from tests.helpers.small_detectors import boxes_folder, small_run


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of a detector with frozen norms, as training leaves it."""
    root = tmp_path_factory.mktemp("detector")
    run = small_run(boxes_folder(root / "boxes"), task={"batch_norm": "frozen"})
    with RecordWriter(run, root / run.folder_name) as record:
        record.status("completed")
    paths = RunPaths(root / run.folder_name)
    paths.checkpoints.mkdir()
    torch.manual_seed(0)
    torch.save({"model": build_detector(run).state_dict(), "step": 4}, paths.checkpoint(4))
    return paths.checkpoint(4)


def probe_of(checkpoint: Path, *options: object) -> str:
    arguments = ["probe", "--checkpoint", checkpoint, "--images-per-batch", 2, *options]
    done = CliRunner().invoke(app, [str(a) for a in arguments], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return done.stdout


def test_frozen_layers_and_remedies_of_a_detector(checkpoint: Path) -> None:
    """The networks' own statistics are 0 and 1, so all remedies with statistics of images shift less."""
    found = json.loads(probe_of(checkpoint, "--max-images", 4, "--attribute", "--remedies", "--json"))
    assert found["num_images"] == 4
    assert len(found["layers"]) == len(found["attribution"]) / 2 == 13
    assert all(layer["layer"].startswith("backbone.body.") for layer in found["layers"])
    remedies = {row["remedy"]: row for row in found["remedies"]}
    assert {"frozen", "PreciseBN", "prediction-time BN"} <= remedies.keys()
    assert all(0 <= row["ap_percent"] <= 100 for row in remedies.values())
    assert remedies["PreciseBN"]["esm_sigma_scaled"] < remedies["frozen"]["esm_sigma_scaled"] / 2
    # Constants have no first values of an average that could be corrected.
    corrected = remedies["bias-corrected estimates"]
    assert corrected["esm_mu_scaled"] == remedies["frozen"]["esm_mu_scaled"]


def test_the_printed_result_names_ap_and_the_parts(checkpoint: Path) -> None:
    text = probe_of(checkpoint, "--max-images", 4, "--remedies")
    assert "AP (%)" in text
    assert "top-1" not in text
    assert "by part: backbone" in text
    assert "shorter side 32 pixels, longer at most 64" in text


def test_frozen_constants_of_a_detector_are_diagnosed(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The networks' own statistics are 0 and 1, and no statistics make this network find anything."""
    monkeypatch.setattr("suite.shift.diagnosis.batches.MIN_IMAGES", 12)
    options = ["diagnose", "--checkpoint", checkpoint, "--images-per-batch", 3, "--out", tmp_path, "--json"]
    done = CliRunner().invoke(app, [str(a) for a in options], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    found = json.loads(done.stdout)
    assert (found["num_training_images"], found["num_evaluation_images"]) == (12, 12)
    assert found["num_layers"] == 13
    (finding,) = (one for one in found["findings"] if one["cause"] == "frozen")
    assert all(layer.startswith("backbone.body.") for layer in finding["layers"])
    assert "they are constants" in finding["sentence"]
    assert "Top-1 of a detector is the share of images" in (tmp_path / "index.html").read_text()


def test_the_parts_of_a_detector_by_hand() -> None:
    of_parts = [("backbone.body.bn1", 1.0), ("backbone.fpn.a", 4.0), ("roi_heads.x", 2.0), ("rpn.y", 6.0)]
    assert means_by_part([*of_parts, ("bn1", 9.0)]) == {
        "backbone": (1, 1.0),
        "FPN": (1, 4.0),
        "heads": (2, 4.0),
    }


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (
            ["probe", "--origins"],
            "origins is not measured of detectors; take --attribute or --remedies",
        ),
        (["probe", "--int8"], "probe: deployment is not measured of detectors"),
        (["probe", "--image-size", "64"], "--image-size: the checkpoint's detection run decides that"),
        (["probe", "--data", "imagenet"], "--data: the checkpoint's detection run decides that"),
        (
            ["robust"],
            "robust: .*4.pt is of a detection run; detectors are for `probe` and `diagnose`",
        ),
    ],
)
def test_what_is_not_measured_of_detectors_is_refused(
    checkpoint: Path, arguments: list[str], sentence: str
) -> None:
    options = [*arguments, "--checkpoint", str(checkpoint)]
    with pytest.raises(UserError, match=sentence):
        CliRunner().invoke(app, options, catch_exceptions=False, standalone_mode=False)
