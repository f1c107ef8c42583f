"""What both callbacks share, in a plain loop: probes in their epochs, and TID of every pass."""

import pytest
import torch
from torch import nn

from shiftbench.recorder import ShiftRecorder
from suite.errors import UserError
from suite.shift import TidMeter, probe

BATCHES = [(torch.randn(8, 3, 4, 4), torch.randint(2, (8,))) for _ in range(4)]


def a_network() -> nn.Sequential:
    torch.manual_seed(0)
    layers = [nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 4, 1), nn.BatchNorm2d(4)]
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(64, 2))


def trained(recorder: ShiftRecorder, network: nn.Module, epochs: int) -> list[dict[str, float]]:
    found = []
    for epoch in range(1, epochs + 1):
        for images, labels in BATCHES:
            network.train()
            recorder.begin(network, (images, labels))
            network(images)
            recorder.end_pass()
        found.append(recorder.end_epoch(network, BATCHES, epoch))
    return found


def test_it_says_what_the_probe_and_the_meter_say() -> None:
    network, other = a_network(), a_network()
    meter = TidMeter(other, BATCHES[0][0], norm_batch_size=8)
    for images, _ in BATCHES * 2:
        other.train()
        other(images)
        meter.update()
    first, second = trained(recorder := ShiftRecorder(2, per_layer=True), network, 2)
    assert set(first) == {name + layer for name in ("tid_mu", "tid_sigma") for layer in ("", "/1", "/4")}
    profile = probe(other, BATCHES)
    assert second["esm_sigma_scaled"] == pytest.approx(profile.mean("esm_sigma_scaled"))
    assert second["esm_mu/4"] == pytest.approx(profile.values("esm_mu")[1])
    tid_mu, _ = meter.pop_epoch_means()
    assert (first["tid_mu/1"] + second["tid_mu/1"]) / 2 == pytest.approx(tid_mu[0])
    assert list(recorder.profiles) == [2]
    assert network.training  # as it was


def test_several_sets_of_batches_have_a_profile_each() -> None:
    network, recorder = a_network(), ShiftRecorder(tid=False)
    found = recorder.end_epoch(network, {"clean": BATCHES, "dark": [images / 9 for images, _ in BATCHES]}, 1)
    assert set(found) == {
        f"{name}/esm_{part}_scaled" for name in ("clean", "dark") for part in ("mu", "sigma")
    }
    assert found["clean/esm_mu_scaled"] == pytest.approx(probe(network, BATCHES).mean("esm_mu_scaled"))
    assert list(recorder.profiles[1]) == ["clean", "dark"]


def test_a_second_training_begins_anew_or_goes_on() -> None:
    recorder = ShiftRecorder()
    trained(recorder, nn.Sequential(nn.Flatten(), nn.Linear(48, 2)), 1)
    trained(recorder, network := a_network(), 2)
    recorder.restart()
    recorder.end_epoch(network, BATCHES, 3)  # a trainer that goes on counts on
    assert list(recorder.profiles) == [1, 2, 3]
    recorder.restart()
    found = trained(recorder, a_network(), 1)
    assert list(recorder.profiles) == [1]
    assert "tid_mu" in found[0]


def test_a_network_without_bn_and_a_trainer_without_validation() -> None:
    plain = nn.Sequential(nn.Flatten(), nn.Linear(48, 2))
    assert trained(ShiftRecorder(), plain, 1) == [{}]
    with pytest.raises(UserError, match="no validation batches; give some as batches="):
        ShiftRecorder().end_epoch(a_network(), None, 1)
    with pytest.raises(UserError, match="every_epochs is 0"):
        ShiftRecorder(0)
