"""The driver of a study: one process that hands trials to Ray Tune, and leaves nothing running behind.

Runs are trained elsewhere and tell of themselves in their records. What is here may be killed at any
moment: the next driver begins from the records, the study_folder and the scheduler's queue.
"""

import os
import secrets
import signal
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ray import tune

from jobs import exit_codes
from jobs.checks import check_folders
from jobs.cluster.clusters import AnyCluster, LocalCluster, SlurmCluster
from jobs.cluster.slurm_commands import config
from jobs.local.child import environment_of, threads_of_a_rank
from jobs.local.fork_client import end_server, own_server
from jobs.local.gpus import share_out, visible_gpus
from jobs.local.progress import ProgressView
from jobs.tune.cleanup import cancel_orphans, end_jobs, end_processes, settle_requests
from jobs.tune.engine import ray_running, trial_slots
from jobs.tune.progress_callback import ProgressCallback
from jobs.tune.runners import DRIVER_VARIABLE, RunContext
from jobs.tune.scheduler import StoppingScheduler
from jobs.tune.search import EveryRun, Proposals
from jobs.tune.stop_conditions import Spending, StopConditions
from jobs.tune.study_folder import StudyFolder, stop_file
from jobs.tune.trial import Trial, TrialContext, is_result
from jobs.tune.tune_folder import is_whole, make_anew, note_whole, tune_folder
from suite.errors import UserError
from suite.experiment import Run
from suite.studies.spec import NoStopping, OptunaSearch
from suite.studies.study import Study, check_points

SLURM_TRIALS_AT_A_TIME = 8
MAX_FOLLOWERS_LOST = 2  # a worker of Ray's that is killed takes its run up again


@dataclass(frozen=True)
class StudyEnd:
    """What came of a study: its runs so far in their order, and what ended it before the last one."""

    runs: Sequence[Run]
    study_folder: Path
    tune_folder: Path
    stopped_by: signal.Signals | None = None
    spent: str | None = None
    left: tuple[str, ...] = ()
    """What could not be ended, a sentence each."""


@dataclass(frozen=True)
class DriverOptions:
    """What the command line adds to a study."""

    resume: bool = False
    accept: bool = False
    at_a_time: int | None = None
    ray_address: str | None = None


@dataclass(frozen=True)
class TrialResources:
    """What trials are run with. `threads`: of each rank. `num_gpus`: of a Ray of our own."""

    at_a_time: int
    address: str | None
    is_slurm: bool
    uses_gpus: bool
    num_gpus: int
    threads: int


def drive(
    study: Study, cluster: AnyCluster, output_dir: Path, options: DriverOptions, view: ProgressView
) -> StudyEnd:
    """Run a study's trials, or go on with them, until all have ended. `engine.import_ray` comes before.

    Raises UserError before the first trial for what can be told then. Whatever happens, no process and no
    job of it is left.
    """
    check_points(study, cluster.ranks)
    resources = _resources(study, cluster, options)
    check_folders([], output_dir)
    study_folder = StudyFolder(study, output_dir)
    with study_folder.held():
        study_folder.compare(accept=options.accept)
        setting = _trial_context(study, cluster, output_dir, resources, study_folder)
        search = (
            Proposals(setting, study_folder)
            if isinstance(study.spec.search, OptunaSearch)
            else EveryRun(study)
        )
        known = {run.run_id for run in search.runs if is_result(run, setting)}
        is_done = search.is_over and len(known) == len(search.runs)
        if study_folder.is_begun and not options.resume and not is_done:
            raise UserError(
                f"{study.name} was begun in {output_dir}, and {len(known)} of {study.num_trials} trials have "
                "their result: --resume goes on"
            )
        folder = tune_folder(study, output_dir)
        view.start(total=study.num_trials, skipped=len(known))
        if search.left_out:
            view.console.print(f"{search.left_out} proposed points are no part of the study any more")
        if is_done and not study_folder.is_changed and is_whole(folder):
            return StudyEnd(search.runs, study_folder.folder, folder)
        if study_folder.is_begun:
            cancel_orphans(study.name, output_dir, {r.folder_name for r in search.runs if resources.is_slurm})
        spending = Spending(study.name, output_dir, lambda: search.runs)
        halt = StopConditions(study.spec.budget, spending, stop_file(output_dir, study.name))
        left: list[str] = []
        with halt.hearing_signals(), view, _with_fork_server(setting) as setting:
            try:
                if not halt.stop_all():
                    make_anew(folder, study_folder.folder)
                    progress = ProgressCallback(study, output_dir, known, view)
                    _fit(setting, resources, search, study_folder, halt, progress, folder)
            finally:
                left = _leave_nothing(setting, search.runs, halt, resources.is_slurm)
        if halt.refused is not None:
            raise UserError(f"{halt.refused}; nothing is lost: mend it, and --resume")
        return StudyEnd(search.runs, study_folder.folder, folder, halt.signal, halt.spent, tuple(left))


def _resources(study: Study, cluster: AnyCluster, options: DriverOptions) -> TrialResources:
    """Raises UserError where there are too few GPUs, or Slurm does not answer."""
    is_slurm = isinstance(cluster, SlurmCluster)
    usual = cluster.array_parallelism or (SLURM_TRIALS_AT_A_TIME if is_slurm else 1)
    at_a_time = options.at_a_time or study.spec.trials.at_a_time or usual
    address = options.ray_address or study.spec.trials.ray_address
    uses_gpus = not is_slurm and any(run.system.device != "cpu" for run in study.samples)
    gpus = visible_gpus(os.environ) if uses_gpus and address is None else []
    share_out(gpus, at_a_time, cluster.ranks)
    if is_slurm:
        config()
    threads = 1 if address is not None else threads_of_a_rank(at_a_time * cluster.ranks)
    return TrialResources(at_a_time, address, is_slurm, uses_gpus, len(gpus), threads)


def _trial_context(
    study: Study, cluster: AnyCluster, output_dir: Path, resources: TrialResources, study_folder: StudyFolder
) -> TrialContext:
    omp = os.environ.get("OMP_NUM_THREADS")
    place = RunContext(
        study.name, output_dir.absolute(), cluster, resources.threads, omp, secrets.token_hex(8)
    )
    return TrialContext(study, place, study_folder.is_begun)


@contextmanager
def _with_fork_server(setting: TrialContext) -> Iterator[TrialContext]:
    """Start the server that forks the processes of local trials. `end_processes` finds it by its variable."""
    place = setting.place
    if not isinstance(place.cluster, LocalCluster):
        yield setting
        return
    variables = {**place.cluster.environment, DRIVER_VARIABLE: place.driver}
    environment = environment_of(setting.study.samples, place.threads, variables)
    with own_server(environment) as path:
        yield replace(setting, place=replace(place, fork_server=path))


def _fit(
    setting: TrialContext,
    resources: TrialResources,
    search: EveryRun | Proposals,
    study_folder: StudyFolder,
    halt: StopConditions,
    progress: ProgressCallback,
    folder: Path,
) -> None:
    """Start Ray, and let Tune run the trials; the study is begun once that is possible."""

    def on_death() -> None:
        """Nothing comes of Ray's calls any more, and the thread that called may wait in one."""
        left = _leave_nothing(setting, search.runs, halt, resources.is_slurm)
        why = "Ray has ended" if halt.signal is None else f"stopped by {halt.signal.name}"
        for sentence in (*left, f"{why}: --resume goes on"):
            print(sentence, flush=True)
        os._exit(exit_codes.FAILURE if halt.signal is None else halt.exit_code)

    try:
        at_a_time, num_gpus = resources.at_a_time, resources.num_gpus
        with ray_running(resources.address, at_a_time, num_gpus, halt.hearing_signals, on_death):
            ranks = setting.place.cluster.ranks
            trial = tune.with_parameters(Trial, setting=setting)
            trial = tune.with_resources(
                trial, trial_slots(resources.address is not None, ranks, resources.uses_gpus)
            )
            study_folder.write()
            tune.Tuner(
                trial,
                tune_config=_tune_config(setting, search, study_folder, at_a_time),
                run_config=_run_config(folder, halt, progress),
            ).fit()
        halt.look()
        as_begun = replace(setting, is_resumed=True)
        if halt.reason is None and all(is_result(run, as_begun) for run in search.runs):
            note_whole(folder)
    except OSError as error:  # a full disk, where the study_folder or Tune's folder lies
        raise UserError(
            f"{error.filename or folder}: cannot be written: {error.strerror or error}"
        ) from error
    except SystemExit:
        halt.signal = halt.signal or signal.SIGTERM  # before Ray's handler could be put away
    except BaseException:
        if not halt.in_haste:  # else it is Hurried, or what Ray's compiled parts made of it
            raise


def _leave_nothing(
    setting: TrialContext, runs: Sequence[Run], halt: StopConditions, is_slurm: bool
) -> list[str]:
    """No signal ends this: what is left now, nobody else would end. Returns what could not be."""
    halt.is_over = True
    place, left = setting.place, []
    if is_slurm:
        try:
            end_jobs(place.study, place.output_dir, halt.reason or "the end of the driver", halt.in_haste)
        except (UserError, OSError) as error:
            left.append(
                f"jobs may be left ({error}): `shiftbench status` tells, `shiftbench cancel` ends them"
            )
    if place.fork_server is not None:
        end_server(place.fork_server)
    end_processes(place.driver, halt.in_haste)
    settle_requests(runs, place.output_dir)
    with suppress(OSError):
        halt.file.unlink(missing_ok=True)
    return left


def _tune_config(
    setting: TrialContext, search: EveryRun | Proposals, study_folder: StudyFolder, at_a_time: int
) -> tune.TuneConfig:
    study, output_dir = setting.study, setting.place.output_dir
    objective, rule = study.spec.objectives[0], study.spec.scheduler
    scheduler = None
    if not isinstance(rule, NoStopping):
        scheduler = StoppingScheduler(rule, objective, study.max_epochs, output_dir, study_folder)
        scheduler.remember(search.runs)
    return tune.TuneConfig(
        metric=objective.metric,
        mode=objective.mode,
        search_alg=search,
        scheduler=scheduler,
        num_samples=study.num_trials,
        max_concurrent_trials=at_a_time,
        reuse_actors=True,  # a worker takes seconds to start
        trial_name_creator=_trial_name,
        trial_dirname_creator=_trial_name,
    )


def _trial_name(trial: Any) -> str:
    return str(trial.config["folder"])


def _run_config(folder: Path, halt: StopConditions, progress: ProgressCallback) -> tune.RunConfig:
    return tune.RunConfig(
        name=folder.name,
        storage_path=str(folder.parent),
        stop=halt,
        callbacks=[progress],
        verbose=0,
        failure_config=tune.FailureConfig(max_failures=MAX_FOLLOWERS_LOST),
        checkpoint_config=tune.CheckpointConfig(checkpoint_at_end=False),  # runs write their own
    )
