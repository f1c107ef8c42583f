"""`batch.estimates`: what becomes of BN's running averages where each rank has its own."""

import signal
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from suite.experiment import Run
from suite.record import Record
from suite.specs.batch import ESTIMATES, EstimatesRule
from suite.train.distributed import Ranks
from suite.train.estimates import FirstRank, MeanOfRanks, rank_estimates
from tests.helpers.bit_equal import assert_bit_equal, final_state, measured
from tests.helpers.ranks import on_ranks
from tests.helpers.runs import tiny_run
from tests.helpers.training_processes import train

CPU = torch.device("cpu")


def with_estimates(rank: int) -> nn.Module:
    """Rank 0 has the means 1, 2 and the variances 4, 16; rank 1 the means 5, -2 and the variances 9, 0."""
    layer = nn.BatchNorm2d(2)
    mean, var = (([1.0, 2.0], [4.0, 16.0]), ([5.0, -2.0], [9.0, 0.0]))[rank]
    layer.running_mean.copy_(torch.tensor(mean))
    layer.running_var.copy_(torch.tensor(var))
    layer.num_batches_tracked.fill_(7)
    return nn.Sequential(nn.Conv2d(3, 2, 1), layer, nn.GroupNorm(1, 2))


def seen_of(rank: int, world_size: int) -> dict[str, Any]:
    """What a rank's layer has in an evaluation and after it, by each rule, and what a checkpoint gets."""
    ranks, found = Ranks(rank, rank, world_size, CPU), dict[str, Any]()
    for kind in (FirstRank, MeanOfRanks):
        network = with_estimates(rank)
        estimates = kind(ranks, lambda network=network: {"model": network})
        with estimates.saved() as rest:
            found[f"{kind.__name__} saved"] = values(network)
        with estimates.evaluated():
            found[f"{kind.__name__} evaluated"] = values(network)
        found[f"{kind.__name__} after"] = values(network)
        found[f"{kind.__name__} rest"] = None if rest is None else rest["model"].tolist()
    # Resumed on as many ranks, each has its own; on another number of ranks, all have the means.
    for number in (2, 3):
        network = with_estimates(0)
        network.load_state_dict({**network.state_dict(), "1.running_mean": torch.tensor([3.0, 0.0])})
        resumed = MeanOfRanks(ranks, lambda network=network: {"model": network})
        resumed.load({"model": torch.arange(4.0 * number).view(number, 4)})
        found[f"resumed from {number}"] = values(network)
    # With statistics over all ranks every rank has the same estimates: to the last bit, their mean is these.
    third = torch.tensor([1 / 3, 0.1])
    network[1].running_mean.copy_(third)
    with MeanOfRanks(ranks, lambda: {"model": network}).evaluated():
        found["of equal ones"] = bool((network[1].running_mean == third).all())
    return found


def values(network: nn.Module) -> list[list[float]]:
    return [network[1].running_mean.tolist(), network[1].running_var.tolist()]


def test_the_estimates_that_are_evaluated_and_saved(tmp_path: Path) -> None:
    own = [[[1.0, 2.0], [4.0, 16.0]], [[5.0, -2.0], [9.0, 0.0]]]
    mean = [[3.0, 0.0], [6.5, 8.0]]
    for rank, seen in enumerate(on_ranks(seen_of, 2, tmp_path)):
        assert seen["FirstRank saved"] == own[rank]  # only the first rank writes
        assert seen["FirstRank evaluated"] == seen["FirstRank after"] == own[0]
        assert seen["FirstRank rest"] is None
        assert seen["MeanOfRanks saved"] == seen["MeanOfRanks evaluated"] == mean
        assert seen["MeanOfRanks after"] == own[rank]
        assert seen["MeanOfRanks rest"] == [[1.0, 2.0, 4.0, 16.0], [5.0, -2.0, 9.0, 0.0]]
        assert seen["resumed from 2"] == [[[0.0, 1.0], [2.0, 3.0]], [[4.0, 5.0], [6.0, 7.0]]][rank]
        assert seen["resumed from 3"] == [[3.0, 0.0], [4.0, 16.0]]
        assert seen["of equal ones"]


def test_on_one_rank_the_estimates_stay_as_they_are() -> None:
    network = with_estimates(0)
    with MeanOfRanks(Ranks(0, 0, 1, CPU), lambda: {"model": network}).evaluated():
        assert values(network) == values(with_estimates(0))
    assert values(network) == values(with_estimates(0))


def mlp_run(rule: str) -> Run:
    """Twelve steps of two ranks, with an average of the weights, which has each rank's estimates, too."""
    return tiny_run(
        model={"arch": "mlp10", "norm": {"kind": "bn"}},
        data={"image_size": 28},
        batch={"global_batch_size": 16, "batch_size_per_gpu": 8, "norm_batch_size": 8, "estimates": rule},
        recipe={"ema_decay": 0.9},
        measure={"precise_bn_images": 0},
    )


def test_a_run_whose_estimates_are_means_resumes_bit_equal_and_trains_as_another(tmp_path: Path) -> None:
    undisturbed, stopped, first = tmp_path / "undisturbed", tmp_path / "stopped", tmp_path / "first"
    assert train(mlp_run("mean"), undisturbed, world_size=2) == [0, 0]
    assert train(mlp_run("mean"), stopped, world_size=2, stop_by=signal.SIGTERM, stop_at=9) == [75, 75]
    assert train(mlp_run("mean"), stopped, world_size=2) == [0, 0]
    assert Record.read(stopped).status["resumed_from_step"] == 10
    assert_bit_equal(final_state(stopped), final_state(undisturbed))
    assert measured(stopped) == measured(undisturbed)
    assert train(mlp_run("first_rank"), first, world_size=2) == [0, 0]
    means, firsts = final_state(undisturbed), final_state(first)
    assert_bit_equal(means["optimizer"], firsts["optimizer"])
    assert_bit_equal(means["tid"], firsts["tid"])
    assert firsts["rank_estimates"] is None
    for name in ("model", "ema"):
        mine, theirs = flat(means[name]), flat(firsts[name])
        own_RD = means["rank_estimates"][name]
        torch.testing.assert_close(mine, own_RD.double().mean(dim=0).float(), rtol=1e-7, atol=0)
        assert_bit_equal(own_RD[0], theirs)
        assert not torch.equal(mine, theirs)


def flat(state: Mapping[str, Tensor]) -> Tensor:
    """The running means and variances of a network, by layer."""
    kinds = ("running_mean", "running_var")
    return torch.cat([value for name, value in state.items() if name.endswith(kinds)])


def test_an_added_rule_is_followed_or_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(ESTIMATES, "xx", EstimatesRule("made up", "suite.train.estimates:FirstRank"))
    run = mlp_run("first_rank")
    batch = run.batch.model_copy(update={"estimates": "xx"})
    made = rank_estimates(run.model_copy(update={"batch": batch}), Ranks(0, 0, 1, CPU), dict)
    assert isinstance(made, FirstRank)
    batch = run.batch.model_copy(update={"estimates": "yy"})
    with pytest.raises(KeyError, match="yy"):
        rank_estimates(run.model_copy(update={"batch": batch}), Ranks(0, 0, 1, CPU), dict)
