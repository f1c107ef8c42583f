"""A step, its loss's check and what it measures never wait for the GPU.

Without a GPU: forward passes run on a fake one, and whole steps, whose backward pass would ask for a driver,
on the meta device. No value can be read there, and a watch refuses what copies from pageable memory.
"""

from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

import pytest
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode

from suite.experiment import Run
from suite.shift import TidMeter
from suite.signals import StopFlag
from suite.train import boundary, classification, loop, optim
from suite.train.boundary import CHECK_LOSS_EVERY_STEPS
from suite.train.distributed import Ranks
from suite.train.finite import FiniteCheck
from suite.train.heartbeat import Next
from suite.train.loop import Trainer
from tests.helpers.host_waits import FakeEvent, HostWaits, fake_events
from tests.helpers.steps import STEPS, batch_on, run_of

CPU, GPU, META = torch.device("cpu"), torch.device("cuda", 0), torch.device("meta")


def real_meter(run: Run) -> TidMeter | None:
    """A run's meter of TID, which begins with a pass whose values it reads."""
    task = loop.task_of(run)
    return loop.tid_meter(run, task, task.build(), Ranks(0, 0, 1, CPU))


def trainer_on(device: torch.device, run: Run, meter: TidMeter | None, patch: pytest.MonkeyPatch) -> Trainer:
    """A run's trainer on a device that holds no values."""
    patch.setattr(loop, "tid_meter", lambda *_: None)
    patch.setattr(boundary, "FiniteCheck", lambda _: FiniteCheck(CPU))
    patch.setattr(loop, "seed_device", lambda *_: None)  # asks for a driver
    patch.setattr(torch.cuda, "reset_peak_memory_stats", lambda _: None)
    for module, name in ((classification, "build_model"), (loop, "set_norm_batch_size")):
        patch.setattr(module, name, making_on(device, getattr(module, name)))
    patch.setattr(torch.nn.Module, "to", lambda module, *_, **__: module)  # fake weights cannot be moved
    trainer = Trainer(run, Ranks(0, 0, 1, device), None, StopFlag())
    if meter is not None:
        trainer.tid = placed(meter, trainer.model, device)
    return trainer


def making_on(device: torch.device, function: Callable[..., Any]) -> Callable[..., Any]:
    def make(*arguments: Any) -> Any:
        with device:
            return function(*arguments)

    return make


def placed(meter: TidMeter, model: torch.nn.Module, device: torch.device) -> TidMeter:
    """The meter for a network of the same layers elsewhere, as it would be on a GPU."""
    meter.layers = {name: model.get_submodule(name) for name in meter.layers}
    meter._capacity, meter._num_waiting = 16, 0
    meter._estimates_P2D = meter._estimates_P2D[:1].expand(17, -1, -1).clone()
    meter._updates_PL = meter._updates_PL[:1].expand(17, -1).clone()
    for name, value in vars(meter).items():
        if isinstance(value, Tensor):
            setattr(meter, name, torch.empty_like(value, device=device))
    meter._interval_start = {k: torch.empty_like(v, device=device) for k, v in meter._interval_start.items()}
    return meter


# An average is a copy, and copies of fake tensors crash; it is updated behind the backward pass anyway.
@pytest.mark.parametrize("case", [case for case in STEPS if case != "ema-clipping"])
def test_forward_pass_loss_check_and_tid(case: str, monkeypatch: pytest.MonkeyPatch) -> None:
    run = run_of(case)
    meter = real_meter(run)
    with fake_events(monkeypatch.setattr), FakeTensorMode(allow_non_fake_inputs=True):
        trainer = trainer_on(GPU, run, meter, monkeypatch)
        forward, batch = trainer.forward_module(), batch_on(GPU, run)
        trainer.step = 2 * CHECK_LOSS_EVERY_STEPS
        with HostWaits("cuda"), torch.no_grad():
            trainer.boundary.finite = FiniteCheck(GPU)
            for micro in range(17):  # TID is computed of sixteen passes at once
                loss, sums = forward(*trainer.task.inputs(batch, (0, trainer.step, micro, 0)))
                trainer.epoch_sums += sums
                if trainer.tid is not None:
                    trainer.tid.update()
            assert trainer.agree(loss) is Next.CONTINUE
            trainer.meter.step_done()
    assert all(event.num_waits == 0 for event in FakeEvent.recorded)
    assert (trainer.tid is None) == (case == "gn")


@pytest.mark.parametrize("case", STEPS)
def test_whole_steps(case: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two, since the first step of an optimizer and of an average is a case of its own."""
    run = run_of(case)
    monkeypatch.setattr(classification, "autocast", lambda *_: nullcontext())  # meta has none
    # Nor has it pinned memory: the test above sees this copy.
    for module in (optim, classification):
        monkeypatch.setattr(module, "to_device", lambda x, device: torch.empty_like(x, device=device))
    trainer = trainer_on(META, run, real_meter(run), monkeypatch)
    forward = trainer.forward_module()
    batches = iter([batch_on(META, run) for _ in range(2 * trainer.accumulation_steps)])
    with HostWaits("meta") as watch:
        for _ in range(2):
            trainer.advance(forward, batches)
    assert trainer.step == 2
    assert watch.count > 500


def test_tid_takes_few_operations_a_pass(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two copies, a sum, and a sixteenth of what is computed of sixteen passes at once; formerly 44."""
    run = run_of("bn")
    trainer = trainer_on(META, run, real_meter(run), monkeypatch)
    assert trainer.tid is not None
    with HostWaits("meta") as watch:
        for _ in range(16):
            trainer.tid.update()
    views = 2 * 16 + 16  # of a row, which are no work for a device
    assert watch.count - views < 16 * 7


# Each waits for a GPU, so that the watch must refuse it.
WAITS = {
    "reads a value": lambda x: x.sum().item(),
    "shape depends": lambda x: x[x > 0],
    "to cuda by pageable": lambda x: torch.ones(3).to(x.device),
    "to cuda by pageable memory": lambda x: x.copy_(torch.ones(3), non_blocking=True),
    "to cpu by pageable": lambda x: x.cpu(),
    "indices from pageable": lambda x: x[torch.tensor([1, 0])],
    "and waits": lambda x: torch.ones(3).pin_memory().to(x.device),
}


@pytest.mark.parametrize("complaint", WAITS)
def test_the_watch_refuses(complaint: str) -> None:
    with FakeTensorMode(allow_non_fake_inputs=True), HostWaits("cuda"):
        x = torch.empty(3, device="cuda")
        with pytest.raises(AssertionError, match=complaint):
            WAITS[complaint](x)
        torch.ones(3).pin_memory().to(x.device, non_blocking=True)
