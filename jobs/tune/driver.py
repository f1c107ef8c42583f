"""The driver of a study: one process that hands trials to Ray Tune, and leaves nothing running behind.

Runs are trained elsewhere and tell of themselves in their records. What is here may be killed at any
moment: the next driver begins from the records, the book and the scheduler's queue.
"""

import os
import secrets
import shutil
import signal
from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

from ray import tune

from jobs.checks import check_batches, check_folders
from jobs.clusters import SlurmCluster
from jobs.local.child import threads_of_a_rank
from jobs.local.gpus import share_out, visible_gpus
from jobs.local.progress import ProgressView
from jobs.slurm.commands import config
from jobs.submit import AnyCluster
from jobs.tune.book import Book, halt_file
from jobs.tune.engine import ray_running, resources
from jobs.tune.halt import Halt, Spending
from jobs.tune.judge import Judge
from jobs.tune.search import EveryRun, Proposals
from jobs.tune.spec import NoStopping, OptunaSearch
from jobs.tune.study import Study
from jobs.tune.sweep import cancel_orphans, end_jobs, end_processes, settle_requests
from jobs.tune.telling import Telling
from jobs.tune.trial import Setting, Trial, is_result
from jobs.tune.ways import Place
from suite.errors import UserError
from suite.experiment import Run

MARK = ".shiftbench-study"
WHOLE = "every trial has ended"
SLURM_TRIALS_AT_A_TIME = 8
MAX_FOLLOWERS_LOST = 2  # a worker of Ray's that is killed takes its run up again


@dataclass(frozen=True)
class StudyEnd:
    """What came of a study: its runs so far in their order, and what ended it before the last one."""

    runs: Sequence[Run]
    book: Path
    tune_folder: Path
    stopped_by: signal.Signals | None = None
    spent: str | None = None


@dataclass(frozen=True)
class Wishes:
    """What the command line adds to a study."""

    resume: bool = False
    accept: bool = False
    at_a_time: int | None = None
    ray_address: str | None = None


def drive(
    study: Study, cluster: AnyCluster, output_dir: Path, wishes: Wishes, view: ProgressView
) -> StudyEnd:
    """Run a study's trials, or go on with them, until all have ended. `engine.import_ray` comes before.

    Raises UserError before the first trial for what can be told then. Whatever happens, no process and no
    job of it is left.
    """
    check_batches(study.samples, cluster.ranks)
    at_a_time = wishes.at_a_time or study.spec.trials.at_a_time or _usual(cluster)
    address = wishes.ray_address or study.spec.trials.ray_address
    is_slurm = isinstance(cluster, SlurmCluster)
    uses_gpus = not is_slurm and any(run.system.device != "cpu" for run in study.samples)
    gpus = visible_gpus(os.environ) if uses_gpus else []
    if address is None:
        share_out(gpus, at_a_time, cluster.ranks)  # refuses where there are too few
    if is_slurm:
        config()  # a cluster that is down is no place for trials
    check_folders([], output_dir)
    book = Book(study, output_dir)
    with book.held():
        book.compare(accept=wishes.accept)
        threads = 1 if address is not None else threads_of_a_rank(at_a_time * cluster.ranks)
        omp_threads = os.environ.get("OMP_NUM_THREADS", str(threads))
        place = Place(study.name, output_dir.absolute(), cluster, omp_threads, secrets.token_hex(8))
        setting = Setting(study, place, book.is_begun)
        search = _search(setting, book)
        known = {run.run_id for run in search.runs if is_result(run, setting)}
        is_whole = search.is_over and len(known) == len(search.runs)
        if book.is_begun and not wishes.resume and not is_whole:
            raise UserError(
                f"{study.name} was begun in {output_dir}, and {len(known)} of {study.num_trials} trials have "
                "their result: --resume goes on"
            )
        tune_folder = _tune_folder(study, output_dir)
        view.start(total=study.num_trials, skipped=len(known))
        if search.left_out:
            view.console.print(f"{search.left_out} proposed points are no part of the study any more")
        if is_whole and not book.is_changed and _is_whole(tune_folder):
            return StudyEnd(search.runs, book.folder, tune_folder)
        if book.is_begun:
            wanted = {run.folder_name for run in search.runs} if is_slurm else set()
            cancel_orphans(study.name, output_dir, wanted)
        spending = Spending(study.name, output_dir, lambda: search.runs)
        halt = Halt(study.spec.budget, spending, halt_file(output_dir, study.name))
        if not halt.stop_all():
            _make_anew(tune_folder, book.folder)
            telling = Telling(study, output_dir, known, view)
            with halt.hearing_signals(), view:
                try:
                    with (
                        ray_running(address, at_a_time, len(gpus)),
                        halt.hearing_signals(),
                    ):  # Ray sets its own
                        wanted_of_ray = resources(address is not None, cluster.ranks, uses_gpus)
                        book.write()
                        trial = tune.with_parameters(Trial, setting=setting)
                        tune.Tuner(
                            tune.with_resources(trial, wanted_of_ray),
                            tune_config=_tune_config(study, search, output_dir, book, at_a_time),
                            run_config=_run_config(tune_folder, halt, telling),
                        ).fit()
                    if halt.reason is None:
                        _note_whole(tune_folder)
                except BaseException:
                    if not halt.in_haste:  # else it is Hurried, or what Ray's compiled parts made of it
                        raise
                finally:
                    with halt.hearing_signals():
                        _leave_nothing(setting, search.runs, halt, is_slurm)
        if halt.refused is not None:
            raise UserError(f"{halt.refused}; nothing is lost: mend it, and --resume")
        return StudyEnd(search.runs, book.folder, tune_folder, halt.signal, halt.spent)


def _leave_nothing(setting: Setting, runs: Sequence[Run], halt: Halt, is_slurm: bool) -> None:
    """No signal ends this: what is left now, nobody else would end."""
    halt.is_over = True
    place = setting.place
    if is_slurm:
        end_jobs(place.study, place.output_dir, halt.reason or "the end of the driver", halt.in_haste)
    end_processes(place.driver, halt.in_haste)
    settle_requests(runs, place.output_dir)
    halt.file.unlink(missing_ok=True)


def _usual(cluster: AnyCluster) -> int:
    return cluster.array_parallelism or (SLURM_TRIALS_AT_A_TIME if isinstance(cluster, SlurmCluster) else 1)


def _search(setting: Setting, book: Book) -> EveryRun | Proposals:
    if isinstance(setting.study.spec.search, OptunaSearch):
        return Proposals(setting, book)
    return EveryRun(setting.study)


def _tune_config(
    study: Study, search: EveryRun | Proposals, output_dir: Path, book: Book, at_a_time: int
) -> tune.TuneConfig:
    objective, rule = study.spec.objectives[0], study.spec.scheduler
    judge = None
    if not isinstance(rule, NoStopping):
        judge = Judge(rule, objective, study.max_epochs, output_dir, book)
        judge.remember(search.runs)
    return tune.TuneConfig(
        metric=objective.metric,
        mode=objective.mode,
        search_alg=search,
        scheduler=judge,
        num_samples=study.num_trials,
        max_concurrent_trials=at_a_time,
        reuse_actors=True,  # a worker takes seconds to start
        trial_name_creator=_trial_name,
        trial_dirname_creator=_trial_name,
    )


def _trial_name(trial: Any) -> str:
    return str(trial.config["folder"])


def _run_config(tune_folder: Path, halt: Halt, telling: Telling) -> tune.RunConfig:
    return tune.RunConfig(
        name=tune_folder.name,
        storage_path=str(tune_folder.parent),
        stop=halt,
        callbacks=[telling],
        verbose=0,
        failure_config=tune.FailureConfig(max_failures=MAX_FOLLOWERS_LOST),
        checkpoint_config=tune.CheckpointConfig(checkpoint_at_end=False),  # runs write their own
    )


def _tune_folder(study: Study, output_dir: Path) -> Path:
    """Where Tune's own files go. Raises UserError when something else lies there."""
    wanted = study.spec.trials.ray_results
    above = Path(os.path.expandvars(wanted or "~/ray_results")).expanduser().absolute()
    book = str((output_dir / "studies" / study.name).resolve())
    folder = above / f"{study.name}-{sha256(book.encode()).hexdigest()[:6]}"
    if folder.exists() and not (folder / MARK).exists():
        raise UserError(f"{folder}: was not made by a study; move it away")
    return folder


def _make_anew(folder: Path, book: Path) -> None:
    """All that Tune's files tell is told again from the records. Raises UserError."""
    try:
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        (folder / MARK).write_text(f"{book}\n", encoding="utf-8")
    except OSError as error:
        raise UserError(f"{folder}: cannot be written: {error.strerror}; see trials.ray_results") from None


def _note_whole(folder: Path) -> None:
    with (folder / MARK).open("a", encoding="utf-8") as mark:
        mark.write(f"{WHOLE}\n")


def _is_whole(folder: Path) -> bool:
    return (folder / MARK).exists() and WHOLE in (folder / MARK).read_text(encoding="utf-8").splitlines()
