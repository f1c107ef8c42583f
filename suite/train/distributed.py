"""The ranks of a run: joins them, and exchanges values between them.

A process belongs to several ranks when torchrun's variables (RANK, WORLD_SIZE, …) or those of a Slurm
step say so. GPU tensors go over NCCL, CPU tensors over gloo, so that agreeing on a flag waits for no GPU.
"""

import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta

import torch
import torch.distributed as dist
from torch import Tensor, nn

from suite.binding import bind
from suite.data import Place
from suite.errors import Diverged, Preempted, UserError
from suite.experiment import SystemSpec
from suite.launch import launch_variables, ranks_on_node
from suite.record.rank_errors import node_name
from suite.train.flight_recorder import record_collectives


class Agreement:
    """The largest code of all ranks, which they are exchanging. It takes longest with many ranks."""

    def __init__(self, flag: Tensor, exchange: dist.Work | None) -> None:
        self._flag, self._exchange = flag, exchange

    def result(self) -> int:
        """Return the code, and wait for it if it has not come yet."""
        if self._exchange is not None:
            self._exchange.wait()
        return int(self._flag)


@dataclass(frozen=True)
class Ranks:
    """This process among the ranks of its run."""

    rank: int
    local_rank: int
    world_size: int
    device: torch.device
    binding: str = "not bound"
    """To which CPUs this process is bound, in words."""

    @property
    def is_first(self) -> bool:
        return self.rank == 0

    @property
    def place(self) -> Place:
        """The arguments by which a loader gives this rank its share of the images."""
        return {"rank": self.rank, "world_size": self.world_size, "device": self.device}

    def agree(self, code: int) -> int:
        """Return the largest code of any rank. Every rank calls this at the same point."""
        return self.begin_to_agree(code).result()

    def begin_to_agree(self, code: int) -> Agreement:
        """As `agree`, without waiting for the others: the result comes later."""
        flag = torch.tensor([code])
        if self.world_size == 1:
            return Agreement(flag, None)
        return Agreement(flag, dist.all_reduce(flag, op=dist.ReduceOp.MAX, async_op=True))

    def sum(self, value: Tensor) -> Tensor:
        """Return the sum over all ranks, on every rank; `value` is changed in place."""
        if self.world_size > 1:
            dist.all_reduce(value)
        return value

    def gather(self, value: Tensor) -> Tensor:
        """Return every rank's `value` stacked in rank order, (R, *), on every rank."""
        if self.world_size == 1:
            return value[None].clone()
        parts = [torch.empty_like(value) for _ in range(self.world_size)]
        dist.all_gather(parts, value)
        return torch.stack(parts)

    def union(self, named: dict[str, str]) -> dict[str, str]:
        """Return all ranks' entries, on every rank."""
        everyone: list[dict[str, str]] = [named] * self.world_size
        if self.world_size > 1:
            dist.all_gather_object(everyone, named)
        return {name: value for one in everyone for name, value in one.items()}

    def hosts(self) -> list[str]:
        """Return the host name of every rank."""
        return self.texts(socket.gethostname())

    def nodes(self) -> list[str]:
        """Return the name of every rank's node, as the scheduler calls it where there is one."""
        return self.texts(node_name())

    def bindings(self) -> list[str]:
        """Return to which CPUs every rank is bound, in words."""
        return self.texts(self.binding)

    def texts(self, own: str) -> list[str]:
        """Return every rank's text in rank order, on every rank."""
        texts = [own] * self.world_size
        if self.world_size > 1:
            dist.all_gather_object(texts, own)
        return texts

    def share_buffers(self, model: nn.Module) -> None:
        """Copy the first rank's buffers (BN's estimates) to every rank, as DDP does before each forward pass.

        Training does not read them, so copying them once before an evaluation is enough.
        """
        if self.world_size > 1:
            for buffer in model.buffers():
                dist.broadcast(buffer, src=0)


@contextmanager
def joined(system: SystemSpec) -> Iterator[Ranks]:
    """Join the other ranks, if there are any, and leave the process group at the end."""
    variables = launch_variables(os.environ)
    local_rank = int(variables.get("LOCAL_RANK", "0"))
    device = _device(system, local_rank)
    # Before there are threads to bind.
    ranks_here = ranks_on_node(os.environ)
    gpus = _pci_addresses(device, local_rank, ranks_here)
    binding = bind(os.environ, gpus, int(variables.get("WORLD_SIZE", "1")), ranks_here)
    if system.torch_threads is not None:
        torch.set_num_threads(system.torch_threads)
    if not variables:
        yield Ranks(0, 0, 1, device, binding)
        return
    os.environ.update(variables)
    record_collectives()
    # Connections are made when they are first used: of all pairs of ranks a ring uses few.
    os.environ.setdefault("TORCH_GLOO_LAZY_INIT", "1")
    on_gpu = device.type == "cuda"
    dist.init_process_group(
        "cpu:gloo,cuda:nccl" if on_gpu else "gloo",
        timeout=timedelta(seconds=system.collective_timeout_s),
        # NCCL then connects now, and new groups split its communicator.
        device_id=device if on_gpu else None,
    )
    try:
        yield Ranks(dist.get_rank(), local_rank, dist.get_world_size(), device, binding)
    except (UserError, Diverged, Preempted):
        dist.destroy_process_group()
        raise
    # Not after any other error: this would wait for the other ranks, which wait for this one. They notice
    # when this process ends.
    dist.destroy_process_group()


def _device(system: SystemSpec, local_rank: int) -> torch.device:
    available = torch.cuda.is_available()
    if {"auto": not available, "cpu": True, "cuda": False}[system.device]:
        return torch.device("cpu")
    if not available:
        raise UserError("system.device is cuda, but torch sees no GPU; use auto or cpu")
    # A launcher may narrow CUDA_VISIBLE_DEVICES to one GPU for each rank, or show all of them to all.
    device = torch.device("cuda", local_rank % torch.cuda.device_count())
    torch.cuda.set_device(device)
    return device


def _pci_addresses(device: torch.device, local_rank: int, ranks_here: int) -> list[str]:
    """Return the addresses of this rank's GPU, and of the other ranks' on this node if it sees them all."""
    own = _pci_address(device)
    if own is None:
        return []
    if torch.cuda.device_count() < ranks_here:
        return [own]
    others = [torch.device("cuda", rank) for rank in range(ranks_here) if rank != local_rank]
    return [own, *filter(None, map(_pci_address, others))]


def _pci_address(device: torch.device) -> str | None:
    """Return a GPU's address on the PCI bus, as sysfs names it; None for a CPU, or where torch lacks it."""
    if device.type != "cuda":
        return None
    gpu = torch.cuda.get_device_properties(device)
    parts = [getattr(gpu, f"pci_{part}_id", -1) for part in ("domain", "bus", "device")]
    return None if min(parts) < 0 else "{:04x}:{:02x}:{:02x}.0".format(*parts)
