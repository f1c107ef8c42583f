"""How ranks join: the options of the process group and of DDP."""

import os
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import nn

from suite.experiment import SystemSpec
from suite.train import distributed
from suite.train.data_parallel import data_parallel
from suite.train.distributed import Ranks, joined
from suite.train.flight_recorder import BUFFER, NUM_COLLECTIVES
from tests.helpers.ranks import on_ranks, rank_environment


@pytest.mark.parametrize("device", [torch.device("cpu"), torch.device("cuda", 1)])
def test_the_process_group(device: torch.device, monkeypatch: pytest.MonkeyPatch) -> None:
    """NCCL gets its device, gloo connects ranks on first use, and the time-out is the run's."""
    asked: list[tuple[str, dict[str, Any]]] = []
    for name, value in rank_environment(1, 2, 4321).items():
        monkeypatch.setenv(name, value)
    for name in (*BUFFER, "TORCH_GLOO_LAZY_INIT"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(distributed, "_device", lambda *_: device)
    monkeypatch.setattr(distributed, "_pci_address", lambda device: None)
    monkeypatch.setattr(
        dist, "init_process_group", lambda backend, **options: asked.append((backend, options))
    )
    monkeypatch.setattr(dist, "destroy_process_group", lambda: None)
    monkeypatch.setattr(dist, "get_rank", lambda: 1)
    monkeypatch.setattr(dist, "get_world_size", lambda: 2)
    with joined(SystemSpec(collective_timeout_s=5)) as ranks:
        assert (ranks.rank, ranks.device) == (1, device)
    ((backend, options),) = asked
    assert options["timeout"].total_seconds() == 5
    assert os.environ["TORCH_GLOO_LAZY_INIT"] == "1"
    if device.type == "cuda":
        assert (backend, options["device_id"]) == ("cpu:gloo,cuda:nccl", device)
    else:
        assert (backend, options["device_id"]) == ("gloo", None)
    assert os.environ[BUFFER[0]] == str(NUM_COLLECTIVES)
    del os.environ[BUFFER[0]], os.environ["TORCH_GLOO_LAZY_INIT"]


def wrapped(rank: int, world_size: int) -> list[Any]:
    """A step of a network whose estimates differ by rank, within DDP, and codes that arrive later."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 2))
    found: list[Any] = []
    for is_static, bucket_mb in ((False, None), (True, 3)):
        with warnings.catch_warnings():
            warnings.simplefilter("error")  # such as that of a deprecated argument
            ddp = data_parallel(model, torch.device("cpu"), is_static=is_static, bucket_mb=bucket_mb)
        model[1].running_mean.fill_(rank)
        model.eval()
        for _ in range(2):
            ddp(torch.full((2, 3), 1.0 + rank)).sum().backward()
        bucket = model[0].weight.grad
        found.append(
            [ddp.static_graph, bool(bucket._is_view()), float(model[1].running_mean[0]), bucket.clone()]
        )
        found[-1].append(ddp.bucket_bytes_cap / 2**20)
        model.zero_grad(set_to_none=True)
    ranks = Ranks(rank, rank, world_size, torch.device("cpu"))
    first, second = (ranks.begin_to_agree(code) for code in (rank, 5 - rank))
    return [*found, second.result(), first.result(), ranks.agree(7 * rank)]


def test_gradients_and_codes_of_two_ranks(tmp_path: Path) -> None:
    of_rank = on_ranks(wrapped, 2, tmp_path)
    for rank, (plain, static, *codes) in enumerate(of_rank):
        assert codes == [5, 1, 7]
        assert (plain[0], static[0]) == (False, True)
        assert plain[1] is static[1] is True
        assert plain[2] == static[2] == rank  # each rank keeps its own estimates
        assert (plain[4], static[4]) == (25, 3)  # MiB
        assert torch.equal(plain[3], static[3])
        assert torch.equal(plain[3], of_rank[0][0][3])
