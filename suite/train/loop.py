"""Training a run, from its first step or from its newest checkpoint, to its record.

What a step does is a function of (run, step) and of the weights before it: order and crops come from
the data plan, mixup and dropout from generators keyed by the step. So a run that was stopped and
resumed ends bit-equal to one that was not.
"""

from collections.abc import Iterator
from contextlib import ExitStack
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from suite.data.loader import BatchLoader
from suite.errors import Diverged, Preempted
from suite.experiment import Run
from suite.kernels import FusedNorms
from suite.models import set_norm_batch_size
from suite.record import RecordWriter
from suite.signals import StopFlag
from suite.train.averages import WeightAverages
from suite.train.boundary import Boundary
from suite.train.checkpoint import CheckpointStore, CheckpointWriter
from suite.train.data_parallel import exchanging_gradients, step_module
from suite.train.distributed import Ranks
from suite.train.epoch_end import EpochEnd, StopRequested
from suite.train.estimates import rank_estimates
from suite.train.federation import Federation
from suite.train.graphs import step_graph
from suite.train.heartbeat import Heartbeat, Next
from suite.train.kernels import norm_kernels
from suite.train.measure import measure_work, tid_meter
from suite.train.meter import Meter
from suite.train.metric_logger import MetricLogger
from suite.train.optim import Optimizer, seed_device, seed_for
from suite.train.task import steps_per_epoch, task_of


class Trainer:
    """One rank of one run. `record` is None on every rank but the first."""

    def __init__(self, run: Run, ranks: Ranks, record: RecordWriter | None, stop: StopFlag) -> None:
        self.run, self.ranks = run, ranks
        self.accumulation_steps = run.batch.accumulation_steps(ranks.world_size)
        self.task = task_of(run)
        self.task.check_data()  # now, so that a missing val/ does not end the run after its first epoch
        self.steps_per_epoch = steps_per_epoch(run, self.task)
        self.total_steps = run.num_epochs * self.steps_per_epoch
        torch.manual_seed(run.seed)
        layout = torch.channels_last if run.recipe.channels_last else torch.preserve_format
        model = self.task.build().to(memory_format=layout).to(ranks.device)

        kernels = norm_kernels(run, ranks.device)

        def prepared(network: nn.Module) -> nn.Module:
            batch, timeout_s = run.batch, run.system.collective_timeout_s
            network = set_norm_batch_size(network, batch.norm, batch.per_gpu, ranks.device, timeout_s)
            fused.append(kernels.put_into(network, run))
            return network

        fused: list[FusedNorms] = []
        self.averages = WeightAverages(model, run.recipe, self.steps_per_epoch, prepared)
        self.model = prepared(model)
        self.estimates = rank_estimates(run, ranks, lambda: {"model": self.model} | self.averages.networks)
        self.graph = step_graph(run, ranks.device, self.accumulation_steps)
        self.optimizer = Optimizer(self.model, run.recipe, ranks.device, is_recorded=self.graph is not None)
        federated = run.recipe.federated
        self.federation = None if federated is None else Federation(self.model, self.optimizer.sgd, federated)
        self.step = 0
        self.to_evaluate = False  # whether an epoch has ended whose evaluation is still missing
        self.epoch_sums = torch.zeros(self.task.num_sums, dtype=torch.float64, device=ranks.device)
        self.boundary = Boundary(ranks)
        self.meter = Meter(run.measure.warmup_steps, ranks.device)
        self.tid = tid_meter(run, self.task, self.model, ranks)
        self.metrics = MetricLogger(ranks, record, run.task.entry.accuracy)
        if kernels.ran == "fused":
            self.metrics.progress(fused_norms=str(fused[-1]))
        self.checkpoints = (
            None if record is None else CheckpointWriter(CheckpointStore(record.paths), ranks.device)
        )
        steps = (self.total_steps, run.batch.global_batch_size, run.num_epochs)
        self.heartbeat = Heartbeat(record, stop, self.meter, *steps, lambda: self.boundary.finite.loss)
        parts = (self.averages, self.estimates, self.federation, self.metrics, self.checkpoints)
        self.epoch_end = EpochEnd(run, self.task, ranks, self.model, *parts, self.heartbeat)

    @property
    def epoch(self) -> int:
        """The current epoch, counted from 1; at an epoch's end the one that has ended."""
        return -(-self.step // self.steps_per_epoch)

    # ------------------------------------------------------------ the run

    def train(self, state: dict[str, Any] | None) -> None:
        """Train to the end, from a checkpoint's `state` or from the first step.

        Raises Preempted after a stop request, with a checkpoint written, and Diverged on a loss that is not
        finite.
        """
        if state is not None:
            self._load(state)
        else:
            self.task.start(self.model, self.ranks)
        self.heartbeat.beat(self.step)
        forward = self.forward_module()
        self.estimates.load((state or {}).get("rank_estimates"))  # DDP gives every rank the first one's
        self.metrics.begin(self.run)
        loader = self.task.train_loader(self.step, self.ranks)
        with ExitStack() as closing:
            if self.checkpoints is not None:
                closing.callback(self.checkpoints.close)
            closing.callback(self.heartbeat.close)
            closing.push(self.metrics.end)
            closing.callback(loader.close)
            closing.callback(self.epoch_end.close)
            if self.to_evaluate:
                self._evaluate()
            batches = iter(loader)
            self.meter.restart_epoch()
            while self.step < self.total_steps:
                decision = self.agree(self.advance(forward, batches))
                self._log_tid_of_steps()
                if self._is_epoch_end:
                    self._log_epoch(loader)
                if decision is not Next.CONTINUE or self._checkpoint_is_due():
                    self._save(self._is_epoch_end, self.metrics.size_bytes)
                if decision is not Next.CONTINUE:
                    self._wait_for_files()
                    raise self._preempted(decision)
                if self._is_epoch_end:
                    self._evaluate()
                    self.meter.restart_epoch()
            self._log_work()
            self._wait_for_files()

    def forward_module(self) -> nn.Module:
        """Return the module that a step calls: network and loss, compiled if the run says so, within DDP."""
        self.model.train()
        if self.ranks.world_size > 1:
            self.meter.watch_gradients(self.model, is_replayed=self.graph is not None)
        objective = self.task.objective(self.model)
        return step_module(objective, self.run, self.ranks, self.accumulation_steps, self.graph)

    def advance(self, forward: nn.Module, batches: Iterator[Any]) -> Tensor:
        """Do one optimizer step over the global batch. Returns this rank's share of the loss, ()."""
        recipe = self.run.recipe
        step = self.step
        if self.federation is not None:
            step = self.federation.parallel_steps(self.step)
            if self.federation.begin_step(self.step) and self.tid is not None:
                self.tid.restart()  # the estimates that it goes on from are another client's
        self.optimizer.set_lr(recipe.lr_at(recipe.position(step, self.steps_per_epoch)))
        seed_device(self.ranks.device, seed_for(self.run.seed, self.step, self.ranks.rank))  # for dropout
        if not self.model.training:  # setting each module's mode takes as long as many of its kernels
            self.model.train()
        total = torch.zeros((), device=self.ranks.device)
        for micro in range(self.accumulation_steps):
            with self.meter.waiting_for_data():
                batch = next(batches)
            inputs = self.task.inputs(batch, (self.run.seed, self.step, micro, self.ranks.rank))
            compute = partial(self._compute, forward, is_last=micro == self.accumulation_steps - 1)
            total += compute(*inputs) if self.graph is None else self.graph.step(compute, inputs)
            if self.tid is not None:
                self.tid.update()
        self.step += 1
        if self.federation is not None:
            self.federation.end_step(self.step)
        self.averages.update(self.model, self.step)
        self.meter.step_done()
        return total

    def _compute(self, forward: nn.Module, *inputs: Any, is_last: bool) -> Tensor:
        """Compute a micro-batch's gradients, and after the last one the new weights. Returns its loss, ().

        All of it may be recorded once: it reads nothing that changes from step to step but tensors.
        """
        with exchanging_gradients(forward, is_last):
            loss, sums = forward(*inputs)
            self.epoch_sums += sums
            loss = loss / self.accumulation_steps
            self.optimizer.backward(loss)
        if is_last:
            self.meter.gradients_exchanged()
            self.optimizer.step()
        detached: Tensor = loss.detach()
        return detached

    def agree(self, loss: Tensor) -> Next:
        """Agree with the other ranks, at this step's boundary, to continue or to stop. Raises Diverged."""
        settles = self._checkpoint_is_due() or self._is_epoch_end
        decision = self.boundary.decide(self.heartbeat.wish(self.step), loss, self.step, settles=settles)
        if decision is Next.FAIL:
            step = self.boundary.finite.failed_at or self.step
            raise Diverged(
                f"the loss is not finite at step {step} (epoch {-(-step // self.steps_per_epoch)})"
            )
        return decision

    def _preempted(self, decision: Next) -> Preempted:
        is_warned = decision is Next.STOP_WARNED
        return Preempted(f"stopped after step {self.step} of {self.total_steps}", is_warned=is_warned)

    # ------------------------------------------------------------ measuring

    def _log_tid_of_steps(self) -> None:
        """Log TID every `tid_every_steps` steps, and of the remaining steps at an epoch's end."""
        every = self.run.measure.tid_every_steps
        if self.tid is not None and every is not None and self.step % self.steps_per_epoch % every == 0:
            self.metrics.tid_of_steps(self.tid, epoch=self.epoch, step=self.step)

    def _log_epoch(self, loader: BatchLoader[Any]) -> None:
        """Log what was measured in the epoch of training that has just ended."""
        epoch, step, images = self.epoch, self.step, self.run.batch.global_batch_size
        values = self.task.training_metrics(self.ranks.sum(self.epoch_sums.clone()))
        values |= {"learning_rate": self.optimizer.lr, **self.meter.summary(images)}
        self.metrics.training(values, epoch=epoch, step=step)
        self.metrics.of_ranks(values, images, epoch=epoch, step=step)
        self.metrics.energy(self.meter.energy_j_per_step(), images, epoch=epoch, step=step)
        if self.tid is not None:
            self.metrics.tid(self.tid, epoch=epoch, step=step)
        self.metrics.bad_images(loader, "train", epoch=epoch, step=step)
        self.epoch_sums.zero_()

    def _evaluate(self) -> None:
        """Measure the end of an epoch. The checkpoint before it makes that repeatable.

        Raises Preempted after a stop request. The checkpoint is that of the epoch's end: resuming from it
        drops what has been measured since, and measures all of it again.
        """
        self.to_evaluate = False
        size_bytes = self.metrics.size_bytes
        try:
            self.epoch_end.measure(self.epoch, self.step)
        except StopRequested as request:
            self._save(True, size_bytes)
            self._wait_for_files()
            raise self._preempted(request.decision) from None

    def _log_work(self) -> None:
        if self.metrics.record is not None:
            work = measure_work(self.run, self.task, self.model, self.ranks, self.metrics.images_per_s)
            for name, value in work.items():
                self.metrics.measure(name, value, "train", epoch=self.epoch, step=self.step)

    # ------------------------------------------------------------ checkpoints

    @property
    def _is_epoch_end(self) -> bool:
        return self.step % self.steps_per_epoch == 0

    def _checkpoint_is_due(self) -> bool:
        system = self.run.system
        epochs, rest = divmod(self.step, self.steps_per_epoch)
        if rest == 0 and (epochs % system.checkpoint_every_epochs == 0 or self.step == self.total_steps):
            return True
        return system.checkpoint_every_steps is not None and self.step % system.checkpoint_every_steps == 0

    def _save(self, to_evaluate: bool, size_bytes: int) -> None:
        """Begin to write a checkpoint, from which resuming cuts the measurements back to `size_bytes`."""
        with self.estimates.saved() as own_estimates:
            state = {
                "model": self.model.state_dict(),
                **self.averages.state(),
                "rank_estimates": own_estimates,
                "federation": None if self.federation is None else self.federation.state(),
                **self.optimizer.state(),
                "step": self.step,
                "epoch_sums": self.ranks.gather(self.epoch_sums),
                "tid": None if self.tid is None else self.tid.state(),
                f"best_{self.run.task.entry.metric}": self.epoch_end.best_percent,
                "to_evaluate": to_evaluate,
                "measurements_size_bytes": size_bytes,
            }
            if self.checkpoints is not None:
                done = partial(self.metrics.progress, epoch=self.epoch, step=self.step)
                self.checkpoints.save(self.step, state, lambda duration_s: done(checkpoint_s=duration_s))

    def _wait_for_files(self) -> None:
        """Wait until checkpoints are on disk. OSError if one could not be written."""
        if self.checkpoints is not None:
            self.checkpoints.wait()

    def _load(self, state: dict[str, Any]) -> None:
        self.model.load_state_dict(state["model"])
        self.averages.load(state)
        self.estimates.load(state.get("rank_estimates"))
        if self.federation is not None:
            self.federation.load(state["federation"])
        self.optimizer.load(state)
        self.step = state["step"]
        sums_R4 = state["epoch_sums"]
        if len(sums_R4) == self.ranks.world_size:
            self.epoch_sums.copy_(sums_R4[self.ranks.rank])
        elif self.ranks.is_first:  # resumed on another number of ranks
            self.epoch_sums.copy_(sums_R4.sum(dim=0))
        if self.tid is not None:
            self.tid.load(state.get("tid"))
        self.epoch_end.best_percent = state[f"best_{self.run.task.entry.metric}"]
        self.to_evaluate = state["to_evaluate"]
