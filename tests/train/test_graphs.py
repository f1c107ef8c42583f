"""`system.cuda_graphs`: recorded steps do what steps do, and what cannot be recorded is refused."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from suite.config import expand
from suite.data import Batch
from suite.errors import UserError
from suite.experiment import Run
from suite.signals import StopFlag
from suite.train import data_parallel, graphs, loop
from suite.train.distributed import Ranks
from suite.train.graphs import WARMUP_STEPS, CudaRecorder, StepGraph, step_graph
from suite.train.loop import Trainer
from suite.train.optim import build_optimizer
from tests.helpers.bit_equal import assert_bit_equal
from tests.helpers.host_waits import HostWaits
from tests.helpers.recorded_steps import TapeRecorder

CPU, GPU, META = torch.device("cpu"), torch.device("cuda", 0), torch.device("meta")
STEPS = 7


def run_of(**sections: dict[str, Any]) -> Run:
    content: dict[str, Any] = {
        "model": {"arch": "small_resnet11"},
        "data": {"name": "synthetic", "num_classes": 10, "image_size": 16, "train_images": 64},
        "batch": {"global_batch_size": 8},
        "recipe": {"epochs": 2, "lr": 0.1, "schedule": "cosine"},
    }
    content |= {name: {**content.get(name, {}), **section} for name, section in sections.items()}
    return expand(content, "graphs").runs[0]


def trained(run: Run, graph: StepGraph | None) -> tuple[dict[str, Any], list[Tensor]]:
    """The state after some steps of a network with dropout, and their losses."""
    trainer = Trainer(run, Ranks(0, 0, 1, CPU), None, StopFlag())
    if graph is None:  # the same kernel as of recorded steps
        trainer.optimizer.sgd = build_optimizer(trainer.model, run.recipe, fused=True)
    assert isinstance(trainer.model.fc, nn.Linear)
    trainer.model.fc = nn.Sequential(nn.Dropout(0.5), trainer.model.fc)
    forward = trainer.forward_module()
    draw = torch.Generator().manual_seed(3)
    images, labels = (
        torch.randn(STEPS, 8, 3, 16, 16, generator=draw),
        torch.arange(8 * STEPS).view(-1, 8) % 10,
    )
    batches = (Batch(*batch) for batch in zip(images, labels, strict=True))
    losses = [trainer.advance(forward, batches) for _ in range(STEPS)]
    state = {"model": trainer.model.state_dict(), **trainer.optimizer.state(), **trainer.averages.state()}
    state["sums"] = trainer.epoch_sums
    state["tid"] = None if trainer.tid is None else trainer.tid.state()
    return state, losses


CASES: dict[str, dict[str, dict[str, Any]]] = {
    "mixup, ghost BN": {"batch": {"norm_batch_size": 2}, "recipe": {"mixup_alpha": 0.2}},
    "EMA, clipping": {"recipe": {"ema_decay": 0.9, "clip_grad_norm": 0.5, "nesterov": True}},
    "LARS": {"recipe": {"optimizer": "lars"}},
    "xbn": {"model": {"norm": {"kind": "xbn"}}, "recipe": {"channels_last": True, "precision": "bf16"}},
    "fused": {"recipe": {"channels_last": True}, "system": {"kernels": "fused"}},
    **{kind: {"model": {"norm": {"kind": kind}}} for kind in ("brn", "mabn", "bcbn", "gn")},
}


@pytest.mark.parametrize("case", CASES)
def test_recorded_steps_are_bit_equal_to_plain_ones(case: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Learning rate, data, mixup and dropout differ in each step; the recorded one is the third."""
    run, recorder = run_of(**CASES[case]), TapeRecorder()
    plain, plain_losses = trained(run, None)
    monkeypatch.setattr(graphs, "WARMUP_STEPS", 2)
    graph = StepGraph(recorder)
    monkeypatch.setattr(loop, "step_graph", lambda *_: graph)
    recorded, losses = trained(run, graph)
    assert recorder.log == ["aside"] * 2 + ["record"] + ["replay"] * (STEPS - 2)
    assert_bit_equal(losses, plain_losses)
    assert_bit_equal(recorded, plain)


class FailingRecorder(TapeRecorder):
    """As torch: what fails while it records is followed by an error of the recording's end."""

    def record(self, compute: Callable[[], Tensor]) -> Tensor:
        try:
            return compute()
        finally:
            raise RuntimeError("CUDA error: operation failed due to a previous error during capture")


def test_the_first_error_of_a_recording_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(graphs, "WARMUP_STEPS", 0)

    def fails(_: Tensor) -> Tensor:
        raise ValueError("reads a value")

    with pytest.raises(RuntimeError, match=r"cannot be recorded \(reads a value\): leave it out"):
        StepGraph(FailingRecorder()).step(fails, (torch.zeros(2),))


def test_inputs_of_other_shapes_or_types_are_refused() -> None:
    graph = StepGraph(TapeRecorder())
    graph.step(torch.sum, (torch.zeros(2, 3),))
    for other in (torch.zeros(1, 3), torch.zeros(2, 3, dtype=torch.float64)):
        with pytest.raises(RuntimeError, match=r"where a step has \(2, 3\) torch.float32"):
            graph.step(torch.sum, (other,))


def test_a_step_that_reads_a_value_cannot_be_recorded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(graphs, "WARMUP_STEPS", 0)
    graph = StepGraph(TapeRecorder())
    with pytest.raises(
        RuntimeError, match=r"system.cuda_graphs: a step of this run cannot be recorded \(aten.*capturing"
    ):
        graph.step(lambda x: x * x.sum().item(), (torch.ones(2),))


def test_inputs_are_read_where_the_first_ones_lay_and_keep_their_layout() -> None:
    seen: list[Tensor] = []
    graph = StepGraph(TapeRecorder())

    def compute(x: Tensor) -> Tensor:
        seen.append(x)
        return x.sum()

    given = [torch.full((2, 3, 4, 4), float(n)).contiguous(memory_format=torch.channels_last) for n in (1, 2)]
    assert [float(graph.step(compute, (x,))) for x in given] == [96, 192]
    assert seen[0] is seen[1] is not given[0]
    assert seen[0].is_contiguous(memory_format=torch.channels_last)


def test_the_copies_to_the_inputs_do_not_wait() -> None:
    graph = StepGraph(TapeRecorder())
    with HostWaits("meta") as watch:
        graph.step(lambda x, y: x.sum() + y.sum(), (torch.empty(4, device=META), torch.empty(2, device=META)))
    assert watch.count >= 5


@pytest.mark.parametrize(
    ("sections", "device", "passes", "sentence"),
    [
        ({}, CPU, 1, "the run is on a CPU"),
        ({"recipe": {"compile": True}}, GPU, 1, "recipe.compile is true"),
        ({"batch": {"norm_batch_size": 8, "batch_size_per_gpu": 4}}, GPU, 1, "norm_batch_size spans several"),
        ({}, GPU, 2, "accumulates the gradients of 2 passes"),
        (
            {"recipe": {"epochs": 2, "federated": {"clients": 2, "local_steps": 2}}},
            GPU,
            1,
            "recipe.federated exchanges",
        ),
    ],
)
def test_what_cannot_be_recorded_is_refused(
    sections: dict[str, dict[str, Any]], device: torch.device, passes: int, sentence: str
) -> None:
    run = run_of(**{**sections, "system": {"cuda_graphs": True}})
    with pytest.raises(UserError, match=rf"system.cuda_graphs is not possible here: .*{sentence}.*; set it"):
        step_graph(run, device, passes)
    assert step_graph(run_of(**sections), device, passes) is None


def test_a_cpu_run_that_asks_for_graphs_is_refused_before_it_trains() -> None:
    with pytest.raises(UserError, match=r"system.cuda_graphs is not possible here: the run is on a CPU"):
        Trainer(run_of(system={"cuda_graphs": True}), Ranks(0, 0, 1, CPU), None, StopFlag())
    assert run_of(system={"cuda_graphs": True}).run_id == run_of().run_id


def test_detection_has_no_steps_of_one_shape() -> None:
    with pytest.raises(UserError, match=r"system.cuda_graphs means nothing in detection: the shapes differ"):
        expand(
            {
                "task": {"kind": "detection", "backbone_from": "torchvision"},
                "model": {"arch": "resnet50"},
                "data": {"name": "coco", "path": "/data"},
                "system": {"cuda_graphs": True},
            },
            "graphs",
        )


# ------------------------------------------------------------ what CUDA and DDP are asked for


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[tuple[Any, ...]]:
    """What is asked of torch's CUDA, which is not there, in order."""
    log: list[tuple[Any, ...]] = []

    class Stream:
        def __init__(self, device: object = None) -> None:
            self.name = "own"

        def wait_stream(self, other: "Stream") -> None:
            log.append((self.name, "waits for", other.name))

    around = Stream()
    around.name = "around"

    @contextmanager
    def stream(one: Stream) -> Iterator[None]:
        log.append(("on", one.name))
        yield
        log.append(("off", one.name))

    @contextmanager
    def graph(_: object, *, stream: Stream, capture_error_mode: str) -> Iterator[None]:
        log.append(("graph", stream.name, capture_error_mode))
        yield

    for name, value in {"Stream": Stream, "stream": stream, "graph": graph}.items():
        monkeypatch.setattr(torch.cuda, name, value)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda _: around)
    monkeypatch.setattr(
        torch.cuda, "CUDAGraph", lambda: SimpleNamespace(replay=lambda: log.append(("replay",)))
    )
    return log


def test_the_first_steps_and_the_recording_are_on_one_stream(asked: list[tuple[Any, ...]]) -> None:
    graph = StepGraph(CudaRecorder(GPU))
    for _ in range(WARMUP_STEPS + 2):
        graph.step(lambda x: x.sum(), (torch.ones(2),))
    first = [("own", "waits for", "around"), ("on", "own"), ("off", "own"), ("around", "waits for", "own")]
    recorded = [("graph", "own", "thread_local"), ("replay",), ("replay",)]
    assert asked == first * WARMUP_STEPS + recorded
    assert WARMUP_STEPS >= 11  # which DDP asks for


def test_ddp_is_made_on_that_stream_and_its_graph_is_not_static(
    asked: list[tuple[Any, ...]], monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[tuple[Any, ...]] = []

    def make(_: object, device: object, **options: object) -> nn.Module:
        made.append((options, list(asked)))
        return nn.Identity()

    monkeypatch.setattr(data_parallel, "data_parallel", make)
    run = run_of(system={"ddp_bucket_mb": 3})
    for graph in (None, StepGraph(CudaRecorder(GPU))):
        data_parallel.step_module(nn.Identity(), run, Ranks(0, 0, 2, GPU), 1, graph)
    assert asked[-2:] == [("off", "own"), ("around", "waits for", "own")]
    assert made == [
        ({"is_static": True, "bucket_mb": 3}, []),
        ({"is_static": False, "bucket_mb": 3}, [("own", "waits for", "around"), ("on", "own")]),
    ]
