"""A trial: Tune's word for one run of a study. It starts the run, and tells Tune what its record says.

The run is never a part of the process that follows it: it writes its own record, and is read from there,
also when it was trained before, or goes on while the driver is away.
"""

import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from ray import tune

from jobs.tune.results import EpochResult, read_results, whole_epochs
from jobs.tune.study import Study
from jobs.tune.ways import POLL_S, Place, Way, settle_request, way_for
from suite.errors import UserError
from suite.experiment import Run
from suite.paths import RunPaths
from suite.record import RecordWriter, Status, forget_request, read_request, read_status
from suite.record.files import read_json

Result = dict[str, Any]


@dataclass(frozen=True)
class Setting:
    """What the driver gives to every trial."""

    study: Study
    place: Place
    is_resumed: bool


def is_result(run: Run, setting: Setting) -> bool:
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
    request = read_request(paths)
    is_dead = status.died_silently or status.state == "preempted"
    return request is not None and request.state == "stopped" and is_dead


def run_of(study: Study, config: dict[str, Any]) -> Run:
    """The run that a trial's config means."""
    (run,) = (run for run in study.at(config["point"]).runs if run.seed == config["seed"])
    return run


class Trial(tune.Trainable):  # type: ignore[misc]
    """Tune's handle of a run. One process of these follows many runs, one after the other."""

    def setup(self, config: dict[str, Any], *, setting: Setting) -> None:
        """Take up the first run."""
        self.setting = setting
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
        self._way: Way | None = None
        self._results = self._follow()

    def _leave(self) -> None:
        if self._way is not None:
            self._way.end()
            settle_request(self.run, self.folder)
            self._way = None

    def _follow(self) -> Iterator[Result]:
        """A result for each epoch, and one for the end."""
        paths = RunPaths(self.folder)
        told: set[int] = set()
        if is_result(self.run, self.setting):
            settle_request(self.run, self.folder)
        else:
            self._way = way_for(self.run, self.setting.place)
            if (request := read_request(paths)) is not None and request.state == "preempted":
                forget_request(paths)
            try:
                self._way.begin()
            except UserError as error:
                self._note_failure(str(error))
                yield self._end(str(error))
                return
            seen_bytes = -1
            while not self._way.is_over():
                if (size := _size(paths)) != seen_bytes:
                    seen_bytes = size
                    yield from self._news(told, whole_epochs(self.run, self._read(), self._metrics))
                if read_request(paths) is not None:
                    break
                if self._is_late():
                    self._end_late()
                    break
                time.sleep(POLL_S)
            self._leave()
        yield from self._news(told, self._read()[:-1])
        yield self._end()

    @property
    def _metrics(self) -> tuple[str, ...]:
        return self.setting.study.metrics

    def _read(self) -> list[EpochResult]:
        return read_results(self.folder, self._metrics)

    def _news(self, told: set[int], results: list[EpochResult]) -> Iterator[Result]:
        for result in results:
            if result.epoch not in told:
                told.add(result.epoch)
                yield {"epoch": result.epoch, **result.values, "state": "running", "reason": ""}

    def _end(self, reason: str | None = None) -> Result:
        results = self._read()
        last = results[-1] if results else EpochResult(0, {})
        status = read_status(RunPaths(self.folder))
        said = {"state": status.state, "reason": reason or status.reason or ""}
        return {"epoch": last.epoch, **last.values, **said, "done": True}

    def _is_late(self) -> bool:
        timeout_s = self.setting.study.spec.trials.timeout_s
        return timeout_s is not None and self._way is not None and self._way.running_s() > timeout_s

    def _end_late(self) -> None:
        assert self._way is not None
        self._way.end()
        if read_status(RunPaths(self.folder)).state != "completed":  # it may have come to its end just now
            self._note_failure(
                f"ran longer than {self.setting.study.spec.trials.timeout_s:g} s (trials.timeout_s)"
            )

    def _note_failure(self, reason: str) -> None:
        """Have the record say so, unless somebody else trains this run."""
        try:
            with RecordWriter(self.run, self.folder) as record:
                record.status("failed", reason=reason)
        except UserError:
            return


def _size(paths: RunPaths) -> int:
    return paths.measurements.stat().st_size if paths.measurements.exists() else 0
