"""What is measured of a network at the end of an epoch: its accuracy, and the shift of its estimates."""

import logging
import math
from collections.abc import Callable

from torch import nn

from suite.data import val_loader
from suite.errors import Diverged
from suite.experiment import Run
from suite.train.distributed import Ranks
from suite.train.evaluate import UntilStopped, evaluate
from suite.train.logbook import Logbook
from suite.train.measure import measure_shift, measure_training_images

log = logging.getLogger("shiftbench")


class EpochEnd:
    """Evaluates and probes `model` after the epochs that are due by `run.measure`, into the logbook."""

    def __init__(self, run: Run, ranks: Ranks, model: nn.Module, logbook: Logbook) -> None:
        self.run, self.ranks, self.model, self.logbook = run, ranks, model, logbook
        self.best_top1_percent = -1.0

    def is_due(self, epoch: int) -> bool:
        """Return whether anything is measured after `epoch`."""
        return self._is_evaluated(epoch) or self._is_probed(epoch)

    def _is_evaluated(self, epoch: int) -> bool:
        return self.run.measure.is_evaluated(epoch, self.run.recipe.epochs)

    def _is_probed(self, epoch: int) -> bool:
        return self.run.measure.is_probed(epoch, self.run.recipe.epochs)

    def measure(
        self, epoch: int, is_asked_to_stop: Callable[[], bool], stop_if_asked: Callable[[], None]
    ) -> None:
        """Measure what is due after `epoch`, on all ranks. Raises Diverged on a loss that is not finite.

        `is_asked_to_stop` is heard between two batches, which ends a pass early. So `stop_if_asked` is called
        after each pass, before its result is noted: where it raises, nothing of the pass remains.
        """
        self.ranks.share_buffers(self.model)
        loader = val_loader(
            self.run,
            images_per_batch=self.run.batch.per_gpu,
            rank=self.ranks.rank,
            world_size=self.ranks.world_size,
            device=self.ranks.device,
        )
        try:
            batches = UntilStopped(loader, is_asked_to_stop)
            if self._is_evaluated(epoch):
                result = evaluate(self.model, batches, self.ranks, self.run.recipe.precision)
                stop_if_asked()
                if not math.isfinite(result.loss):
                    raise Diverged(f"the validation loss is not finite after step {self.logbook.step}")
                self.logbook.evaluation(result)
                self.logbook.bad_images(loader, "val")
                self._keep_if_best(epoch, result.top1_percent)
                if self.run.measure.eval_train:
                    top1 = measure_training_images(self.run, self.model, self.ranks, is_asked_to_stop)
                    stop_if_asked()
                    self.logbook.measure("top1_inference_percent", top1, "train")
            if self._is_probed(epoch):
                with_precise = epoch == self.run.recipe.epochs
                profile, top1_precise = measure_shift(self.run, self.model, self.ranks, batches, with_precise)
                stop_if_asked()
                self.logbook.shift(profile, top1_precise)
        finally:
            loader.close()

    def _keep_if_best(self, epoch: int, top1_percent: float) -> None:
        is_best = top1_percent > self.best_top1_percent
        self.best_top1_percent = max(self.best_top1_percent, top1_percent)
        log.info("epoch %d of %d: top-1 %.2f %%", epoch, self.run.recipe.epochs, top1_percent)
        self.logbook.best(top1_percent, self.model.state_dict() if is_best else None)
