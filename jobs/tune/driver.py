"""The driver of a study: one process that hands trials to Ray Tune, and leaves nothing running behind.

Runs are trained elsewhere and write their own records. The driver may be killed at any moment: the next one
begins from the records, the study's folder and the scheduler's queue.
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
from jobs.cluster.clusters import AnyCluster, is_slurm
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
from jobs.tune.search import StudySearcher, searcher_for
from jobs.tune.stop_conditions import StopConditions, StudyCosts
from jobs.tune.study_folder import StudyFolder, stop_file
from jobs.tune.trial import Trial, TrialContext, is_result
from jobs.tune.tune_folder import is_complete, mark_complete, recreate, tune_folder
from suite.errors import UserError
from suite.experiment import Run
from suite.studies.strategies import StoppingSpec
from suite.studies.study import Study, check_points

SLURM_TRIALS_AT_A_TIME = 8
MAX_WORKERS_LOST = 2  # for each trial: another worker of Ray's continues its run


@dataclass(frozen=True)
class StudyEnd:
    """How a driver ended: the study's runs so far in their order, and what ended it before the last one."""

    runs: Sequence[Run]
    study_folder: Path
    tune_folder: Path
    stopped_by: signal.Signals | None = None
    spent: str | None = None
    errors: tuple[str, ...] = ()
    """A sentence for each thing that could not be ended."""


@dataclass(frozen=True)
class DriverOptions:
    """What the command line adds to a study."""

    resume: bool = False
    accept: bool = False
    at_a_time: int | None = None
    ray_address: str | None = None


@dataclass(frozen=True)
class TrialResources:
    """What trials run on. `num_gpus`: of a Ray that we start; `threads`: of each rank."""

    at_a_time: int
    address: str | None
    is_slurm: bool
    uses_gpus: bool
    num_gpus: int
    threads: int


def drive(
    study: Study, cluster: AnyCluster, output_dir: Path, options: DriverOptions, view: ProgressView
) -> StudyEnd:
    """Runs a study's trials until all have ended. Call `engine.import_ray` before importing this module.

    No process and no job of the study is left afterwards. Raises UserError before the first trial for what
    is wrong with the study, the cluster or the folders.
    """
    check_points(study, cluster.ranks)
    resources = _resources(study, cluster, options)
    check_folders([], output_dir)
    study_folder = StudyFolder(study, output_dir)
    with study_folder.held():
        study_folder.compare(accept=options.accept)
        context = _trial_context(study, cluster, output_dir, resources, study_folder)
        search = searcher_for(context, study_folder)
        known = {run.run_id for run in search.runs if is_result(run, context)}
        is_done = search.is_over and len(known) == len(search.runs)
        if study_folder.is_begun and not options.resume and not is_done:
            raise UserError(
                f"{study.name} was begun in {output_dir}, and {len(known)} of {study.num_trials} trials have "
                "their result: --resume continues it"
            )
        folder = tune_folder(study, output_dir)
        view.start(total=study.num_trials, skipped=len(known))
        if search.left_out:
            view.console.print(f"{search.left_out} proposed points are not in the study any more")
        if is_done and not study_folder.is_changed and is_complete(folder):
            return StudyEnd(search.runs, study_folder.folder, folder)
        if study_folder.is_begun:
            cancel_orphans(study.name, output_dir, {r.folder_name for r in search.runs if resources.is_slurm})
        costs = StudyCosts(study.name, output_dir, lambda: search.runs)
        stop = StopConditions(study.spec.budget, costs, stop_file(output_dir, study.name))
        errors: list[str] = []
        with stop.handling_signals(), view, _with_fork_server(context) as context:
            try:
                if not stop.stop_all():
                    recreate(folder, study_folder.folder)
                    progress = ProgressCallback(study, output_dir, known, view)
                    _fit(context, resources, search, study_folder, stop, progress, folder)
            finally:
                errors = _clean_up(context, search.runs, stop, resources.is_slurm)
        if stop.refused is not None:
            raise UserError(f"{stop.refused}; nothing is lost: fix it and --resume")
        return StudyEnd(search.runs, study_folder.folder, folder, stop.signal, stop.spent, tuple(errors))


def _resources(study: Study, cluster: AnyCluster, options: DriverOptions) -> TrialResources:
    """Raises UserError where there are too few GPUs, or Slurm does not answer."""
    on_slurm = is_slurm(cluster)
    usual = cluster.array_parallelism or (SLURM_TRIALS_AT_A_TIME if on_slurm else 1)
    at_a_time = options.at_a_time or study.spec.trials.at_a_time or usual
    address = options.ray_address or study.spec.trials.ray_address
    uses_gpus = not on_slurm and any(run.system.device != "cpu" for run in study.samples)
    gpus = visible_gpus(os.environ) if uses_gpus and address is None else []
    share_out(gpus, at_a_time, cluster.ranks)
    if on_slurm:
        config()
    threads = 1 if address is not None else threads_of_a_rank(at_a_time * cluster.ranks)
    return TrialResources(at_a_time, address, on_slurm, uses_gpus, len(gpus), threads)


def _trial_context(
    study: Study, cluster: AnyCluster, output_dir: Path, resources: TrialResources, study_folder: StudyFolder
) -> TrialContext:
    omp = os.environ.get("OMP_NUM_THREADS")
    run_context = RunContext(
        study.name, output_dir.absolute(), cluster, resources.threads, omp, secrets.token_hex(8)
    )
    return TrialContext(study, run_context, study_folder.is_begun)


@contextmanager
def _with_fork_server(context: TrialContext) -> Iterator[TrialContext]:
    """Start the server that forks the processes of local trials. `end_processes` finds it by its variable."""
    run_context = context.run_context
    if is_slurm(run_context.cluster):
        yield context
        return
    variables = {**run_context.cluster.environment, DRIVER_VARIABLE: run_context.driver}
    environment = environment_of(context.study.samples, run_context.threads, variables)
    with own_server(environment) as path:
        yield replace(context, run_context=replace(run_context, fork_server=path))


def _fit(
    context: TrialContext,
    resources: TrialResources,
    search: StudySearcher,
    study_folder: StudyFolder,
    stop: StopConditions,
    progress: ProgressCallback,
    folder: Path,
) -> None:
    """Starts Ray and lets Tune run the trials. The study counts as begun once Ray has started."""

    def on_death() -> None:
        """Cleans up in another thread: the main one may wait in a call of Ray's that never returns."""
        errors = _clean_up(context, search.runs, stop, resources.is_slurm)
        why = "Ray has ended" if stop.signal is None else f"stopped by {stop.signal.name}"
        for sentence in (*errors, f"{why}: --resume continues the study"):
            print(sentence, flush=True)
        os._exit(exit_codes.FAILURE if stop.signal is None else stop.exit_code)

    try:
        at_a_time, num_gpus = resources.at_a_time, resources.num_gpus
        with ray_running(resources.address, at_a_time, num_gpus, stop.handling_signals, on_death):
            ranks = context.run_context.cluster.ranks
            trial = tune.with_parameters(Trial, context=context)
            trial = tune.with_resources(
                trial, trial_slots(resources.address is not None, ranks, resources.uses_gpus)
            )
            study_folder.write()
            tune.Tuner(
                trial,
                tune_config=_tune_config(context, search, study_folder, at_a_time),
                run_config=_run_config(folder, stop, progress),
            ).fit()
        stop.look()
        as_begun = replace(context, is_resumed=True)
        if stop.reason is None and all(is_result(run, as_begun) for run in search.runs):
            mark_complete(folder)
    except OSError as error:  # such as a full disk under the study's folder or Tune's folder
        raise UserError(
            f"{error.filename or folder}: cannot be written: {error.strerror or error}"
        ) from error
    except SystemExit:
        stop.signal = stop.signal or signal.SIGTERM  # before our handler had replaced Ray's
    except BaseException:
        if not stop.is_forced:  # else it is ForcedStop, or what Ray's compiled parts made of it
            raise


def _clean_up(context: TrialContext, runs: Sequence[Run], stop: StopConditions, is_slurm: bool) -> list[str]:
    """Ends all jobs and processes of the study. Ignores signals. Returns what could not be ended."""
    stop.is_over = True
    run_context, errors = context.run_context, []
    if is_slurm:
        reason = stop.reason or "the end of the driver"
        try:
            end_jobs(context.study.name, context.output_dir, reason, stop.is_forced)
        except (UserError, OSError) as error:
            errors.append(
                f"jobs may be left ({error}): `shiftbench status` lists them, `shiftbench cancel` ends them"
            )
    if run_context.fork_server is not None:
        end_server(run_context.fork_server)
    end_processes(run_context.driver, stop.is_forced)
    settle_requests(runs, context.output_dir)
    with suppress(OSError):
        stop.file.unlink(missing_ok=True)
    return errors


def _tune_config(
    context: TrialContext, search: StudySearcher, study_folder: StudyFolder, at_a_time: int
) -> tune.TuneConfig:
    study = context.study
    objective, rule, scheduler = study.spec.objectives[0], study.spec.scheduler, None
    if isinstance(rule, StoppingSpec):
        scheduler = StoppingScheduler(rule, objective, study.max_epochs, context.output_dir, study_folder)
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


def _run_config(folder: Path, stop: StopConditions, progress: ProgressCallback) -> tune.RunConfig:
    return tune.RunConfig(
        name=folder.name,
        storage_path=str(folder.parent),
        stop=stop,
        callbacks=[progress],
        verbose=0,
        failure_config=tune.FailureConfig(max_failures=MAX_WORKERS_LOST),
        checkpoint_config=tune.CheckpointConfig(checkpoint_at_end=False),  # runs write their own
    )
