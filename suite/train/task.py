"""What the training loop asks of a task: its network, its batches, its loss, and how it is evaluated."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

import torch
from torch import Tensor, nn

from suite.data.loader import BatchLoader
from suite.experiment import Run
from suite.shift.batches import Images
from suite.specs.choice import resolve

if TYPE_CHECKING:
    from suite.train.distributed import Ranks


@dataclass(frozen=True)
class Evaluated:
    """A network over validation images of all ranks, each counted once.

    `accuracy_percent` is the value of the task's metric; `metrics` are all values by their names in
    `suite.metrics`. `loss`: None where a task has none in inference mode. `files`: texts for the run folder
    by name, on the first rank.
    """

    accuracy_percent: float
    metrics: Mapping[str, float]
    loss: float | None = None
    files: Mapping[str, str] = field(default_factory=dict)


class Task(Protocol):
    """A task of one run. `num_sums`: how many sums over training images `objective` returns."""

    num_sums: int

    def steps_per_pass(self) -> int:
        """Return the optimizer steps of one pass over the training images."""

    def check_data(self) -> None:
        """Raise UserError for data that training or validation would refuse."""

    def build(self) -> nn.Module:
        """Return the network with its first weights, on the CPU."""

    def start(self, model: nn.Module, ranks: "Ranks") -> None:
        """Prepare a network that is trained from its first step, on its device. Every rank calls this."""

    def train_loader(self, start_step: int, ranks: "Ranks") -> BatchLoader[Any]:
        """Return this rank's micro-batches from an optimizer step on, without end."""

    def val_loader(self, ranks: "Ranks") -> BatchLoader[Any]:
        """Return this rank's share of the validation images."""

    def objective(self, model: nn.Module) -> nn.Module:
        """Return the module that a step calls, compiled or within DDP: a network with its loss.

        Called with what `inputs` returns, it returns the mean loss, (), and the sums, (num_sums,) float64.
        """

    def inputs(self, batch: Any, key: tuple[int, ...]) -> tuple[Any, ...]:
        """Return what `objective` takes of a micro-batch.

        `key`: seed, step, micro-batch and rank, which decide what is drawn.
        """

    def training_metrics(self, sums_S: Tensor) -> dict[str, float]:
        """Return the metrics of an epoch of training from its sums over all ranks."""

    def evaluate(self, model: nn.Module, batches: Iterable[Any], ranks: "Ranks") -> Evaluated:
        """Evaluate in inference mode, and restore the modules' modes. Every rank gives its own share."""

    def example(self, device: torch.device) -> Images:
        """Return a batch of one image, which the network takes in inference mode."""

    def work(self, model: nn.Module, device: torch.device) -> Tensor:
        """Return a scalar whose backward pass is that of training on one image.

        The first rank alone calls this, so that it must not wait for other ranks.
        """


def task_of(run: Run) -> Task:
    """Return the task of a run."""
    task: Task = resolve(run.task.entry.task)(run)
    return task


def steps_per_epoch(run: Run, task: Task) -> int:
    """Return the optimizer steps of an epoch of the record."""
    iterations = run.recipe.iterations
    return task.steps_per_pass() if iterations is None else iterations // run.num_epochs
