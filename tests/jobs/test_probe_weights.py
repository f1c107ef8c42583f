"""`shiftbench probe` and `diagnose` on averaged, folded and quantised networks."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from typer.testing import CliRunner

from jobs.cli import app
from suite.errors import UserError
from suite.models import build_model, named_model
from suite.record import RecordWriter
from suite.shift import interpolated, soup
from tests.helpers.runs import make_run

ARCH = ("--model", "torchvision:resnet18")
DATA = ("--data", "fashion-mnist-7k", "--image-size", "32", "--images-per-batch", "32")


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Three checkpoints with different weights and estimates; the third keeps both averages."""
    folder, paths = tmp_path_factory.mktemp("checkpoints"), []
    for seed in range(3):
        torch.manual_seed(seed)
        model = named_model("torchvision:resnet18", 10)
        model.train()(torch.randn(16, 3, 32, 32))
        content: dict[str, Any] = {"model": model.state_dict()}
        if seed == 2:
            content["ema"] = {f"module.{name}": value for name, value in model.state_dict().items()}
            content["swa"] = content["ema"]
        paths.append(folder / f"{seed}.pt")
        torch.save(content, paths[-1])
    return paths


def state(path: Path) -> dict[str, Tensor]:
    found: dict[str, Tensor] = torch.load(path, weights_only=True)["model"]
    return found


@pytest.fixture
def few_training_images(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("jobs.commands.probe.TRAINING_IMAGES", 64)


def probed(*options: object) -> str:
    return run("probe", "--max-images", 64, *options)


def run(command: str, *options: object) -> str:
    arguments = [command, *ARCH, *DATA, *options]
    done = CliRunner().invoke(app, [str(a) for a in arguments], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return done.stdout


@pytest.mark.usefixtures("few_training_images")
@pytest.mark.parametrize("alpha", [None, 0.25])
def test_a_soup_is_measured_as_the_network_of_its_weights(
    checkpoints: list[Path], tmp_path: Path, alpha: float | None
) -> None:
    paths = checkpoints if alpha is None else checkpoints[:2]
    states = {str(path): state(path) for path in paths}
    torch.save(soup(states) if alpha is None else interpolated(states, alpha), tmp_path / "mean.pt")
    added = [part for path in paths[1:] for part in ("--soup", path)]
    added += ["--weights", "raw"] if alpha is None else ["--alpha", alpha]
    found = json.loads(probed("--checkpoint", paths[0], *added, "--json"))
    plain = json.loads(probed("--checkpoint", tmp_path / "mean.pt", "--re-estimate", "--json"))
    assert found["layers"] == plain["layers"]
    assert found["re_estimation"] == plain["re_estimation"]
    own, precise = found["re_estimation"]
    assert (own["statistics"], precise["statistics"]) == ("its own", "re-estimated")
    assert own["esm_mu_scaled"] > precise["esm_mu_scaled"]
    assert found["num_training_images"] == 64
    word = "mean of 3 checkpoints" if alpha is None else "0.75 of"
    assert found["weights"].startswith(word)
    assert all(str(path) in found["weights"] for path in paths)


def test_statistics_of_a_run_are_re_estimated_on_the_images_that_it_was_trained_on(tmp_path: Path) -> None:
    """There are 64 of them, fewer than the command would take."""
    run = make_run(measure={"precise_bn_images": 0})
    with RecordWriter(run, tmp_path):
        pass
    checkpoint = tmp_path / "checkpoints" / "best.pt"
    checkpoint.parent.mkdir()
    torch.save({"model": build_model(run.model).state_dict()}, checkpoint)
    done = CliRunner().invoke(
        app, ["probe", "--checkpoint", str(checkpoint), "--re-estimate", "--json"], catch_exceptions=False
    )
    found = json.loads(done.stdout)
    assert (found["num_images"], found["num_training_images"]) == (41, 64)


@pytest.mark.usefixtures("few_training_images")
def test_a_folded_network_in_int8(checkpoints: list[Path], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    options = ("--checkpoint", checkpoints[0], "--int8")
    found = json.loads(probed(*options, "--json"))["deployment"]
    forms = [(row["network"], row["statistics"]) for row in found["forms"]]
    assert forms == [(f, s) for s in ("its own", "re-estimated") for f in ("float", "folded", "int8")]
    assert (len(found["folded"]), found["left"]) == (20, {})
    shown = probed(*options[:2], "--folded")
    assert "As deployed" in shown
    assert "20 norms folded, 0 left" in shown
    assert "int8" not in shown


def test_the_weights_of_a_checkpoint_with_averages(checkpoints: list[Path]) -> None:
    cases = (((), "'ema' (the moving average)"), (("--weights", "swa"), "'swa' (the stochastic average)"))
    for options, taken in cases:
        found = json.loads(probed("--checkpoint", checkpoints[2], *options, "--json"))
        assert found["weights"].startswith(taken)
    with pytest.raises(UserError, match=r"0\.pt: holds no stochastic average of weights \(swa, swa_model"):
        probed("--checkpoint", checkpoints[0], "--weights", "swa")


def test_diagnose_takes_a_soup(checkpoints: list[Path], tmp_path: Path) -> None:
    sizes = ("--training-images", 128, "--evaluation-images", 128, "--out", tmp_path)
    found = json.loads(
        run("diagnose", *sizes, "--checkpoint", checkpoints[0], "--soup", checkpoints[1], "--json")
    )
    assert found["weights"].startswith("mean of 2 checkpoints")
    assert "averaged" in {finding["cause"] for finding in found["findings"]}


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (("--soup", "1"), "--soup and --alpha average checkpoints: give --checkpoint too"),
        (("--alpha", "0.5"), "--soup and --alpha average checkpoints: give --checkpoint too"),
        (("--checkpoint", "0", "--alpha", "0.5"), "lies between two checkpoints: give one --soup, not 0"),
        (("--checkpoint", "0", "--soup", "1", "--soup", "2", "--alpha", "0.5"), "give one --soup, not 2"),
        (("--checkpoint", "0", "--soup", "0"), "a checkpoint is given twice"),
        (("--checkpoint", "0", "--soup", "none"), "none.pt: no such checkpoint"),
        (
            ("--checkpoint", "0", "--soup", "other"),
            r"other\.pt: layer1\.0\.conv2\.weight has the shape \(64, 64, 1, 1\), and \(64, 64, 3, 3\) in "
            r".*0\.pt: they do not average",
        ),
    ],
)
def test_averages_that_cannot_be_are_refused(
    checkpoints: list[Path], options: tuple[str, ...], sentence: str
) -> None:
    folder = checkpoints[0].parent
    other = state(checkpoints[1])
    other["layer1.0.conv2.weight"] = other["layer1.0.conv2.weight"][:, :, :1, :1]
    torch.save(other, folder / "other.pt")
    named = [f"{folder / one}.pt" if one in ("0", "1", "2", "none", "other") else one for one in options]
    with pytest.raises(UserError, match=sentence):
        probed(*named)
