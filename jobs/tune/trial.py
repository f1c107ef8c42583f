"""A trial: Ray Tune's word for one run of a study. It starts the run, and reports what its record says.

The run is never a part of the process that follows it. It writes its own record, which is read here, also
when it was trained before, or trains on while the driver is away.
"""

import json
import logging
import time
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from jobs.cluster.slurm_commands import SlurmError
from jobs.tune.epoch_results import Results, complete_epochs, read_results
from jobs.tune.runners import PATIENCE_S, Runner, TrialContext, runner_for, settle_request, wait_for_others
from jobs.tune.study_folder import stop_file
from suite.errors import UserError
from suite.experiment import Run
from suite.files import is_locked, read_json, write_atomically
from suite.large_imports import importing_large_packages
from suite.paths import RunPaths
from suite.record import (
    RecordWriter,
    StopRequest,
    clear_stop_request,
    read_status,
    read_stop_request,
    request_stop,
)
from suite.record.reader import experiment_of
from suite.studies.spec import StoppingSpec
from suite.studies.study import Study

with importing_large_packages():  # Ray's workers import this module before they import Tune
    from ray import tune

Result = dict[str, Any]
RETRY_S = 10.0  # while Slurm is down, or accepts no more of our jobs
NO_ANSWER_S = 60.0  # until the queue shows whether a job exists

log = logging.getLogger("shiftbench")


def is_result(run: Run, context: TrialContext) -> bool:
    """Whether a run needs no training any more: it is complete, or this very study has ended it.

    A run that failed, diverged or was cancelled is a result of the study that ran it, and is not tried again.
    """
    paths = RunPaths(context.output_dir / run.folder_name)
    if not paths.run.exists():
        return False
    status = read_status(paths)
    if status.state == "completed":
        return True
    if not context.is_resumed or experiment_of(paths) != context.study.name:
        return False
    request, is_dead = read_stop_request(paths), status.died_silently or status.state == "preempted"
    # The record lacks a scheduler's decision when the driver or the run was killed.
    is_stop_pending = request is not None and request.state == "stopped" and is_dead
    if status.state == "stopped" or is_stop_pending:
        return isinstance(context.study.spec.scheduler, StoppingSpec)
    has_ended = status.state in ("failed", "diverged", "cancelled")
    return has_ended and not status.died_silently and not status.is_missing


def run_of(study: Study, config: dict[str, Any]) -> Run:
    """The run that a trial's config names."""
    (run,) = (run for run in study.at(config["point"]).runs if run.seed == config["seed"])
    return run


def trial_of(context: TrialContext) -> "type[Trial]":
    """Return the class of a study's trials.

    Tune's `with_parameters` would keep the context in Ray's object store instead. When a signal ends Ray, Ray
    would try to recover it there, and end the driver's process at once. The class is pickled and read twice
    for each trial: it has no list of the study's runs, which would make thousands of them quadratically slow.
    """
    study = replace(context.study, points=(), samples=())
    return type("StudyTrial", (Trial,), {"context": replace(context, study=study)})


class Trial(tune.Trainable):  # type: ignore[misc]
    """Tune's handle of a run. One process with a Trial follows many runs, one after the other."""

    context: TrialContext

    def setup(self, config: dict[str, Any]) -> None:
        """Begin with the first run."""
        self.context.restore_environment()
        self._take(config)

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        """Turn to the next run, once the former one has ended."""
        self._release()
        self._take(new_config)
        return True

    def step(self) -> Result:
        """Wait for the end of an epoch, or of the run."""
        return next(self._results)

    def cleanup(self) -> None:
        """End the run if it is still training."""
        self._release()

    def _take(self, config: dict[str, Any]) -> None:
        self.run = run_of(self.context.study, config)
        self.folder = self.context.output_dir / self.run.folder_name
        self.paths = RunPaths(self.folder)
        self.stop_file = stop_file(self.context.output_dir, self.context.study.name)
        self._runner: Runner | None = None
        self._results = self._follow()

    def _release(self) -> None:
        runner, self._runner = self._runner, None
        if runner is None:
            return
        is_ours = runner.is_ours()
        if is_ours and not runner.is_over():
            self._forward_stop()  # Tune may end a trial between two of its steps
        runner.end()
        if is_ours:
            settle_request(self.run, self.folder)

    def _follow(self) -> Iterator[Result]:
        """A result for each epoch, and one for the end."""
        reported: set[int] = set()
        wait_for_others(self.folder, self.stop_file)
        if is_result(self.run, self.context):
            settle_request(self.run, self.folder)
        else:
            is_followed = True
            # A run that another process left unfinished is trained on by this study.
            while is_followed and not is_result(self.run, self.context) and self._begin():
                assert self._runner is not None
                yield from self._train(reported)
                is_followed = not self._runner.is_ours()
                self._release()
                wait_for_others(self.folder, self.stop_file)
        results, status = self._read(), read_status(self.paths)
        epoch, values = results.popitem() if results else (0, {})
        yield from self._new_results(reported, results, is_ours=True)
        yield {"epoch": epoch, **values, "state": status.state, "reason": status.reason or "", "done": True}

    def _begin(self) -> bool:
        """Start the run, or find it started. Returns whether it could, and the study is not stopped."""
        runner = runner_for(self.run, self.context)
        if (request := read_stop_request(self.paths)) is not None and request.state == "preempted":
            clear_stop_request(self.paths)  # of a former driver; the run may not have seen it
        while not self.stop_file.exists():
            try:
                runner.begin()
            except SlurmError as error:
                if not error.is_temporary:
                    # Every other run would be refused for the same reason.
                    write_atomically(self.stop_file, json.dumps({"refused": str(error)}))
                    return False
                log.warning("%s waits: %s", self.run.label, error)
                time.sleep(NO_ANSWER_S if error.kind == "answer_lost" else RETRY_S)
            except UserError as error:
                if is_locked(self.paths.lock):  # somebody reads it, or has just begun to train it
                    time.sleep(runner.poll_s)
                    continue
                self._fail(str(error))
                return False
            else:
                self._runner = runner
                return True
        return False

    def _train(self, reported: set[int]) -> Iterator[Result]:
        """Yield results until the run is over, or has to end."""
        runner = self._runner
        assert runner is not None
        seen_bytes, measured = -1, self.paths.measurements
        timeout_s = self.context.study.spec.trials.timeout_s
        while not runner.is_over():
            if (size := measured.stat().st_size if measured.exists() else 0) != seen_bytes:
                seen_bytes = size
                results = complete_epochs(self.run, self._read(), self.context.study.metrics)
                yield from self._new_results(reported, results, runner.is_ours())
            is_stopped = self.stop_file.exists() and (not runner.is_ours() or self._forward_stop())
            if is_stopped or read_stop_request(self.paths) is not None:
                return
            if timeout_s is not None and runner.running_s() > timeout_s and runner.is_ours():
                runner.end()
                self._fail(f"ran longer than {timeout_s:g} s (trials.timeout_s)")
                return
            time.sleep(runner.poll_s)

    def _forward_stop(self) -> bool:
        """Ask the run to stop, with the reason, if the study is stopped. Returns whether it is."""
        if (stop := read_json(self.stop_file)) is None:
            return False
        reason = stop.get("reason") or f"the driver of the study: {stop.get('refused')}"
        request_stop(self.paths, StopRequest("preempted", reason, "study"))
        return True

    def _read(self) -> Results:
        return read_results(self.folder, self.context.study.metrics)

    def _new_results(self, reported: set[int], results: Results, is_ours: bool) -> Iterator[Result]:
        for epoch, values in results.items():
            if epoch not in reported:
                reported.add(epoch)
                yield {"epoch": epoch, **values, "state": "running", "reason": "", "is_ours": is_ours}

    def _fail(self, reason: str) -> None:
        """Write into the record that the run failed."""
        try:
            with RecordWriter(self.run, self.folder, patience_s=PATIENCE_S) as record:
                if read_status(self.paths).state != "completed":  # it may have completed just now
                    record.status("failed", reason=reason)
        except (UserError, OSError) as error:  # such as a full disk
            log.error("%s: %s, and that could not be written: %s", self.run.label, reason, error)
