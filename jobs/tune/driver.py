"""The driver of a study: one process that hands trials to Ray Tune, and leaves nothing running behind.

Runs are trained elsewhere and tell of themselves in their records. What is here may be killed at any
moment: the next driver begins from the records, the book and the scheduler's queue.
"""

import os
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
from jobs.tune.book import Book
from jobs.tune.engine import ray_running, resources
from jobs.tune.halt import Halt, Spending
from jobs.tune.judge import Judge
from jobs.tune.search import EveryRun, Proposals
from jobs.tune.spec import NoStopping, OptunaSearch
from jobs.tune.study import Study
from jobs.tune.sweep import cancel_orphans, leave_nothing
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
    num_read: int
    book: Path
    tune_folder: Path
    stopped_by: signal.Signals | None
    spent: str | None


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
        book.open(accept=wishes.accept)
        threads = threads_of_a_rank(at_a_time * cluster.ranks)
        setting = Setting(study, Place(study.name, output_dir.absolute(), cluster, threads), book.is_begun)
        search = _search(setting, book)
        known = {run.run_id for run in search.runs if is_result(run, setting)}
        if book.is_begun and not wishes.resume and len(known) < study.num_trials:
            raise UserError(
                f"{study.name} was begun in {output_dir}, and {len(known)} of {study.num_trials} trials have "
                "their result: --resume goes on"
            )
        tune_folder = _tune_folder(study, output_dir)
        if len(known) == study.num_trials and _is_whole(tune_folder):
            view.start(total=study.num_trials, skipped=len(known))
            return StudyEnd(search.runs, len(known), book.folder, tune_folder, None, None)
        _make_anew(tune_folder, book.folder)
        if is_slurm:
            cancel_orphans(study.name, output_dir, search.runs)
        halt = Halt(study.spec.budget, Spending(study.name, output_dir, lambda: search.runs))
        telling = Telling(study, output_dir, known, halt, view)
        view.start(total=study.num_trials, skipped=len(known))
        with halt.hearing_signals(), view:
            try:
                with ray_running(address, at_a_time, len(gpus)):
                    trial = tune.with_parameters(Trial, setting=setting)
                    trial = tune.with_resources(trial, resources(address, cluster.ranks, uses_gpus))
                    tune.Tuner(
                        trial,
                        tune_config=_tune_config(study, search, output_dir),
                        run_config=_run_config(tune_folder, halt, telling),
                    ).fit()
                if halt.signal is None and halt.spent is None:
                    _note_whole(tune_folder)
            except BaseException:
                if not halt.in_haste:  # else it is Hurried, or what Ray's compiled parts made of it
                    raise
            finally:
                halt.is_over = True  # no signal ends this: what is left now, nobody else would end
                left = [run for run in search.runs if output_dir / run.folder_name in telling.started]
                leave_nothing(left, output_dir, is_slurm, halt.in_haste)
    return StudyEnd(search.runs, len(known), book.folder, tune_folder, halt.signal, halt.spent)


def _usual(cluster: AnyCluster) -> int:
    return cluster.array_parallelism or (SLURM_TRIALS_AT_A_TIME if isinstance(cluster, SlurmCluster) else 1)


def _search(setting: Setting, book: Book) -> EveryRun | Proposals:
    if isinstance(setting.study.spec.search, OptunaSearch):
        return Proposals(setting, book)
    return EveryRun(setting.study)


def _tune_config(study: Study, search: EveryRun | Proposals, output_dir: Path) -> tune.TuneConfig:
    objective, rule = study.spec.objectives[0], study.spec.scheduler
    judge = None
    if not isinstance(rule, NoStopping):
        judge = Judge(rule, objective, study.max_epochs, output_dir)
        judge.remember(search.runs)
    return tune.TuneConfig(
        metric=objective.metric,
        mode=objective.mode,
        search_alg=search,
        scheduler=judge,
        num_samples=study.num_trials,
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
