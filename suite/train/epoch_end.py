"""What is measured at the end of an epoch: the network's accuracy, and the shift of its estimates."""

import logging
import math

from torch import nn

from suite.data import val_loader
from suite.errors import Diverged
from suite.experiment import Run
from suite.train.averages import WeightAverages
from suite.train.checkpoint import CheckpointStore
from suite.train.distributed import Ranks
from suite.train.evaluate import UntilStopped
from suite.train.heartbeat import Heartbeat, Next
from suite.train.measure import (
    evaluate_and_probe,
    measure_average,
    measure_training_images,
    top1_with_precise_bn,
)
from suite.train.metric_logger import MetricLogger

log = logging.getLogger("shiftbench")


class StopRequested(Exception):
    """The ranks have agreed to stop in the middle of an epoch's end. `decision` says how."""

    def __init__(self, decision: Next) -> None:
        super().__init__(decision.name)
        self.decision = decision


class EpochEnd:
    """Evaluates and probes `model` after the epochs that `run.measure` names, and logs the results.

    The networks of averaged weights are measured in the same epochs. Keeps the weights of the best epoch in
    `checkpoints`, which is None on every rank but the first.
    """

    def __init__(
        self,
        run: Run,
        ranks: Ranks,
        model: nn.Module,
        averages: WeightAverages,
        metrics: MetricLogger,
        checkpoints: CheckpointStore | None,
        heartbeat: Heartbeat,
    ) -> None:
        self.run, self.ranks, self.model, self.averages = run, ranks, model, averages
        self.metrics, self.checkpoints, self.heartbeat = metrics, checkpoints, heartbeat
        self.best_top1_percent = -1.0

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

        def is_stop_requested() -> bool:
            return self.heartbeat.wish(step) is not Next.CONTINUE

        self.ranks.share_buffers(self.model)
        loader = val_loader(self.run, images_per_batch=self.run.batch.per_gpu, **self.ranks.place)
        try:
            batches = UntilStopped(loader, is_stop_requested)
            result, profile = evaluate_and_probe(run, self.model, self.ranks, batches, with_shift=is_probed)
            self._raise_if_stopped(step)
            if is_evaluated:
                if not math.isfinite(result.loss):
                    raise Diverged(f"the validation loss is not finite after step {step}")
                self.metrics.evaluation(result, epoch=epoch, step=step)
                self.metrics.bad_images(loader, "val", epoch=epoch, step=step)
                self._keep_if_best(epoch, result.top1_percent)
                if run.measure.eval_train:
                    on_training = measure_training_images(
                        run, self.model, self.ranks, is_stop_requested, with_shift=is_probed
                    )
                    self._raise_if_stopped(step)
                    self.metrics.training_images(on_training, epoch=epoch, step=step)
            if profile is not None:
                top1_percent = None
                if epoch == epochs:
                    place = (self.model, self.ranks, batches, is_stop_requested)
                    top1_percent = top1_with_precise_bn(run, *place)
                    self._raise_if_stopped(step)
                self.metrics.shift(profile, top1_percent, epoch=epoch, step=step)
            for weights, network in self.averages.networks.items():
                self.ranks.share_buffers(network)
                average = measure_average(
                    run,
                    network,
                    self.ranks,
                    batches,
                    is_stop_requested,
                    with_top1=is_evaluated,
                    with_shift=is_probed,
                )
                self._raise_if_stopped(step)
                self.metrics.average(weights, average, epoch=epoch, step=step)
        finally:
            loader.close()

    def _raise_if_stopped(self, step: int) -> None:
        decision = Next(self.ranks.agree(self.heartbeat.wish(step)))
        if decision is not Next.CONTINUE:
            raise StopRequested(decision)

    def _keep_if_best(self, epoch: int, top1_percent: float) -> None:
        log.info("epoch %d of %d: top-1 %.2f %%", epoch, self.run.num_epochs, top1_percent)
        if top1_percent > self.best_top1_percent:
            self.best_top1_percent = top1_percent
            if self.checkpoints is not None:
                self.checkpoints.save_best({"model": self.model.state_dict(), "epoch": epoch})
        self.metrics.progress(evaluated_epoch=epoch, top1_percent=top1_percent)
