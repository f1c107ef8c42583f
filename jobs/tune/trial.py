"""A trial: Tune's word for one run of a study. It starts the run, and tells Tune what its record says.

The run is never a part of the process that follows it: it writes its own record, and is read from there,
also when it was trained before, or goes on while the driver is away.
"""

import json
import logging
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from ray import tune

from jobs.cluster.slurm_commands import SlurmError
from jobs.tune.epoch_results import EpochResult, read_results, whole_epochs
from jobs.tune.runners import (
    PATIENCE_S,
    RunContext,
    Runner,
    runner_for,
    settle_request,
    wait_for_others,
)
from jobs.tune.study_folder import stop_file
from suite.errors import UserError
from suite.experiment import Run
from suite.files import is_locked, read_json, write_atomically
from suite.paths import RunPaths
from suite.record import (
    RecordWriter,
    Status,
    StopRequest,
    clear_stop_request,
    read_status,
    read_stop_request,
    request_stop,
)
from suite.studies.study import Study

Result = dict[str, Any]
RETRY_S = 10.0  # while Slurm is down, or has its fill of our jobs
NO_ANSWER_S = 60.0  # until the queue tells whether a job exists

log = logging.getLogger("shiftbench")


@dataclass(frozen=True)
class TrialContext:
    """What the driver gives to every trial."""

    study: Study
    place: RunContext
    is_resumed: bool


def is_result(run: Run, setting: TrialContext) -> bool:
    """Whether a run needs no training any more: it is complete, or this very study has ended it.

    A run that failed, diverged or was cancelled is a result of the study that ran it, and is not tried again.
    """
    paths = RunPaths(setting.place.output_dir / run.folder_name)
    if not paths.run.exists():
        return False
    status = read_status(paths)
    if status.state == "completed":
        return True
    is_ours = setting.is_resumed and (read_json(paths.run) or {}).get("experiment") == setting.study.name
    if not is_ours:
        return False
    if status.state == "stopped" or is_stop_pending(paths, status):
        return setting.study.spec.scheduler.kind != "none"
    return status.state in ("failed", "diverged", "cancelled") and not (
        status.died_silently or status.is_missing
    )


def is_stop_pending(paths: RunPaths, status: Status) -> bool:
    """Whether a scheduler's word has not come to the record: the driver, or the run, was killed before."""
    request = read_stop_request(paths)
    is_dead = status.died_silently or status.state == "preempted"
    return request is not None and request.state == "stopped" and is_dead


def run_of(study: Study, config: dict[str, Any]) -> Run:
    """The run that a trial's config resources."""
    (run,) = (run for run in study.at(config["point"]).runs if run.seed == config["seed"])
    return run


class Trial(tune.Trainable):  # type: ignore[misc]
    """Tune's handle of a run. One process of these follows many runs, one after the other."""

    def setup(self, config: dict[str, Any], *, setting: TrialContext) -> None:
        """Take up the first run."""
        self.setting = setting
        setting.place.restore_environment()
        self._turn_to(config)

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        """Take up the next run, once the former one has ended."""
        self._leave()
        self._turn_to(new_config)
        return True

    def step(self) -> Result:
        """Wait for the end of an epoch, or of the run."""
        return next(self._results)

    def cleanup(self) -> None:
        """End the run, should it still go on."""
        self._leave()

    def _turn_to(self, config: dict[str, Any]) -> None:
        self.run = run_of(self.setting.study, config)
        self.folder = self.setting.place.output_dir / self.run.folder_name
        self.paths = RunPaths(self.folder)
        self.halt = stop_file(self.setting.place.output_dir, self.setting.study.name)
        self._runner: Runner | None = None
        self._results = self._follow()

    def _leave(self) -> None:
        runner, self._runner = self._runner, None
        if runner is None:
            return
        is_ours = runner.is_ours()
        if is_ours and not runner.is_over():
            self._pass_on_halt()  # Tune may end a trial between two of its steps
        runner.end()
        if is_ours:
            self._settle()

    def _settle(self) -> None:
        try:
            settle_request(self.run, self.folder)
        except (UserError, OSError) as error:  # no fault of the next run, which may wait for this one's end
            log.warning("%s: its end could not be noted: %s", self.run.label, error)

    def _follow(self) -> Iterator[Result]:
        """A result for each epoch, and one for the end."""
        told: set[int] = set()
        wait_for_others(self.folder, self.halt)
        if is_result(self.run, self.setting):
            self._settle()
        else:
            is_followed = True
            # What another process trained and left unfinished is ours to go on with.
            while is_followed and not is_result(self.run, self.setting) and self._begin():
                assert self._runner is not None
                yield from self._train(told)
                is_followed = not self._runner.is_ours()
                self._leave()
                wait_for_others(self.folder, self.halt)
        yield from self._news(told, self._read()[:-1], is_ours=True)
        yield self._end()

    def _begin(self) -> bool:
        """Start the run, or find it started; false when it cannot be, or when all are to end."""
        runner = runner_for(self.run, self.setting.place)
        if (request := read_stop_request(self.paths)) is not None and request.state == "preempted":
            clear_stop_request(self.paths)  # a former driver's, which may have gone before it was heard
        while not self.halt.exists():
            try:
                runner.begin()
            except SlurmError as error:
                if not error.is_temporary:
                    # The next one would be refused for the same reason, and so all of them.
                    write_atomically(self.halt, json.dumps({"refused": str(error)}))
                    return False
                log.warning("%s waits: %s", self.run.label, error)
                time.sleep(NO_ANSWER_S if error.kind == "answer_lost" else RETRY_S)
            except UserError as error:
                if is_locked(self.paths.lock):  # somebody looks, or has just begun to train it
                    time.sleep(runner.poll_s)
                    continue
                self._note_failure(str(error))
                return False
            else:
                self._runner = runner
                return True
        return False

    def _train(self, told: set[int]) -> Iterator[Result]:
        """Results until the run is over, or is to end."""
        assert self._runner is not None
        seen_bytes = -1
        while not self._runner.is_over():
            if (size := _size(self.paths)) != seen_bytes:
                seen_bytes = size
                results = whole_epochs(self.run, self._read(), self._metrics)
                yield from self._news(told, results, self._runner.is_ours())
            is_halted = self._runner.is_ours() and self._pass_on_halt()
            if is_halted or self.halt.exists() or read_stop_request(self.paths) is not None:
                return
            if self._is_late():
                self._end_late()
                return
            time.sleep(self._runner.poll_s)

    def _pass_on_halt(self) -> bool:
        """Whether all is to end; the run is asked to, with the reason."""
        if (halt := read_json(self.halt)) is None:
            return False
        reason = halt.get("reason") or f"the driver of the study: {halt.get('refused')}"
        request_stop(self.paths, StopRequest("preempted", reason, "study"))
        return True

    @property
    def _metrics(self) -> tuple[str, ...]:
        return self.setting.study.metrics

    def _read(self) -> list[EpochResult]:
        return read_results(self.folder, self._metrics)

    def _news(self, told: set[int], results: list[EpochResult], is_ours: bool) -> Iterator[Result]:
        for result in results:
            if result.epoch not in told:
                told.add(result.epoch)
                more = {"state": "running", "reason": "", "is_ours": is_ours}
                yield {"epoch": result.epoch, **result.values, **more}

    def _end(self) -> Result:
        results = self._read()
        last = results[-1] if results else EpochResult(0, {})
        status = read_status(self.paths)
        said = {"state": status.state, "reason": status.reason or ""}
        return {"epoch": last.epoch, **last.values, **said, "done": True}

    def _is_late(self) -> bool:
        timeout_s = self.setting.study.spec.trials.timeout_s
        if timeout_s is None or self._runner is None:
            return False
        return self._runner.running_s() > timeout_s and self._runner.is_ours()

    def _end_late(self) -> None:
        assert self._runner is not None
        self._runner.end()
        timeout_s = self.setting.study.spec.trials.timeout_s
        self._note_failure(f"ran longer than {timeout_s:g} s (trials.timeout_s)")

    def _note_failure(self, reason: str) -> None:
        """Have the record say so."""
        try:
            with RecordWriter(self.run, self.folder, patience_s=PATIENCE_S) as record:
                if read_status(self.paths).state != "completed":  # it may have come to its end just now
                    record.status("failed", reason=reason)
        except (UserError, OSError) as error:  # a full disk: the trial says it all the same
            log.error("%s: %s, and that could not be written: %s", self.run.label, reason, error)


def _size(paths: RunPaths) -> int:
    return paths.measurements.stat().st_size if paths.measurements.exists() else 0
