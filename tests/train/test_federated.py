"""Federated averaging against clients that are trained apart, its statistics by hand, and resumption."""

import copy
import signal
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from suite.data import Batch, check_data, client_loader
from suite.errors import UserError
from suite.experiment import Run, check_batches
from suite.metrics import OF_CLIENTS
from suite.models import build_model
from suite.models.norms.bcbn import BiasCorrectedBatchNorm
from suite.record import Record
from suite.shift import probe
from suite.signals import StopFlag
from suite.studies.spec import is_due
from suite.train.distributed import Ranks
from suite.train.evaluate import evaluate
from suite.train.federation import Federation, joined_norms, weight_of_newest
from suite.train.loop import Trainer
from tests.helpers.bit_equal import assert_bit_equal, final_state, measured
from tests.helpers.runs import make_run, tiny_run
from tests.helpers.training_processes import train

CPU = torch.device("cpu")
CLIENTS, LOCAL_STEPS = 3, 2
NORMS = ("averaged", "pooled", "local")


def federated_run(**options: Any) -> Run:
    """Six steps an epoch: a round of three clients with two steps each."""
    federated = {"clients": CLIENTS, "local_steps": LOCAL_STEPS, **options}
    return tiny_run(
        model={"arch": "small_resnet11", "norm": {"kind": "bn"}},
        recipe={"federated": federated, "lr": 0.05, "mixup_alpha": 0},
    )


def batches() -> list[Batch]:
    generator = torch.Generator().manual_seed(5)
    return [
        Batch(torch.randn(8, 3, 16, 16, generator=generator), torch.randint(10, (8,), generator=generator))
        for _ in range(2 * 2 * CLIENTS * LOCAL_STEPS)
    ]


def mean(states: list[dict[str, Tensor]], name: str) -> Tensor:
    return torch.stack([state[name].double() for state in states]).mean(dim=0)


@pytest.mark.parametrize("norms", NORMS)
def test_two_rounds_equal_clients_trained_apart(norms: str) -> None:
    """The oracle trains copies of the network with optimizers of their own, and joins them by hand."""
    run = federated_run(norms=norms)
    one = Trainer(run, Ranks(0, 0, 1, CPU), None, StopFlag())
    oracle = Trainer(
        run.model_copy(update={"recipe": run.recipe.model_copy(update={"federated": None})}),
        Ranks(0, 0, 1, CPU),
        None,
        StopFlag(),
    )
    momentum, updates = 0.1, 2 * 2 * LOCAL_STEPS  # two passes a step, of two ghost groups each
    weight = 1 - (1 - momentum) ** updates
    server = copy.deepcopy(oracle.model.state_dict())
    is_norm = {name: "bn" in name or "downsample.1" in name for name in server}
    assert sum(is_norm.values()) == 5 * sum("running_mean" in name for name in server)
    own = [copy.deepcopy(server) for _ in range(CLIENTS)]
    given, forward = iter(batches()), oracle.forward_module()
    for number in range(2):
        states = []
        for client in range(CLIENTS):
            start = {n: own[client][n] if norms == "local" and is_norm[n] else v for n, v in server.items()}
            oracle.model.load_state_dict(start)
            oracle.optimizer.sgd.state.clear()
            for local_step in range(LOCAL_STEPS):
                # The learning rate of clients that train in parallel; the schedule is a cosine.
                oracle.step = (number * LOCAL_STEPS + local_step) * CLIENTS
                oracle.advance(forward, given)
            states.append(copy.deepcopy(oracle.model.state_dict()))
        own, before = states, server
        server = {name: mean(states, name).to(value.dtype) for name, value in server.items()}
        if norms == "pooled":
            for name in [name for name in server if name.endswith("running_var")]:
                of_mean = name.replace("var", "mean")
                batches_of = {
                    key: [(s[key].double() - (1 - weight) * before[key].double()) / weight for s in states]
                    for key in (name, of_mean)
                }
                means, variances = torch.stack(batches_of[of_mean]), torch.stack(batches_of[name])
                mixture = (variances + means**2).mean(dim=0) - means.mean(dim=0) ** 2
                server[name] = ((1 - weight) * before[name].double() + weight * mixture).float()
    given, forward = iter(batches()), one.forward_module()
    for _ in range(2 * CLIENTS * LOCAL_STEPS):
        one.advance(forward, given)
    for name, value in one.model.state_dict().items():
        torch.testing.assert_close(value, server[name], rtol=1e-6, atol=1e-7)
    assert one.federation is not None
    for client in range(CLIENTS):
        with one.federation.as_client(client) as model:
            for name, value in model.state_dict().items():
                expected = own[client][name] if norms == "local" and is_norm[name] else server[name]
                torch.testing.assert_close(value, expected, rtol=1e-6, atol=1e-7)
    assert_bit_equal(one.model.state_dict(), one.federation.state()["server"])


def test_the_pooled_variance_comes_to_that_of_all_images_together() -> None:
    """Of three clients with equal numbers of values, whose estimates move by a quarter in each round."""
    scale, centre = torch.tensor([[1.0], [2.0], [0.5]]), torch.tensor([[0.0], [3.0], [-1.0]])
    values_KN = torch.randn(3, 50, dtype=torch.float64) * scale + centre
    own = [{"mean": one.mean()[None], "var": one.var(correction=0)[None]} for one in values_KN]
    found, weight = [], 0.25
    for weights in ({"bn": weight}, None):
        server = {f"bn.running_{key}": torch.ones(1, dtype=torch.float64) for key in ("mean", "var")}
        for _ in range(100):
            moved = [
                {f"bn.running_{key}": server[f"bn.running_{key}"].lerp(one[key], weight) for key in one}
                for one in own
            ]
            server = joined_norms(moved, weights)
        found.append(server)
    pooled, averaged = found
    torch.testing.assert_close(pooled["bn.running_var"], values_KN.var(correction=0)[None])
    assert float(averaged["bn.running_var"]) < 0.6 * float(pooled["bn.running_var"])
    torch.testing.assert_close(pooled["bn.running_mean"], values_KN.mean()[None])


@pytest.mark.parametrize(
    ("kind", "momentum", "expected"),
    [
        ("bn", 0.1, 1 - 0.9**4),
        ("bn", None, 4 / 10),  # a mean over all batches
        ("bcbn", 0.1, (1 - 0.9**4) / (1 - 0.9**10)),
    ],
)
def test_the_weight_of_the_newest_batches(kind: str, momentum: float | None, expected: float) -> None:
    """By hand: of values 0 in six batches and 1 in the next four, the average is the weight of these four."""
    layer = {"bn": torch.nn.BatchNorm2d, "bcbn": BiasCorrectedBatchNorm}[kind](1, momentum=momentum)
    for value in [0.0] * 6 + [1.0] * 4:
        layer(torch.full((2, 1, 1, 1), value))
    assert weight_of_newest(layer, 6, 10) == pytest.approx(expected)
    assert float(layer.running_mean) == pytest.approx(expected, rel=1e-5)  # type: ignore[arg-type]


def test_one_client_with_fedbn_leaves_the_others_norms_alone() -> None:
    model = build_model(federated_run().model)
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0, momentum=0.9)
    run = federated_run(norms="local")
    assert run.recipe.federated is not None
    federation = Federation(model, optimizer, run.recipe.federated)
    federation.begin_step(0)
    with torch.no_grad():
        model.bn1.weight += 5  # type: ignore[operator]
    federation.end_step(LOCAL_STEPS)
    federation.begin_step(LOCAL_STEPS)
    assert torch.equal(model.bn1.weight, torch.ones_like(model.bn1.weight))  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A completed run with local norms and skewed clients."""
    folder = tmp_path_factory.mktemp("federated") / "whole"
    assert train(skewed_run(), folder) == [0]
    return folder


def skewed_run() -> Run:
    run = federated_run(norms="local", label_skew=0.3)
    return run.model_copy(update={"data": run.data.model_copy(update={"val_images": 120})})


def test_a_run_is_measured_on_its_clients_images(whole: Path) -> None:
    """Top-1 and shift are means over clients, each evaluated by hand on its own images."""
    run, state = skewed_run(), final_state(whole)
    model, top1, sigma = build_model(run.model), [], []
    for client in range(CLIENTS):
        model.load_state_dict({**state["federation"]["server"], **state["federation"]["norms"][client]})
        place = {"rank": 0, "world_size": 1, "device": CPU}
        loader = client_loader(run, client, images_per_batch=8, **place)  # type: ignore[arg-type]
        top1.append(evaluate(model, loader, Ranks(0, 0, 1, CPU)).top1_percent)
        sigma.append(probe(model, loader).values("esm_sigma_scaled_cross"))
    assert Record.read(whole).last("top1_clients_percent") == pytest.approx(sum(top1) / CLIENTS)
    name = "esm_sigma_scaled_cross_clients"
    (found,) = [line["value"] for line in measured(whole) if line["metric"] == name and line["epoch"] == 2]
    torch.testing.assert_close(torch.tensor(found), torch.tensor(sigma).mean(dim=0), rtol=1e-4, atol=1e-6)
    assert len({tuple(one) for one in sigma}) == CLIENTS


def test_a_run_that_stops_within_a_round_resumes_bit_equal(whole: Path, tmp_path: Path) -> None:
    """After step 9 of rounds of 6, the second client is halfway through its second turn."""
    assert train(skewed_run(), tmp_path, stop_by=signal.SIGTERM, stop_at=9) == [75]
    assert train(skewed_run(), tmp_path) == [0]
    assert_bit_equal(final_state(whole), final_state(tmp_path))
    assert measured(whole) == measured(tmp_path)


def test_what_does_not_fit_is_refused() -> None:
    federated = {"clients": 2, "local_steps": 1}
    with pytest.raises(UserError, match="the clients train in turn on one rank, not on 2"):
        check_batches([make_run(recipe={"epochs": 2, "federated": federated})], 2)
    with pytest.raises(UserError, match="averages the clients' weights itself: leave ema_decay and swa out"):
        make_run(recipe={"epochs": 2, "federated": federated, "ema_decay": 0.9})
    with pytest.raises(UserError, match=r"batch\.estimates: mean is of several ranks, but federated clients"):
        make_run(
            batch={"global_batch_size": 16, "estimates": "mean"}, recipe={"epochs": 2, "federated": federated}
        )
    with pytest.raises(UserError, match=r"recipe\.federated\.norms: expected averaged, pooled or local"):
        make_run(recipe={"epochs": 2, "federated": {**federated, "norms": "mine"}})
    made_up = {"name": "synthetic", "num_classes": 10, "image_size": 28, "train_images": 64, "val_images": 8}
    with pytest.raises(UserError, match="synthetic has no image files to share among clients"):
        check_data(make_run(data=made_up, recipe={"epochs": 2, "federated": federated}))


def test_clients_are_part_of_the_id_and_their_metrics_due_only_where_there_are_any() -> None:
    plain, one = make_run(), make_run(recipe={"epochs": 6, "federated": {"clients": 2, "local_steps": 2}})
    assert make_run(recipe={"epochs": 6, "federated": None}).run_id == plain.run_id != one.run_id
    due = {name: [epoch for epoch in range(1, 7) if is_due(one, name, epoch)] for name in OF_CLIENTS}
    assert due == {name: [6] if "esm" in name else [1, 2, 3, 4, 5, 6] for name in OF_CLIENTS}
    assert not any(is_due(plain, name, 6) for name in OF_CLIENTS)
