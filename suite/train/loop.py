"""Training a run, from its first step or from its newest checkpoint, to its record.

What a step does is a function of (run, step) and of the weights before it: order and crops come from
the data plan, mixup and dropout from generators keyed by the step. So a run that was stopped and
resumed ends bit-equal to one that was not.
"""

import time
from collections.abc import Iterator
from contextlib import nullcontext
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from suite.data import Batch, Loader, check_data, steps_per_epoch, train_loader
from suite.errors import Diverged, Preempted
from suite.experiment import Run
from suite.models import build_model, set_norm_batch_size
from suite.record import RecordWriter
from suite.signals import StopFlag
from suite.train.distributed import Ranks
from suite.train.epoch_end import EpochEnd
from suite.train.evaluate import batch_sums
from suite.train.logbook import Logbook
from suite.train.measure import measure_work, tid_meter
from suite.train.meter import Meter
from suite.train.optim import autocast, build_optimizer, mixup, seed_for, set_learning_rate

GO_ON, STOP, STOP_WARNED, DIVERGED = 0, 1, 2, 3
HEARTBEAT_S = 5.0  # between two words to the status file, and two looks for a newer start
CHECK_LOSS_EVERY_STEPS = 20  # reading the loss waits for the GPU


class Trainer:
    """One rank of one run. `record` is None on every rank but the first."""

    def __init__(self, run: Run, ranks: Ranks, record: RecordWriter | None, stop: StopFlag) -> None:
        self.run, self.ranks, self.record, self.stop = run, ranks, record, stop
        self.accumulation_steps = run.batch.accumulation_steps(ranks.world_size)
        check_data(run)  # a missing val/ is no surprise to keep for the epoch's end
        self.steps_per_epoch = steps_per_epoch(run)
        self.total_steps = run.recipe.epochs * self.steps_per_epoch
        torch.manual_seed(run.seed)
        model = build_model(run.model)
        if run.recipe.channels_last:
            model = model.to(memory_format=torch.channels_last)
        model = model.to(ranks.device)
        self.model = set_norm_batch_size(
            model, run.batch.norm, run.batch.per_gpu, ranks.device, run.system.collective_timeout_s
        )
        self.optimizer = build_optimizer(self.model, run.recipe)
        self.meter = Meter(run.measure.warmup_steps, ranks.device)
        self.tid = tid_meter(run, self.model, ranks)
        self.ddp: DistributedDataParallel | None = None
        self.step = 0
        self.epoch_sums = torch.zeros(4, dtype=torch.float64, device=ranks.device)
        self.logbook = Logbook(ranks, record)
        self.epoch_end = EpochEnd(run, ranks, self.model, self.logbook)
        self.to_evaluate = False
        self._spoke_at = time.monotonic()
        self._is_to_leave = False

    # ------------------------------------------------------------ the run

    def train(self, state: dict[str, Any] | None) -> None:
        """Train to the end. Raises Preempted after a stop signal, Diverged on a loss that is not finite."""
        if state is not None:
            self._load(state)
        self._speak()
        forward = self.forward_module()
        loader = train_loader(
            self.run,
            start_step=self.step,
            rank=self.ranks.rank,
            world_size=self.ranks.world_size,
            device=self.ranks.device,
        )
        try:
            if self.to_evaluate:
                self._evaluate()
            batches = iter(loader)
            self.meter.restart_epoch()
            while self.step < self.total_steps:
                code = self.agree(self.advance(forward, batches))
                at_epoch_end = self.step % self.steps_per_epoch == 0
                self._record_tid_of_steps()
                if at_epoch_end:
                    self._record_epoch(loader)
                if code != GO_ON or self._checkpoint_is_due():
                    self._save(to_evaluate=at_epoch_end)
                if code != GO_ON:
                    raise self._preempted(code)
                if at_epoch_end:
                    self._evaluate()
                    self.meter.restart_epoch()
            self._finish()
        finally:
            loader.close()

    def forward_module(self) -> nn.Module:
        """What a step calls: the model, within DDP and compiled as the run asks."""
        if self.ranks.world_size > 1:
            ids = [self.ranks.device] if self.ranks.device.type == "cuda" else None
            # Estimates are shared before evaluating: training does not read them.
            self.ddp = DistributedDataParallel(self.model, device_ids=ids, broadcast_buffers=False)
        forward = self.ddp or self.model
        return torch.compile(forward) if self.run.recipe.compile else forward  # type: ignore[return-value]

    def advance(self, forward: nn.Module, batches: Iterator[Batch]) -> Tensor:
        """One optimizer step over the global batch; returns this rank's share of the loss."""
        recipe = self.run.recipe
        set_learning_rate(self.optimizer, recipe.lr_at(self.step / self.steps_per_epoch))
        torch.manual_seed(seed_for(self.run.seed, self.step, self.ranks.rank))  # dropout's
        self.model.train()
        total = torch.zeros((), device=self.ranks.device)
        for micro in range(self.accumulation_steps):
            with self.meter.waiting_for_data():
                batch = next(batches)
            is_last = micro == self.accumulation_steps - 1
            with nullcontext() if is_last or self.ddp is None else self.ddp.no_sync():
                loss = self._loss(forward, batch, micro) / self.accumulation_steps
                if self.tid is not None:
                    self.tid.update()
                torch.autograd.backward(loss)
            total += loss.detach()
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        self.step += 1
        self.meter.step_done()
        return total

    def _loss(self, forward: nn.Module, batch: Batch, micro: int) -> Tensor:
        recipe = self.run.recipe
        images_NCHW, labels_N = batch.images_NCHW, batch.labels_N
        if recipe.channels_last:
            images_NCHW = images_NCHW.contiguous(memory_format=torch.channels_last)
        others_N, weight = labels_N, 1.0
        if recipe.mixup_alpha:
            key = (self.run.seed, self.step, micro, self.ranks.rank)
            images_NCHW, others_N, weight = mixup(images_NCHW, labels_N, recipe.mixup_alpha, key)
        with autocast(self.ranks.device, recipe.precision):
            logits_NK = forward(images_NCHW)
        logits_NK = logits_NK.float()
        self.epoch_sums += batch_sums(logits_NK.detach(), labels_N)
        loss = F.cross_entropy(logits_NK, labels_N, label_smoothing=recipe.label_smoothing)
        if weight == 1.0:
            return loss
        other = F.cross_entropy(logits_NK, others_N, label_smoothing=recipe.label_smoothing)
        return weight * loss + (1 - weight) * other

    def agree(self, loss: Tensor) -> int:
        """Agree with the other ranks, at this step's boundary, to go on or to stop. Raises Diverged."""
        if time.monotonic() - self._spoke_at > HEARTBEAT_S:
            self._speak()
        code = self._wish()
        looks = code != GO_ON or self._checkpoint_is_due() or self.step % CHECK_LOSS_EVERY_STEPS == 0
        if looks and not torch.isfinite(loss):  # a checkpoint of it would push out a good one
            code = DIVERGED
        code = self.ranks.agree(code)
        if code == DIVERGED:
            raise Diverged(f"the loss is not finite at step {self.step} (epoch {self.epoch})")
        return code

    def _wish(self) -> int:
        """What this rank alone would do now."""
        if self.stop.warned:
            return STOP_WARNED
        return STOP if self.stop.signal or self._is_to_leave else GO_ON

    def _is_asked_to_stop(self) -> bool:
        """Between two batches of an evaluation, which may take many minutes."""
        if time.monotonic() - self._spoke_at > HEARTBEAT_S:
            self._speak()
        return self._wish() != GO_ON

    def _speak(self) -> None:
        """Say in the status file how far training is, and look whether this process is asked to leave."""
        self._spoke_at = time.monotonic()
        if self.record is not None:
            self._is_to_leave = self.record.is_claimed() or self.record.stop_request() is not None
            speed = self.meter.images_per_s(self.run.batch.global_batch_size)
            self.record.status(
                "running",
                step=self.step,
                total_steps=self.total_steps,
                **({} if speed is None else {"images_per_s": speed}),
            )

    def _preempted(self, code: int) -> Preempted:
        return Preempted(
            f"stopped after step {self.step} of {self.total_steps}", is_warned=code == STOP_WARNED
        )

    def _checkpoint_is_due(self) -> bool:
        system = self.run.system
        epochs, rest = divmod(self.step, self.steps_per_epoch)
        if rest == 0 and (epochs % system.checkpoint_every_epochs == 0 or self.step == self.total_steps):
            return True
        return system.checkpoint_every_steps is not None and self.step % system.checkpoint_every_steps == 0

    # ------------------------------------------------------------ the end of an epoch

    @property
    def epoch(self) -> int:
        """Epochs completed, for records made at an epoch's end; the running epoch counts once begun."""
        return -(-self.step // self.steps_per_epoch)

    def _record_epoch(self, loader: Loader) -> None:
        """Measure the training of the epoch that has just ended."""
        self.logbook.turn_to(self.epoch, self.step)
        learning_rate = self.optimizer.param_groups[0]["lr"]
        self.logbook.training(
            self.epoch_sums, learning_rate, self.meter.summary(self.run.batch.global_batch_size)
        )
        self.logbook.energy(self.meter.energy_j_per_step(), self.run.batch.global_batch_size)
        if self.tid is not None:
            self.logbook.tid(self.tid)
        self.logbook.bad_images(loader, "train")
        self.epoch_sums.zero_()

    def _record_tid_of_steps(self) -> None:
        """Where that is due: every so many steps, and at an epoch's end the steps that are left of it."""
        every = self.run.measure.tid_every_steps
        step_of_epoch = self.step % self.steps_per_epoch
        if self.tid is not None and every is not None and step_of_epoch % every == 0:
            self.logbook.turn_to(self.epoch, self.step)
            self.logbook.tid_of_steps(self.tid)

    def _evaluate(self) -> None:
        """Evaluate and probe where this epoch is due; the checkpoint before it makes that repeatable.

        Raises Preempted after a stop signal: what was measured so far is dropped, and repeated on resuming.
        """
        self.to_evaluate = False
        if not self.epoch_end.is_due(self.epoch):
            return
        self.logbook.turn_to(self.epoch, self.step)
        stop_if_asked = partial(self._stop_evaluation_if_asked, self.logbook.size_bytes)
        self.epoch_end.measure(self.epoch, self._is_asked_to_stop, stop_if_asked)

    def _stop_evaluation_if_asked(self, size_bytes: int) -> None:
        code = self.ranks.agree(self._wish())
        if code == GO_ON:
            return
        # The state is that of the epoch's end, and the measurements are to be cut back to that.
        self._save(to_evaluate=True, size_bytes=size_bytes)
        raise self._preempted(code)

    def _finish(self) -> None:
        if self.record is not None:
            self.logbook.turn_to(self.epoch, self.step)
            for name, value in measure_work(self.run, self.ranks, self.logbook.images_per_s).items():
                self.logbook.measure(name, value, "train")

    # ------------------------------------------------------------ checkpoints

    def _save(self, to_evaluate: bool, size_bytes: int | None = None) -> None:
        state = {
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "step": self.step,
            "epoch_sums": self.ranks.gather(self.epoch_sums),
            "tid": None if self.tid is None else self.tid.state(),
            "best_top1_percent": self.epoch_end.best_top1_percent,
            "to_evaluate": to_evaluate,
            "measurements_size_bytes": self.logbook.size_bytes if size_bytes is None else size_bytes,
        }
        self.logbook.turn_to(self.epoch, self.step)
        self.logbook.checkpoint(state)

    def _load(self, state: dict[str, Any]) -> None:
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.step = state["step"]
        sums_R4 = state["epoch_sums"]
        if len(sums_R4) == self.ranks.world_size:
            self.epoch_sums.copy_(sums_R4[self.ranks.rank])
        elif self.ranks.is_first:  # resumed on another number of ranks
            self.epoch_sums.copy_(sums_R4.sum(dim=0))
        if self.tid is not None:
            self.tid.load(state.get("tid"))
        self.epoch_end.best_top1_percent = state["best_top1_percent"]
        self.to_evaluate = state["to_evaluate"]
