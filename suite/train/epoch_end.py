"""What is measured at the end of an epoch: the network's accuracy, and the shift of its estimates."""

import logging
import math
import time
from collections.abc import Callable
from typing import Any

from torch import nn

from suite.data.loader import BatchLoader
from suite.errors import Diverged
from suite.experiment import Run
from suite.train.averages import WeightAverages
from suite.train.checkpoint import CheckpointWriter
from suite.train.distributed import Ranks
from suite.train.estimates import RankEstimates
from suite.train.evaluate import UntilStopped
from suite.train.federation import Federation
from suite.train.heartbeat import Heartbeat, Next
from suite.train.measure import (
    accuracy_with_precise_bn,
    evaluate_and_probe,
    measure_average,
    measure_clients,
    measure_training_images,
    training_images,
)
from suite.train.metric_logger import MetricLogger
from suite.train.task import Task

log = logging.getLogger("shiftbench")


class StopRequested(Exception):
    """The ranks have agreed to stop in the middle of an epoch's end. `decision` says how."""

    def __init__(self, decision: Next) -> None:
        super().__init__(decision.name)
        self.decision = decision


class EpochEnd:
    """Evaluates and probes `model` after the epochs that `run.measure` names, and logs the results.

    The networks of averaged weights and of federated clients are measured in the same epochs. Keeps the
    weights of the best epoch in `checkpoints`, which is None on every rank but the first.
    """

    def __init__(
        self,
        run: Run,
        task: Task,
        ranks: Ranks,
        model: nn.Module,
        averages: WeightAverages,
        estimates: RankEstimates,
        federation: Federation | None,
        metrics: MetricLogger,
        checkpoints: CheckpointWriter | None,
        heartbeat: Heartbeat,
    ) -> None:
        self.run, self.task, self.ranks, self.model = run, task, ranks, model
        self.averages, self.estimates, self.federation = averages, estimates, federation
        self.metrics, self.checkpoints, self.heartbeat = metrics, checkpoints, heartbeat
        self.best_percent = -1.0
        self._loaders: dict[str, BatchLoader[Any]] = {}
        """Of the images that are evaluated. They are kept, with all that they have built."""

    def close(self) -> None:
        """Stop the loaders."""
        while self._loaders:
            self._loaders.popitem()[1].close()

    def measure(self, epoch: int, step: int) -> None:
        """Measure what is due after `epoch` (from 1) and `step` optimizer steps, on all ranks.

        A stop request ends a pass over the images early. Raises StopRequested then, before the pass's result
        is logged, and Diverged on a validation loss that is not finite.
        """
        run, epochs = self.run, self.run.num_epochs
        is_evaluated, is_probed = (
            run.measure.is_evaluated(epoch, epochs),
            run.measure.is_probed(epoch, epochs),
        )
        if not is_evaluated and not is_probed:
            return
        with self.estimates.evaluated():
            self._measure(epoch, step, is_evaluated=is_evaluated, is_probed=is_probed)

    def _measure(self, epoch: int, step: int, *, is_evaluated: bool, is_probed: bool) -> None:
        run, epochs = self.run, self.run.num_epochs
        began_s = time.perf_counter()

        def is_stop_requested() -> bool:
            return self.heartbeat.wish(step) is not Next.CONTINUE

        self.heartbeat.phase = "probing" if is_probed else "evaluating"
        loader = self._kept("val", lambda: self.task.val_loader(self.ranks))
        batches = UntilStopped(loader, is_stop_requested)
        place = (self.task, self.model, self.ranks)
        result, profile = evaluate_and_probe(*place, batches, with_shift=is_probed)
        self._raise_if_stopped(step)
        if is_evaluated:
            if result.loss is not None and not math.isfinite(result.loss):
                raise Diverged(f"the validation loss is not finite after step {step}")
            self.metrics.evaluation(result, epoch=epoch, step=step)
            self.metrics.bad_images(loader, "val", epoch=epoch, step=step)
            self._keep_if_best(epoch, result.accuracy_percent)
            if run.measure.eval_train:
                images = self._kept("train", lambda: training_images(run, self.task, self.ranks))
                batches_of_training = UntilStopped(images, is_stop_requested)
                on_training = measure_training_images(run, *place, batches_of_training, with_shift=is_probed)
                self._raise_if_stopped(step)
                self.metrics.training_images(on_training, epoch=epoch, step=step)
        if profile is not None:
            percent = None
            if epoch == epochs:
                percent = accuracy_with_precise_bn(run, *place, batches, is_stop_requested)
                self._raise_if_stopped(step)
            self.metrics.shift(profile, percent, epoch=epoch, step=step)
        for weights, network in self.averages.networks.items():
            average = measure_average(
                run,
                self.task,
                network,
                self.ranks,
                batches,
                is_stop_requested,
                with_accuracy=is_evaluated,
                with_shift=is_probed,
            )
            self._raise_if_stopped(step)
            self.metrics.average(weights, average, epoch=epoch, step=step)
        if self.federation is not None:
            of_clients = measure_clients(
                run,
                self.task,
                self.federation,
                self.ranks,
                is_stop_requested,
                with_top1=is_evaluated,
                with_shift=is_probed,
            )
            self._raise_if_stopped(step)
            self.metrics.clients(of_clients, epoch=epoch, step=step)
        self.heartbeat.phase = "training"
        duration_s = time.perf_counter() - began_s
        self.metrics.measure("epoch_end_time_s", duration_s, "train", epoch=epoch, step=step)

    def _kept(self, images: str, make: Callable[[], BatchLoader[Any]]) -> BatchLoader[Any]:
        """Return the loader of these images, which the first call makes."""
        if images not in self._loaders:
            self._loaders[images] = make()
        return self._loaders[images]

    def _raise_if_stopped(self, step: int) -> None:
        decision = Next(self.ranks.agree(self.heartbeat.wish(step)))
        if decision is not Next.CONTINUE:
            raise StopRequested(decision)

    def _keep_if_best(self, epoch: int, percent: float) -> None:
        entry = self.run.task.entry
        log.info("epoch %d of %d: %s %.2f %%", epoch, self.run.num_epochs, entry.title, percent)
        if percent > self.best_percent:
            self.best_percent = percent
            if self.checkpoints is not None:
                self.checkpoints.save_best({"model": self.model.state_dict(), "epoch": epoch})
        self.metrics.progress(evaluated_epoch=epoch, **{entry.metric: percent})
