"""What `shiftbench probe` prints of networks and images, of its own and of others."""

import json
import math
import shutil
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
import torchvision
from PIL import Image
from PIL.Image import Resampling
from torch import nn
from typer.testing import CliRunner

from jobs.cli import app
from jobs.commands.probe_tables import by_role, rows
from suite.errors import UserError
from suite.experiment import DataSpec


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three classes of four images each to train and to validate; a class is a brightness."""
    root = tmp_path_factory.mktemp("photos")
    for split in ("train", "val"):
        for label, brightness in enumerate((30, 120, 220)):
            folder = root / split / f"class-{label}"
            folder.mkdir(parents=True)
            for i in range(4):
                Image.new("RGB", (40, 36), (brightness + i, brightness, brightness)).save(folder / f"{i}.jpg")
    return root


def own_network(num_classes: int = 3) -> nn.Module:
    """Found by its import path, as a user's own."""
    torch.manual_seed(0)
    layers = (nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 4, 3), nn.BatchNorm2d(4))
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, num_classes))


def probe_of(photos: Path, *options: object) -> str:
    arguments = ["probe", "--data", photos, "--image-size", 32, "--images-per-batch", 4, *options]
    done = CliRunner().invoke(app, [str(a) for a in arguments], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return done.stdout


def here(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, source: str) -> None:
    """A module of the user's in the current directory."""
    (tmp_path / "my_networks.py").write_text(source)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [entry for entry in sys.path if entry])  # the command adds to this copy
    monkeypatch.delitem(sys.modules, "my_networks", raising=False)


def test_all_results_of_a_users_network_as_json(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    here(monkeypatch, tmp_path, "from tests.jobs.test_probe_command import own_network")
    options = ("--attribute", "--origins", "--remedies", "--perturb", "--json")
    plain = json.loads(probe_of(photos, "--model", "my_networks:own_network", *options))
    assert (plain["num_images"], [layer["layer"] for layer in plain["layers"]]) == (12, ["1", "4"])
    assert set(plain["notes"]) == {"1", "4"}  # never trained
    sigma = [row for row in plain["attribution"] if row["statistic"] == "sigma"]
    for row, layer in zip(sigma, plain["layers"], strict=True):
        assert row["own"] + row["inherited"] == pytest.approx(layer["esm_sigma_scaled"])
    origins = plain["origins"]
    assert [row["layer"] for row in origins["layers"]] == ["1", "4"]
    most = max(origins["layers"], key=lambda row: row["esm_vanished"])
    assert origins["starts"] == most["layer"]
    assert origins["top1_percent"] == plain["remedies"][0]["top1_percent"]
    assert plain["num_training_images"] == 12
    assert [row["remedy"] for row in plain["remedies"]][:3] == [
        "frozen",
        "bias-corrected estimates",
        "PreciseBN",
    ]
    clean = [row["top1_percent"] for row in plain["perturbation"] if row["delta"] == 0]
    assert clean == [plain["remedies"][0]["top1_percent"]] * 5
    assert plain["remedies"][0]["esm_sigma"] == pytest.approx(
        sum(layer["esm_sigma"] for layer in plain["layers"]) / 2
    )


def test_a_function_gets_the_classes_if_it_asks_for_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from suite.models import named_model

    source = "from tests.jobs.test_probe_command import own_network\ndef fixed():\n    return own_network(9)"
    here(monkeypatch, tmp_path, source)
    assert named_model("my_networks:own_network", 5)[-1].out_features == 5
    assert named_model("my_networks:own_network")[-1].out_features == 3
    assert named_model("my_networks:fixed", 5)[-1].out_features == 9


def test_accuracy_on_other_classes_than_the_networks_is_refused(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = "from tests.jobs.test_probe_command import own_network\ndef fixed():\n    return own_network(9)"
    here(monkeypatch, tmp_path, source)
    with pytest.raises(UserError, match=r"outputs of shape \(9,\), and the data 3 classes"):
        probe_of(photos, "--model", "my_networks:fixed", "--remedies")
    assert "Estimation shift" in probe_of(photos, "--model", "my_networks:fixed")


def test_everything_as_tables(photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    here(monkeypatch, tmp_path, "from tests.jobs.test_probe_command import own_network as net")
    monkeypatch.setenv("COLUMNS", "160")
    options = ("--attribute", "--origins", "--remedies", "--perturb")
    shown = " ".join(probe_of(photos, "--model", "my_networks:net", *options).split())  # titles are wrapped
    for expected in (
        "Estimation shift of my_networks:net BN on",
        "note: 2 layers (1 …): its estimates are the initial 0 and 1",
        "signed shares that add up to the scaled ESM",
        "Which layer starts it",
        "it starts in ",
        "Of a mean ESM of",
        "12 images; 12 training images, not augmented",
        "prediction-time BN",
        "Noise on the",
    ):
        assert expected in shown


@pytest.mark.parametrize("name", ["torchvision:resnet18", "timm:resnet18"])
def test_a_librarys_network_with_the_classes_of_the_folder_and_a_checkpoint(
    photos: Path, tmp_path: Path, name: str
) -> None:
    from suite.models import named_model

    model = named_model(name, 3)
    model.bn1.running_mean.fill_(2.0)
    model.bn1.num_batches_tracked.fill_(1)
    torch.save({"state_dict": {f"module.{n}": v for n, v in model.state_dict().items()}}, tmp_path / "w.pt")
    plain = json.loads(probe_of(photos, "--model", name, "--checkpoint", tmp_path / "w.pt", "--json"))
    assert len(plain["layers"]) == 20
    assert "bn1" not in plain["notes"]
    xbn = json.loads(probe_of(photos, "--model", name, "--norm", "{kind: xbn}", "--json"))
    assert len(xbn["layers"]) == 20 - 9  # the stem and one norm in each of eight blocks


def test_what_is_replaced_is_told_by_role() -> None:
    from suite.models import chosen_sites

    with torch.device("meta"):
        network = torchvision.models.resnet50()
    # Of its 16 bottlenecks.
    assert by_role(chosen_sites(network, {"kind": "xbn"})) == " (replaced: 16 p2, 1 stem)"
    assert by_role(chosen_sites(network, "bn")) == ""


def test_a_network_without_bn_is_reported_in_a_sentence(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = "from torch import nn\nnet = nn.Sequential(nn.Flatten(), nn.Linear(3072, 3))"
    here(monkeypatch, tmp_path, source)
    assert "there is no estimation shift" in probe_of(photos, "--model", "my_networks:net")
    own = "from tests.shift.test_any_network import Net, OwnNorm\ndef net():\n    "
    here(
        monkeypatch,
        tmp_path,
        own + "return Net(lambda channels: OwnNorm(channels, 'moving_mean', 'moving_var'))",
    )
    shown = " ".join(probe_of(photos, "--model", "my_networks:net").split())
    assert "there is no estimation shift" not in shown
    assert "left out: 2 layers (bn1 …): its moving_mean and moving_var look like" in shown
    here(monkeypatch, tmp_path, source)
    with pytest.raises(UserError, match="attribute: Sequential has no BN layer"):
        probe_of(photos, "--model", "my_networks:net", "--attribute")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            ["--model", "resnet18"],
            "--model: expected torchvision:NAME, timm:NAME or module:function, got 'resnet18'",
        ),
        (["--model", "torchvision:resnet19"], "no network .* named 'resnet19'; did you mean resnet18"),
        (["--model", "timm:resnet19"], "timm has no network .* named 'resnet19'"),
        (["--model", "torchvision:fcn_resnet50"], "torchvision has no network for classification"),
        (["--model", "no_such_module:net"], "no module 'no_such_module', neither installed nor below"),
        (["--model", "my_networks:nothing"], "my_networks .* has no 'nothing'"),
        (["--model", "my_networks:number"], "my_networks:number gives int, not a torch.nn.Module"),
        (
            ["--model", "torchvision:resnet18", "--arch", "resnet18"],
            "--model and --arch both name the network",
        ),
        (
            ["--model", "torchvision:resnet18", "--num-classes", 1000, "--remedies"],
            "accuracy needs a network of the data's 3 classes, not 1000",
        ),
        (["--model", "torchvision:resnet18", "--norm", "{kind: xbm}"], "unknown kind 'xbm'; valid: bn, xbn"),
    ],
)
def test_unknown_names_are_refused(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, options: list[object], message: str
) -> None:
    here(monkeypatch, tmp_path, "number = 3")
    with pytest.raises(UserError, match=message):
        probe_of(photos, *options)


def test_a_module_that_misses_a_package_shows_its_own_traceback(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    here(monkeypatch, tmp_path, "import a_package_that_is_not_there")
    with pytest.raises(ModuleNotFoundError, match="a_package_that_is_not_there"):
        probe_of(photos, "--model", "my_networks:net")


def test_a_folder_that_is_no_data_set(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"val: 0 class folders; --data is a folder of val/CLASS/\*.jpg"):
        probe_of(tmp_path, "--model", "torchvision:resnet18")
    with pytest.raises(UserError, match="--data is missing"):
        CliRunner().invoke(app, ["probe", "--model", "torchvision:resnet18"], catch_exceptions=False)


@pytest.mark.parametrize("name", ["synthetic", "mnist", "imagenet"])
def test_a_folder_is_a_folder_whatever_it_is_called(photos: Path, tmp_path: Path, name: str) -> None:
    shutil.copytree(photos, tmp_path / name)
    (tmp_path / "pictures").symlink_to(photos)
    model = ("--model", "torchvision:resnet18", "--json")
    named, plain = (json.loads(probe_of(tmp_path / folder, *model)) for folder in (name, "pictures"))
    assert named["layers"] == plain["layers"]
    assert named["num_images"] == 12


def test_a_generated_data_set_takes_no_path() -> None:
    with pytest.raises(ValueError, match="path: synthetic is made of random numbers and reads no folder"):
        DataSpec(name="synthetic", path="/data/synthetic")


def normalised_by_hand(photos: Path, mean: float, std: float) -> torch.Tensor:
    """The images of val/ as the network gets them; each is of one colour, so that no size matters."""
    colours = [Image.open(path).convert("RGB").getpixel((20, 18)) for path in photos.glob("val/*/*.jpg")]
    return (torch.tensor(colours, dtype=torch.float64) / 255 - mean) / std


@pytest.mark.parametrize(
    ("stated", "options", "mean", "std", "source"),
    [
        ((0.5, 0.25), (), 0.5, 0.25, "as the network states"),
        ((0.5, 0.25), ("--mean", 0.1, 0.1, 0.1, "--std", 1, 1, 1), 0.1, 1.0, "as the options say"),
        (None, ("--mean", 0.0, 0.0, 0.0, "--std", 0.5, 0.5, 0.5), 0.0, 0.5, "as the options say"),
    ],
)
def test_a_network_gets_its_own_mean_and_std(
    photos: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    stated: tuple[float, float] | None,
    options: tuple[Any, ...],
    mean: float,
    std: float,
    source: str,
) -> None:
    lines = ["from torch import nn", "net = nn.Sequential(nn.BatchNorm2d(3))"]
    if stated is not None:
        values = ", ".join(f"{key!r}: ({value},) * 3" for key, value in zip(("mean", "std"), stated))  # noqa: B905
        lines.append(f"net.pretrained_cfg = {{{values}, 'input_size': (3, 32, 32), 'crop_pct': 1.0}}")
    here(monkeypatch, tmp_path, "\n".join(lines))
    plain = json.loads(probe_of(photos, "--model", "my_networks:net", "--json", *options))
    inputs = normalised_by_hand(photos, mean, std)
    (layer,) = plain["layers"]
    # The photographs are JPEGs of one colour; decoders may differ by one of 255 levels.
    assert layer["esm_mu"] == pytest.approx(float(inputs.mean(dim=0).norm()), abs=0.02 / std)
    assert source in plain["input"]


def test_a_timm_network_states_its_size_and_normalisation() -> None:
    from jobs.commands.probe_input import preprocessing_of
    from suite.models import named_model

    model = named_model("timm:mobilenetv3_small_050", 3)
    model.pretrained_cfg |= {"mean": (0.5, 0.5, 0.5), "std": (0.5, 0.5, 0.5), "input_size": (3, 160, 160)}
    given = preprocessing_of(model, None, None)
    assert (given.mean, given.std, given.image_size) == ((0.5,) * 3, (0.5,) * 3, 160)
    assert (given.crop_share, given.interpolation) == (model.pretrained_cfg["crop_pct"], "bicubic")
    assert not given.is_imagenets
    with pytest.raises(UserError, match="--std: expected positive numbers, got 0"):
        preprocessing_of(model, None, (0.0, 1.0, 1.0))


@pytest.mark.parametrize(
    ("stated", "options", "size", "resized", "kernel"),
    [
        (
            "'input_size': (3, 24, 24), 'crop_pct': 0.9, 'interpolation': 'bicubic'",
            (),
            24,
            26,
            Resampling.BICUBIC,
        ),
        ("'crop_pct': 0.8, 'interpolation': 'bicubic'", ("--image-size", 20), 20, 25, Resampling.BICUBIC),
        ("'crop_pct': 0.8, 'interpolation': 'bilinear'", ("--image-size", 20), 20, 25, Resampling.BILINEAR),
    ],
)
def test_a_network_gets_images_resized_as_it_states(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    stated: str,
    options: tuple[Any, ...],
    size: int,
    resized: int,
    kernel: Resampling,
) -> None:
    """As timm's evaluation does it: the shorter side to ⌊size / crop_pct⌋, then the central square."""
    noise, pixels = np.random.default_rng(0), []
    for label in ("a", "b"):
        (tmp_path / "data" / "val" / label).mkdir(parents=True)
        image = Image.fromarray(noise.integers(0, 256, (60, 60, 3), dtype=np.uint8))
        image.save(tmp_path / "data" / "val" / label / "0.png")
        first = (resized - size) // 2
        small = image.resize((resized, resized), kernel).crop((first, first, first + size, first + size))
        pixels.append(np.asarray(small, dtype=np.float64) / 255)
    here(
        monkeypatch,
        tmp_path,
        "from torch import nn\nnet = nn.Sequential(nn.BatchNorm2d(3))\n"
        f"net.pretrained_cfg = {{'mean': (0, 0, 0), 'std': (1, 1, 1), {stated}}}",
    )
    arguments = ["probe", "--data", tmp_path / "data", "--model", "my_networks:net", "--json", *options]
    done = CliRunner().invoke(app, [str(a) for a in arguments], catch_exceptions=False)
    plain = json.loads(done.stdout)
    (layer,) = plain["layers"]
    # The deviation of noise tells a bicubic kernel from a bilinear one, which smooths more: 0.13 and 0.10.
    sigma_C = np.stack(pixels).std(axis=(0, 1, 2))
    assert layer["esm_sigma"] == pytest.approx(float(np.linalg.norm(1 - sigma_C)), abs=0.003)
    assert f"images of {size} pixels out of {resized}, {kernel.name.lower()}" in plain["input"]


def test_what_the_loaders_cannot_do_is_said() -> None:
    from jobs.commands.probe_input import preprocessing_of

    network = nn.Identity()
    network.pretrained_cfg = {"interpolation": "lanczos", "crop_mode": "squash"}  # type: ignore[assignment]
    said = preprocessing_of(network, None, None).describe(DataSpec())
    assert "images of 224 pixels out of 256, bilinear, mean" in said
    assert (
        "states lanczos interpolation, ours is bilinear; the network states squash crop, ours is center"
        in said
    )


def test_bad_files_are_named(photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = tmp_path / "some"
    shutil.copytree(photos, data)
    for number in range(5):
        (data / "val" / "class-1" / f"bad{number}.jpg").write_bytes(b"no image")
    model = ("--model", "torchvision:resnet18")
    plain = json.loads(probe_of(data, *model, "--json"))
    assert plain["num_images"] == 12
    assert sorted(Path(path).name for path in plain["bad_images"]) == [f"bad{n}.jpg" for n in range(5)]
    monkeypatch.setenv("COLUMNS", "200")
    shown = probe_of(data, *model)
    assert shown.count("left out: ") == 4
    assert "left out: 2 more files, which --json lists" in shown


def test_json_has_no_nan() -> None:
    frame = pd.DataFrame({"name": ["a", "b"], "value": [1.5, math.nan], "count": [1, 2]})
    expected = [{"name": "a", "value": 1.5, "count": 1}, {"name": "b", "value": None, "count": 2}]
    assert rows(frame) == expected
    json.dumps(rows(frame))
