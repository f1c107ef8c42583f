"""A stand-in for `suite.train`, with the same interface and the same records, but nothing is learnt.

A step only waits. At an epoch's end the run measures what a real one would, with made-up values that depend
on `run_id`, seed and epoch alone. A checkpoint is a small JSON file. Stop signals are obeyed at the next
step, requests within 0.1 s. A rate of 1000 or more diverges at step 20, below 1e-6 nothing happens.

SHIFTBENCH_TEST_STEP_S            seconds that each step takes
SHIFTBENCH_TEST_PACE              a file with those seconds, which may change while a run trains
SHIFTBENCH_TEST_SLOW_NODE         `n2:3`: on that node a step takes three times as long
SHIFTBENCH_TEST_FAIL              `rank:step`: that rank raises an error after that step
SHIFTBENCH_TEST_CHECKPOINT_BYTES  the size of a checkpoint, for tests of a full disk
"""

import errno
import hashlib
import logging
import os
import time
from pathlib import Path
from typing import Any

from suite.errors import Diverged, Preempted, UserError
from suite.experiment import BatchFreeSpec, Run
from suite.paths import RunPaths
from suite.provenance import code_state, cpu_name, provenance
from suite.record import Layer, RankTimes, RecordWriter, State, errors_noted
from suite.record.rank_errors import in_one_line, node_name
from suite.signals import StopFlag, stop_flag
from suite.train.checkpoint import newest_state, write
from suite.train.distributed import Ranks, joined

__all__ = ["joined", "train_on", "train_run"]

GO_ON, STOP, STOP_WARNED, DIVERGED = 0, 1, 2, 3
LOOK_EVERY_S, KEPT = 0.1, 2
IDLE_LR, DIVERGING_LR, DIVERGES_AT_STEP = 1e-6, 1000.0, 20
LAYERS = (Layer("stem.1", 16), Layer("layer1.0.bn1", 16), Layer("layer2.0.bn1", 32))

log = logging.getLogger("shiftbench")


def train_run(run: Run, folder: Path) -> None:
    """As `suite.train.train_run`."""
    with stop_flag() as stop, joined(run.system) as ranks:
        train_on(run, folder, ranks, stop)


def train_on(
    run: Run, folder: Path, ranks: Ranks, stop: StopFlag, *, claim: str | None = None, patience_s: float = 1.0
) -> None:
    """As `suite.train.train_on`."""
    try:
        run.batch.accumulation_steps(ranks.world_size)
    except ValueError as error:
        raise UserError(f"batch: {error}") from None
    record = None
    if ranks.is_first:
        record = RecordWriter(run, folder, claim=claim, patience_s=patience_s, durable=False)
    refused = None
    try:
        if record is not None:
            record.__enter__()
            record.forget_errors()
    except UserError as error:
        refused = error
    if ranks.agree(int(refused is not None)):
        refused = refused or UserError(f"{folder}: the first rank could not take it")
        refused.is_noted = True
        raise refused
    try:
        with errors_noted(RunPaths(folder), ranks.rank):
            _train(run, ranks, record, stop)
    finally:
        if record is not None:
            record.__exit__()


def _train(run: Run, ranks: Ranks, record: RecordWriter | None, stop: StopFlag) -> None:
    hosts = ranks.hosts()
    try:
        if record is not None:
            origin = provenance(cpu_name(), hosts)
            record.start(origin)
            log.info("CUDA_VISIBLE_DEVICES=%s", os.environ.get("CUDA_VISIBLE_DEVICES"))
            if (patch := code_state().patch) is not None:
                record.keep_patch(origin["patch"], patch)
        Trainer(run, ranks, record, stop).train()
    except Preempted as preempted:
        request = record.stop_request() if record is not None else None
        by = _asked_by(record, stop) if request is None else request.reason
        log.warning("%s, by %s", preempted, by)
        details = {} if request is None else {"stopped_by": request.by, "stopped_after_epoch": request.epoch}
        _end(record, "preempted" if request is None else request.state, f"{preempted}, by {by}", **details)
        raise
    except Diverged as diverged:
        _end(record, "diverged", str(diverged))
        raise
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EROFS):
            _end(record, "failed", in_one_line(error))
            raise
        _end(record, "failed", f"{error.strerror}: the last complete checkpoint is kept")
        raise UserError(f"{error.filename or 'the run folder'}: {error.strerror}") from error
    except BaseException as error:
        _end(record, "failed", in_one_line(error))
        raise
    _end(record, "completed", None)


def _end(record: RecordWriter | None, state: State, reason: str | None, **details: Any) -> None:
    if record is not None:
        try:
            record.status(state, reason=reason, **details)
        except OSError as error:
            log.error("%s: the status %r could not be written: %s", record.paths.status, state, error)


def _asked_by(record: RecordWriter | None, stop: StopFlag) -> str:
    if stop.signal is not None:
        return stop.signal.name
    return "a newer start of this run" if record is not None and record.is_claimed() else "another rank"


class Trainer:
    """One rank of one run. `record` is None on every rank but the first."""

    def __init__(self, run: Run, ranks: Ranks, record: RecordWriter | None, stop: StopFlag) -> None:
        self.run, self.ranks, self.record, self.stop = run, ranks, record, stop
        self.steps_per_epoch = max(1, (run.data.train_images or 320) // run.batch.global_batch_size)
        if run.recipe.iterations is not None:
            self.steps_per_epoch = run.recipe.iterations // run.num_epochs
        self._times_s: list[tuple[float, float]] = []  # of each step: the rank's own work, and all of it
        self.total_steps = run.num_epochs * self.steps_per_epoch
        self.step, self.to_evaluate, self.best_top1_percent = 0, False, -1.0
        self._looked_at, self._epoch_began_at = 0.0, time.monotonic()
        self._is_to_leave = False
        fail_rank, _, fail_step = os.environ.get("SHIFTBENCH_TEST_FAIL", "-1:0").partition(":")
        self._fails_at = int(fail_step) if int(fail_rank) == ranks.rank else None
        # Between -1 and 1, for each run its own.
        self._quality = int(hashlib.sha256(run.run_id.encode()).hexdigest()[:8], 16) / 2**31 - 1

    @property
    def epoch(self) -> int:
        return -(-self.step // self.steps_per_epoch)

    def train(self) -> None:
        """Trains to the end from the newest readable checkpoint. Raises Preempted or Diverged."""
        self._resume()
        self._look()
        if self.to_evaluate:
            self._evaluate()
        while self.step < self.total_steps:
            began = time.monotonic()
            time.sleep(_step_s())
            worked_s = time.monotonic() - began
            if self.step == self._fails_at:
                raise ValueError("planted on this rank")
            self.step += 1
            code = self._agree()
            self._times_s.append((worked_s, time.monotonic() - began))
            at_epoch_end = self.step % self.steps_per_epoch == 0
            if at_epoch_end:
                self._measure_training()
            if code != GO_ON or self._checkpoint_is_due():
                self._save(to_evaluate=at_epoch_end)
            if code != GO_ON:
                raise Preempted(
                    f"stopped after step {self.step} of {self.total_steps}", is_warned=code == STOP_WARNED
                )
            if at_epoch_end:
                self._evaluate()

    # ------------------------------------------------------------ agreeing to stop

    def _agree(self) -> int:
        if time.monotonic() - self._looked_at > LOOK_EVERY_S:
            self._look()
        code = STOP if self.stop.signal or self._is_to_leave else GO_ON
        code = STOP_WARNED if self.stop.warned else code
        if self.run.recipe.lr >= DIVERGING_LR and self.step % DIVERGES_AT_STEP == 0:
            code = DIVERGED
        code = self.ranks.agree(code)
        if code == DIVERGED:
            raise Diverged(f"the loss is not finite at step {self.step} (epoch {self.epoch})")
        return code

    def _look(self) -> None:
        self._looked_at = time.monotonic()
        if self.record is not None:
            self._is_to_leave = self.record.is_claimed() or self.record.stop_request() is not None
            self.record.status("running", step=self.step, total_steps=self.total_steps)

    # ------------------------------------------------------------ what an epoch measures

    def _measure(self, split: Any, **values: float) -> None:
        if self.record is not None:
            for name, value in values.items():
                self.record.measure(name, value, epoch=self.epoch, step=self.step, split=split)

    def _measure_layers(self, split: Any, *names: str) -> None:
        if self.record is not None:
            self.record.layers(LAYERS)
            for number, name in enumerate(names):
                values = [round(0.1 * (number + 1) + 0.01 * self._quality * i, 6) for i in range(len(LAYERS))]
                self.record.measure(name, values, epoch=self.epoch, step=self.step, split=split)

    def _top1_percent(self) -> float:
        """Rises with the epochs, to a level of the run's own between 40 and 90 %."""
        level = 65 + 24 * self._quality + self.run.seed % 10 / 10
        if self.run.recipe.lr < IDLE_LR:
            level = 10.0
        return round(level * (1 - 0.5**self.epoch), 4)

    def _measure_training(self) -> None:
        now, images = time.monotonic(), self.steps_per_epoch * self.run.batch.global_batch_size
        epoch_s = max(1e-6, now - self._epoch_began_at)
        self._epoch_began_at = now
        lr = self.run.recipe.lr_at((self.step - 1) / self.steps_per_epoch)
        top1 = self._top1_percent()
        self._measure("train", loss=(100 - top1) / 40, top1_percent=top1, learning_rate=lr)
        self._measure("train", images_per_s=images / epoch_s, epoch_time_s=epoch_s)
        self._measure_steps()
        if self.run.measure.tid and self._has_bn:
            self._measure_layers("train", "tid_mu", "tid_sigma")

    def _measure_steps(self) -> None:
        """What each rank's steps consist of, as `suite.train.metric_logger` writes it."""
        work_ms, step_ms = (1e3 * sum(times) / len(times) for times in zip(*self._times_s, strict=True))
        self._times_s.clear()
        everyone = self.ranks.gather([node_name(), step_ms, 0.0, step_ms - work_ms])
        share = 1 - work_ms / step_ms if self.ranks.world_size > 1 else 0.0
        self._measure("train", step_time_p50_ms=step_ms, compute_share=1 - share, communication_share=share)
        if self.record is not None and self.ranks.world_size > 1:
            times = RankTimes(self.epoch, self.step, *(list(part) for part in zip(*everyone, strict=True)))
            self.record.keep_file(self.record.paths.ranks.name, times.text())

    @property
    def _has_bn(self) -> bool:
        return not isinstance(self.run.model.norm, BatchFreeSpec)

    def _evaluate(self) -> None:
        self.to_evaluate = False
        measure, epochs, top1 = self.run.measure, self.run.num_epochs, self._top1_percent()
        if measure.is_evaluated(self.epoch, epochs):
            self._measure("val", loss=(100 - top1) / 40, top1_percent=top1, top5_percent=(100 + top1) / 2)
            if self.record is not None:
                log.info("epoch %d of %d: top-1 %.2f %%", self.epoch, epochs, top1)
                if top1 > self.best_top1_percent:
                    self.best_top1_percent = top1
                    write(self.record.paths.best, {"epoch": self.epoch})
                self.record.status("running", evaluated_epoch=self.epoch, top1_percent=top1)
            if measure.eval_train:
                self._measure("train", top1_inference_percent=top1, top1_bias_corrected_percent=top1)
                if measure.is_probed(self.epoch, epochs) and self._has_bn:
                    self._measure_layers("train", "esm_mu_scaled_train", "esm_sigma_scaled_train")
        if measure.is_probed(self.epoch, epochs) and self._has_bn:
            self._measure_layers("val", "esm_mu", "esm_sigma", "esm_mu_scaled", "esm_sigma_scaled")
            if self.epoch == epochs and measure.precise_bn_images:
                self._measure("val", top1_precise_percent=top1)

    # ------------------------------------------------------------ checkpoints

    def _checkpoint_is_due(self) -> bool:
        system = self.run.system
        epochs, rest = divmod(self.step, self.steps_per_epoch)
        if rest == 0 and (epochs % system.checkpoint_every_epochs == 0 or self.step == self.total_steps):
            return True
        return system.checkpoint_every_steps is not None and self.step % system.checkpoint_every_steps == 0

    def _save(self, to_evaluate: bool) -> None:
        if self.record is None:
            return
        paths, size_bytes = self.record.paths, self.record.measurements_size_bytes()
        state = {"step": self.step, "to_evaluate": to_evaluate, "measurements_size_bytes": size_bytes}
        write(paths.checkpoint(self.step), {**state, "best_top1_percent": self.best_top1_percent})
        for old in paths.checkpoint_steps()[:-KEPT]:
            paths.checkpoint(old).unlink(missing_ok=True)
        self.record.status("running", epoch=self.epoch, step=self.step, checkpoint_s=0.0)

    def _resume(self) -> None:
        """Every rank begins where the first one finds a checkpoint."""
        state: dict[str, Any] = {}
        if self.record is not None:
            state, passed_over = newest_state(self.record.paths)
            step = state.get("step", 0)
            self.record.rewind(state.get("measurements_size_bytes", 0), step)
            self.record.resume(step, passed_over)
            if state:
                log.info("resuming after step %d", step)
        state = self.ranks.gather(state)[0]
        self.step, self.to_evaluate = state.get("step", 0), state.get("to_evaluate", False)
        self.best_top1_percent = state.get("best_top1_percent", -1.0)


def _step_s() -> float:
    node, _, factor = os.environ.get("SHIFTBENCH_TEST_SLOW_NODE", ":1").partition(":")
    slower = float(factor) if node == node_name() else 1.0
    if pace := os.environ.get("SHIFTBENCH_TEST_PACE"):
        return slower * float(Path(pace).read_text() or 0)
    return slower * float(os.environ.get("SHIFTBENCH_TEST_STEP_S", "0"))
