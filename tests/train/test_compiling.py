"""`recipe.compile`: network and loss become one graph, within DDP."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, fx, nn
from torch._dynamo.utils import counters
from torch._inductor import config
from torch._inductor.async_compile import AsyncCompile

from suite.config import expand
from suite.data import Batch
from suite.signals import StopFlag
from suite.train import classification, data_parallel
from suite.train.distributed import Ranks
from suite.train.loop import Trainer
from tests.helpers.ranks import on_ranks

CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def compiled_anew() -> Iterator[None]:
    torch.compiler.reset()
    counters.clear()
    yield
    torch.compiler.reset()


def small_network(_: object) -> nn.Module:
    layers = (nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    return nn.Sequential(*layers, nn.Linear(4, 10))


def wide_network(_: object) -> nn.Module:
    """Its gradients are 2.8 MiB."""
    layers = (nn.Flatten(), nn.Linear(192, 600), nn.BatchNorm1d(600), nn.ReLU())
    return nn.Sequential(*layers, nn.Linear(600, 600), nn.ReLU(), nn.Linear(600, 600), nn.Linear(600, 10))


def stepped(
    ranks: Ranks, *, bucket_mb: int | None = None, **recipe: Any
) -> tuple[list[Tensor], dict[str, Tensor]]:
    """Losses and weights after two steps of a network of six layers."""
    content: dict[str, Any] = {
        "model": {"arch": "small_resnet11"},
        "data": {"name": "synthetic", "num_classes": 10, "image_size": 8, "train_images": 64},
        "batch": {"global_batch_size": 8 * ranks.world_size, "batch_size_per_gpu": 8},
        "recipe": {"lr": 0.1, "schedule": "constant", "mixup_alpha": 0.2, **recipe},
        "system": {"ddp_bucket_mb": bucket_mb},
    }
    trainer = Trainer(expand(content, "compiling").runs[0], ranks, None, StopFlag())
    forward, draw = trainer.forward_module(), torch.Generator().manual_seed(ranks.rank)
    images = torch.randn(2, 8, 3, 8, 8, generator=draw)
    batches = iter([Batch(one, torch.arange(8)) for one in images])
    losses = [trainer.advance(forward, batches) for _ in range(2)]
    return losses, trainer.model.state_dict()


def assert_near(compiled: tuple[list[Tensor], dict[str, Tensor]], plain: Any) -> None:
    torch.testing.assert_close(compiled, plain, rtol=1e-4, atol=1e-5)


@pytest.fixture
def alone(monkeypatch: pytest.MonkeyPatch) -> Ranks:
    """One rank, whose network is the small one."""
    monkeypatch.setattr(classification, "build_model", small_network)
    return Ranks(0, 0, 1, CPU)


def test_network_and_both_losses_of_mixed_images_are_one_graph(
    alone: Ranks, monkeypatch: pytest.MonkeyPatch
) -> None:
    called: list[str] = []

    def keep(graph: fx.GraphModule, _: object) -> Any:
        called.extend(str(node.target) for node in graph.graph.nodes if node.op.startswith("call_"))
        return graph.forward

    monkeypatch.setattr(data_parallel, "COMPILER", keep)
    assert_near(stepped(alone, compile=True), stepped(alone))
    assert dict(counters["graph_break"]) == {}
    assert counters["stats"]["unique_graphs"] == 1
    assert [sum(name in one for one in called) for name in ("conv2d", "cross_entropy", "topk")] == [1, 3, 1]


def test_forward_and_backward_pass_are_few_kernels(
    alone: Ranks, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is called in place of a kernel does nothing, since a C++ compiler takes half a minute for them."""
    kernels: list[str] = []

    def stand_in(_: object, arguments: object, source: str) -> Callable[..., None]:
        kernels.append(source)
        return lambda *_: None

    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path))
    monkeypatch.setattr(AsyncCompile, "cpp_pybinding", stand_in)
    with config.patch({"force_disable_caches": True, "cpp.simdlen": 1, "pattern_matcher": False}):
        stepped(alone, compile=True)
    # Between convolution, linear layer and their gradients: BN to the mean over pixels, the losses with the
    # sums, and their gradients, each at most in two.
    assert 0 < len(kernels) <= 6


def of_two_ranks(rank: int, world_size: int) -> list[Any]:
    """Plain, and compiled by what compiles fast, with buckets of 25 and of 1 MiB."""
    classification.build_model, data_parallel.COMPILER = wide_network, "aot_eager"
    ranks = Ranks(rank, rank, world_size, CPU)
    found: list[Any] = [stepped(ranks)]
    for bucket_mb in (25, 1):
        counters.clear()
        torch.compiler.reset()
        found.append((stepped(ranks, compile=True, bucket_mb=bucket_mb), counters["aot_autograd"]["total"]))
    return found


def test_compiled_code_of_two_ranks_does_what_plain_code_does(tmp_path: Path) -> None:
    """It is divided where DDP's buckets end, so that an exchange begins while the rest is computed.

    From the last layer on: the first bucket ends behind 1 MiB, with the second of the 600 × 600 layers.
    """
    of_rank = on_ranks(of_two_ranks, 2, tmp_path)
    for plain, (few_parts, num_parts), (more_parts, num_more_parts) in of_rank:
        assert (num_parts, num_more_parts) == (2, 3)
        assert_near(few_parts, plain)
        assert_near(more_parts, plain)
    weights, others = (found[1][0][1] for found in of_rank)
    assert all(torch.equal(weights[name], others[name]) for name in ("1.weight", "2.bias", "7.weight"))
