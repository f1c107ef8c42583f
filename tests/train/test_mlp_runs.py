"""The paper's small experiments end to end: full batches, the shift of each layer, two errors on one set."""

import signal
from pathlib import Path
from typing import Any

import pytest
import torch

from suite.config import expand
from suite.data import train_loader
from suite.experiment import Run
from suite.models import build_model
from suite.record import Record
from suite.shift import probe
from suite.shift.layers import batch_norm_layers
from tests.helpers.bit_equal import assert_bit_equal, final_state, measured
from tests.helpers.training_processes import train

EPOCHS = 12


def full_batch_run(**model: Any) -> Run:
    content = {
        "model": {"arch": "mlp10", **model},
        "data": {
            "name": "fashion-mnist-7k",
            "loader": "memory",
            "image_size": 28,
            "eval_resize": 28,
            "crop_area": [1, 1],
            "flip": False,
            "train_images": 200,
            "val_images": 300,
        },
        "batch": {"global_batch_size": "all"},
        "recipe": {
            "epochs": EPOCHS,
            "lr": 0.5,
            "schedule": "constant",
            "momentum": 0,
            "weight_decay": 0,
        },
        "measure": {"eval_train": True, "eval_every_epochs": 3, "probe_every_epochs": 6},
        "system": {"torch_threads": 1, "checkpoint_every_epochs": EPOCHS},
    }
    return expand(content, "mlp").runs[0]


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("mlp")
    assert train(full_batch_run(), folder) == [0]
    return folder


def test_an_epoch_is_one_step_over_all_images(trained: Path) -> None:
    assert Record.read(trained).status["step"] == EPOCHS
    assert final_state(trained)["model"]["pairs.0.bn1.num_batches_tracked"] == EPOCHS


def test_each_layer_is_probed_in_forward_order(trained: Path) -> None:
    names = [f"pairs.{i}.bn{j}" for i in range(5) for j in (1, 2)]
    assert [layer.name for layer in Record.read(trained).layers] == names
    probes = [line for line in measured(trained) if line["metric"] == "esm_sigma"]
    assert [(line["epoch"], len(line["value"])) for line in probes] == [(6, 10), (EPOCHS, 10)]


def test_the_error_in_inference_is_that_of_the_weights_on_the_same_images(trained: Path) -> None:
    run = full_batch_run()
    lines = [line for line in measured(trained) if line["metric"] == "top1_inference_percent"]
    assert [(line["epoch"], line["split"]) for line in lines] == [(e, "train") for e in (3, 6, 9, 12)]
    model = build_model(run.model)
    model.load_state_dict(final_state(trained)["model"])
    batch = next(iter(train_loader(run, start_step=0, rank=0, world_size=1, device=torch.device("cpu"))))
    with torch.no_grad():
        right_N = model.eval()(batch.images_NCHW).argmax(1) == batch.labels_N
        assert lines[-1]["value"] == pytest.approx(100 * float(right_N.float().mean()), abs=1e-4)
    # Few updates of the estimates so far: inference is behind training, on the very same images.
    at_six = {line["metric"]: line["value"] for line in measured(trained) if line["epoch"] == 6}
    training = [
        v["value"] for v in measured(trained) if v["metric"] == "top1_percent" and v["split"] == "train"
    ]
    assert at_six["top1_inference_percent"] < training[5] - 10


def test_the_training_images_are_measured_with_corrected_estimates_and_probed(trained: Path) -> None:
    run = full_batch_run()
    model = build_model(run.model)
    model.load_state_dict(final_state(trained)["model"])
    batch = next(iter(train_loader(run, start_step=0, rank=0, world_size=1, device=torch.device("cpu"))))
    profile = probe(model, [batch])
    last = {line["metric"]: line["value"] for line in measured(trained) if line["epoch"] == EPOCHS}
    for name in ("esm_mu_scaled", "esm_sigma_scaled"):
        assert last[f"{name}_train"] == pytest.approx(profile.values(name), rel=1e-4)
    for layer in batch_norm_layers(model).values():
        # By hand: twelve batches at momentum 0.1 leave 0.9¹² of the first values, mean 0 and variance 1.
        layer.running_mean /= 1 - 0.9**EPOCHS
        layer.running_var.sub_(0.9**EPOCHS).div_(1 - 0.9**EPOCHS)
    with torch.no_grad():
        right_N = model.eval()(batch.images_NCHW).argmax(1) == batch.labels_N
    assert last["top1_bias_corrected_percent"] == pytest.approx(100 * float(right_N.float().mean()), abs=1e-4)
    assert last["top1_bias_corrected_percent"] != last["top1_inference_percent"]
    epochs = [line["epoch"] for line in measured(trained) if line["metric"] == "esm_sigma_scaled_train"]
    assert epochs == [6, EPOCHS]


@pytest.mark.parametrize("step", [3, 6])
def test_it_resumes_bit_equal(trained: Path, tmp_path: Path, step: int) -> None:
    assert train(full_batch_run(), tmp_path, stop_by=signal.SIGTERM, stop_at=step) == [75]
    assert train(full_batch_run(), tmp_path) == [0]
    assert_bit_equal(final_state(tmp_path), final_state(trained))
    assert measured(tmp_path) == measured(trained)


def test_gnbn_has_estimates_in_every_second_layer(tmp_path: Path) -> None:
    assert train(full_batch_run(norm={"kind": "xbn"}), tmp_path) == [0]
    assert [layer.name for layer in Record.read(tmp_path).layers] == [f"pairs.{i}.bn1" for i in range(5)]
