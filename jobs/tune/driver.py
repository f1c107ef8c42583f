"""The driver of a study: one process that hands trials to Ray Tune, and leaves nothing running behind.

Runs are trained elsewhere and write their own records. The driver may be killed at any moment: the next one
begins from the records, the study's folder and the scheduler's queue.
"""

import os
import secrets
import signal
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext, suppress
from dataclasses import dataclass, replace
from pathlib import Path

from ray import tune

from jobs import exit_codes
from jobs.checks import check_folders
from jobs.cluster.clusters import AnyCluster, is_slurm
from jobs.cluster.slurm_commands import config
from jobs.local.child import environment_of, threads_of_a_rank
from jobs.local.fork_client import end_server, own_server
from jobs.local.gpus import VisibleGpus, share_out, visible_gpus
from jobs.local.launches import Launch
from jobs.local.progress import ProgressView
from jobs.tune.cleanup import cancel_orphans, end_jobs, end_processes
from jobs.tune.engine import RayOptions, ray_running, trial_slots
from jobs.tune.progress_callback import ProgressCallback
from jobs.tune.runners import TrialContext, settle_request
from jobs.tune.scheduler import StoppingScheduler
from jobs.tune.search import StudySearcher, searcher_for
from jobs.tune.stop_conditions import StopConditions
from jobs.tune.study_folder import StudyFolder, is_complete, mark_complete, recreate, tune_folder
from jobs.tune.trial import is_result, trial_of
from suite.errors import UserError
from suite.experiment import Run
from suite.studies.spec import StoppingSpec
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


def drive(
    study: Study, cluster: AnyCluster, output_dir: Path, view: ProgressView, *, resume: bool, accept: bool
) -> StudyEnd:
    """Run a study's trials until all have ended. Call `engine.import_ray` before importing this module.

    No process and no job of the study is left afterwards. Raises UserError before the first trial for what
    is wrong with the study, the cluster or the folders.
    """
    check_points(study, cluster.ranks)
    ray_options = _ray_options(study, cluster)
    check_folders([], output_dir)
    study_folder = StudyFolder(study, output_dir)
    with study_folder.held():
        study_folder.compare(accept)
        threads = 1 if ray_options.address else threads_of_a_rank(ray_options.at_a_time * cluster.ranks)
        omp, token, is_begun = os.environ.get("OMP_NUM_THREADS"), secrets.token_hex(8), study_folder.is_begun
        context = TrialContext(study, output_dir.absolute(), cluster, threads, omp, token, is_begun)
        search = searcher_for(context, study_folder)
        known = {run.run_id for run in search.runs if is_result(run, context)}
        is_done = search.is_over and len(known) == len(search.runs)
        if is_begun and not resume and not is_done:
            have = f"{len(known)} of {study.num_trials} trials have their result"
            raise UserError(f"{study.name} was begun in {output_dir}, and {have}: --resume continues it")
        folder = tune_folder(study, output_dir)
        view.start(total=study.num_trials, skipped=len(known))
        if search.left_out:
            view.console.print(f"{search.left_out} proposed points are not in the study any more")
        if is_done and not study_folder.is_changed and is_complete(folder):
            return StudyEnd(search.runs, study_folder.folder, folder)
        if is_begun:
            wanted = search.runs if is_slurm(cluster) else ()
            cancel_orphans(study.name, output_dir, {run.folder_name for run in wanted})
        stop = StopConditions(study.spec.budget, study.name, output_dir, lambda: search.runs)
        errors: list[str] = []
        server: AbstractContextManager[Path | None] = nullcontext()
        # Forks the processes of trials. Ray's other machines could not reach it.
        if not is_slurm(cluster) and ray_options.address is None:
            server = own_server(environment_of(study.samples, threads, context.variables))
        view.waits_for = "Ray"
        planned = () if study.is_proposed else (run for run in study.runs if run.run_id not in known)
        launch = Launch(output_dir, [run.folder_name for run in planned])
        with stop.handling_signals(), view, launch, server as path:
            context = replace(context, fork_server=path)
            try:
                if not stop.stop_all():
                    recreate(folder, study_folder.folder)
                    progress = ProgressCallback(study, output_dir, known, view, launch)
                    _fit(context, ray_options, search, study_folder, stop, progress, folder)
            finally:
                errors = _clean_up(context, search.runs, stop)
        if stop.refused is not None:
            raise UserError(f"{stop.refused}; nothing is lost: fix it and --resume")
        return StudyEnd(search.runs, study_folder.folder, folder, stop.signal, stop.spent, tuple(errors))


def _ray_options(study: Study, cluster: AnyCluster) -> RayOptions:
    """Raise UserError where there are too few GPUs, Slurm does not answer, or a container has no image."""
    on_slurm, address = is_slurm(cluster), study.spec.trials.ray_address
    usual = cluster.array_parallelism or (SLURM_TRIALS_AT_A_TIME if on_slurm else 1)
    at_a_time = study.spec.trials.at_a_time or usual
    uses_gpus = not on_slurm and any(run.system.device != "cpu" for run in study.samples)
    gpus = visible_gpus(os.environ) if uses_gpus and address is None else VisibleGpus([])
    share_out(gpus, at_a_time, cluster.ranks)
    if cluster.scheduler == "slurm":
        cluster.check_image()
        config()
    return RayOptions(address, at_a_time, uses_gpus, len(gpus.names))


def _fit(
    context: TrialContext,
    ray_options: RayOptions,
    search: StudySearcher,
    study_folder: StudyFolder,
    stop: StopConditions,
    progress: ProgressCallback,
    folder: Path,
) -> None:
    """Start Ray and let Tune run the trials. The study counts as begun once Ray has started."""

    def on_death() -> None:
        """Clean up in another thread: the main one may wait in a call of Ray's that never returns."""
        errors = _clean_up(context, search.runs, stop)
        why = "Ray has ended" if stop.signal is None else f"stopped by {stop.signal.name}"
        for sentence in (*errors, f"{why}: --resume continues the study"):
            print(sentence, flush=True)
        os._exit(exit_codes.FAILURE if stop.signal is None else exit_codes.of_stop(stop.signal))

    try:
        with ray_running(ray_options, stop.handling_signals, on_death):
            trial = tune.with_resources(trial_of(context), trial_slots(ray_options, context.cluster.ranks))
            study_folder.write()
            tune_config = _tune_config(context, search, study_folder, ray_options.at_a_time)
            tune.Tuner(trial, tune_config=tune_config, run_config=_run_config(folder, stop, progress)).fit()
        stop.look()
        as_begun = replace(context, is_resumed=True)
        if stop.reason is None and all(is_result(run, as_begun) for run in search.runs):
            mark_complete(folder)
    except OSError as error:  # such as a full disk under the study's folder or Tune's folder
        where = error.filename or folder
        raise UserError(f"{where}: cannot be written: {error.strerror or error}") from error
    except SystemExit:
        stop.signal = stop.signal or signal.SIGTERM  # before our handler had replaced Ray's
    except BaseException:
        if not stop.is_forced:  # else it is ForcedStop, or what Ray's compiled parts made of it
            raise


def _clean_up(context: TrialContext, runs: Sequence[Run], stop: StopConditions) -> list[str]:
    """End all jobs and processes of the study. Ignores signals. Returns what could not be ended."""
    stop.is_over = True
    errors = []
    if is_slurm(context.cluster):
        reason = stop.reason or "the end of the driver"
        try:
            end_jobs(context.study.name, context.output_dir, reason, stop.is_forced)
        except (UserError, OSError) as error:
            how = "`shiftbench status` lists them, `shiftbench cancel` ends them"
            errors.append(f"jobs may be left ({error}): {how}")
    if context.fork_server is not None:
        end_server(context.fork_server)
    end_processes(context.driver, stop.is_forced)
    for run in runs:
        settle_request(run, context.output_dir / run.folder_name)
    with suppress(OSError):
        stop.file.unlink(missing_ok=True)
    return errors


def _tune_config(
    context: TrialContext, search: StudySearcher, study_folder: StudyFolder, at_a_time: int
) -> tune.TuneConfig:
    study = context.study
    objective, rule, scheduler = study.spec.objectives[0], study.spec.scheduler, None
    if isinstance(rule, StoppingSpec):
        epochs = max(run.num_epochs for run in study.samples)
        scheduler = StoppingScheduler(rule, objective, epochs, context.output_dir, study_folder)
        scheduler.remember(search.runs)
    return tune.TuneConfig(
        metric=objective.metric,
        mode=objective.mode,
        search_alg=search,
        scheduler=scheduler,
        num_samples=study.num_trials,
        max_concurrent_trials=at_a_time,
        reuse_actors=True,  # a worker takes seconds to start
        trial_name_creator=lambda trial: trial.config["folder"],
        trial_dirname_creator=lambda trial: trial.config["folder"],
    )


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
