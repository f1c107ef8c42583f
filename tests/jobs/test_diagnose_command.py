"""`shiftbench diagnose`: what it prints and writes of a network, by name and of a run."""

import json
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from torch import nn

from jobs.commands.diagnose import epoch_like
from suite.data import folder_loader
from suite.experiment import DataSpec
from tests.helpers.command_line import shiftbench
from tests.helpers.runs import tiny_run
from tests.helpers.training_processes import train

CLASSES, IMAGES = ("dark", "grey", "light"), 24


def own_network() -> nn.Module:
    """Found by its import path, as a user's own."""
    torch.manual_seed(0)
    layers = (
        nn.Conv2d(3, 8, 3),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        nn.Conv2d(8, 8, 3),
        nn.BatchNorm2d(8),
        nn.ReLU(),
    )
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 3))


def without_bn() -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(3 * 16 * 16, 3))


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Noise of three brightnesses."""
    root, random = tmp_path_factory.mktemp("data") / "photos", np.random.default_rng(0)
    for split in ("train", "val"):
        for label, name in enumerate(CLASSES):
            (root / split / name).mkdir(parents=True)
            for number in range(IMAGES):
                pixels = np.clip(random.normal(70 + 60 * label, 40, (16, 16, 3)), 0, 255)
                Image.fromarray(pixels.astype(np.uint8)).save(root / split / name / f"{number}.png")
    return root


@pytest.fixture(scope="module")
def trained(photos: Path) -> nn.Module:
    model, data = own_network(), DataSpec(name="photos", path=str(photos), num_classes=3, image_size=16)
    options = {"images_per_batch": 12, "device": torch.device("cpu"), "shuffle_seed": 1}
    batches = list(folder_loader(data, "train", **options))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
    for _ in range(20):
        for batch in batches:
            optimizer.zero_grad()
            F.cross_entropy(model(batch.images_NCHW), batch.labels_N).backward()
            optimizer.step()
    return model


def diagnose(photos: Path, tmp_path: Path, *options: object) -> tuple[int, str, str]:
    fixed = ("--image-size", 16, "--images-per-batch", 12, "--out", tmp_path / "page")
    done = shiftbench("diagnose", "--data", photos, *fixed, *options, COLUMNS="160")
    return done.returncode, done.stdout, done.stderr


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = "from tests.jobs.test_diagnose_command import own_network, without_bn"
    (tmp_path / "my_networks.py").write_text(source)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [entry for entry in sys.path if entry])
    monkeypatch.delitem(sys.modules, "my_networks", raising=False)


@pytest.mark.usefixtures("own")
def test_a_checkpoint_without_its_estimates_is_found_out(
    photos: Path, tmp_path: Path, trained: nn.Module
) -> None:
    torch.save(trained.state_dict(), tmp_path / "whole.pt")
    weights = {name: v for name, v in trained.state_dict().items() if "running" not in name}
    fresh = {name: v for name, v in own_network().state_dict().items() if name not in weights}
    counts = {name: torch.tensor(0) for name in weights if "num_batches" in name}
    torch.save({**weights, **fresh, **counts}, tmp_path / "without.pt")
    network = ("--model", "my_networks:own_network", "--checkpoint")
    code, out, err = diagnose(photos, tmp_path, *network, tmp_path / "without.pt")
    assert (code, err) == (0, "")
    flat = " ".join(out.split())
    assert "Diagnosis of my_networks:own_network BN on photos: 72 training and 72 evaluation images" in flat
    assert "estimates never updated: No training batch has updated the estimates: all 2 BN layers" in flat
    assert "The cause: estimates never updated. Let BN layers run in training mode" in flat
    page = (tmp_path / "page" / "index.html").read_text()
    assert "The cause: estimates never updated." in page
    assert f"page: {tmp_path / 'page' / 'index.html'}" in out
    code, out, _ = diagnose(photos, tmp_path, *network, tmp_path / "whole.pt", "--json")
    plain = json.loads(out)
    assert code == 0
    assert plain["is_healthy"]
    assert plain["findings"] == []
    assert plain["verdict"][0] == "A clean bill."
    assert (plain["images_per_batch"], plain["num_layers"], plain["data"]) == (12, 2, "photos")
    accuracies = {(one["images"], one["statistics"]): one["top1_percent"] for one in plain["accuracies"]}
    assert accuracies["evaluation", "estimates"] > 80
    assert "A clean bill." in (tmp_path / "page" / "index.html").read_text()


@pytest.mark.usefixtures("own")
def test_evidence_that_is_not_finite_is_null(photos: Path, tmp_path: Path) -> None:
    """Batches of copies of one image do not vary at all: their values count as infinitely many."""
    alike = tmp_path / "alike"
    shutil.copytree(photos, alike)
    (one, *others) = sorted((alike / "train").glob("*/*.png"))
    for other in others:
        shutil.copy(one, other)
    options = ("--model", "my_networks:own_network", "--images-per-batch", 4, "--json")
    code, out, err = diagnose(alike, tmp_path, *options)
    assert (code, err) == (0, "")
    (evidence,) = (f["evidence"] for f in json.loads(out)["findings"] if f["cause"] == "few_samples")
    assert evidence["effective"] is None
    assert evidence["samples"] == 4


@pytest.mark.usefixtures("own")
@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            ("--model", "my_networks:without_bn"),
            "diagnose: Sequential has no BN layer, so nothing",
        ),
        (
            ("--model", "my_networks:own_network", "--evaluation-images", "1"),
            "diagnose: there are 1 evaluation images in 1 batches; expected 50 or more, in 4 or more batches",
        ),
        (
            ("--model", "my_networks:own_network", "--num-classes", "7"),
            "diagnose: accuracy needs a network of the data's 3 classes, not 7",
        ),
        (("--arch", "resnet18", "--model", "timm:resnet18"), "diagnose: --model and --arch both name"),
        (("--model", "timm:resnet19"), "timm has no network for classification named 'resnet19'"),
    ],
)
def test_bad_input_is_one_line_and_exit_code_2(
    photos: Path, tmp_path: Path, options: tuple[object, ...], message: str
) -> None:
    code, out, err = diagnose(photos, tmp_path, *options)
    assert (code, out) == (2, "")
    assert err.startswith(f"error: {message}") or message in err
    assert err.count("\n") == 1
    assert not (tmp_path / "page").exists()


def test_without_data_or_a_network() -> None:
    done = shiftbench("diagnose")
    assert done.returncode == 2
    wanted = "diagnose: give --arch and --data, --model and --data, or a run's --checkpoint"
    assert done.stderr.strip() == f"error: {wanted}"


def test_a_page_that_cannot_be_written(photos: Path, tmp_path: Path, own: None) -> None:
    (tmp_path / "page").write_text("a file")
    code, _, err = diagnose(photos, tmp_path, "--model", "my_networks:own_network")
    assert code == 2
    assert "the page cannot be written" in err


def test_a_checkpoint_of_a_run(tmp_path: Path) -> None:
    """With its network, its own training images, and its norm batch."""
    run = tiny_run(data={"val_images": 60})
    assert train(run, tmp_path / "run") == [0]
    (checkpoint, *_) = sorted((tmp_path / "run" / "checkpoints").glob("*.pt"))
    done = shiftbench("diagnose", "--checkpoint", checkpoint, "--out", tmp_path / "page", "--json")
    assert done.returncode == 0, done.stderr
    plain = json.loads(done.stdout)
    assert plain["network"] == "small_resnet11 XBN-P2-GN8"
    assert (plain["num_training_images"], plain["num_evaluation_images"]) == (96, 60)
    assert plain["images_per_batch"] == 4
    assert plain["weights"] is not None
    assert (tmp_path / "page" / "index.html").exists()


@pytest.mark.parametrize(
    ("size", "most", "per_batch", "drop_last", "count"),
    [
        (1000, 256, 64, False, 256 + 1000 % 64),  # four batches, and a last one as an epoch's
        (1000, 256, 64, True, 256),
        (1000, 2048, 64, False, 1000),
        (1000, 2048, 64, True, 960),
        (1024, 256, 64, False, 256),
        (40, 2048, 64, False, 40),
        (100, 100, 64, False, 100),
    ],
)
def test_the_last_batch_is_as_that_of_an_epoch(
    size: int, most: int, per_batch: int, drop_last: bool, count: int
) -> None:
    assert epoch_like(size, most, per_batch, drop_last) == count
