"""Noise on the estimates of trained runs, once for each: what was measured is kept in the run's folder."""

import logging
import multiprocessing
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path

from suite.errors import UserError
from suite.experiment import Run
from suite.paths import RunPaths
from suite.record import NoiseRecord, read_noise, write_noise

log = logging.getLogger("shiftbench")
DELTAS = (0.0, 0.1, 0.3, 0.5)
DRAWS = 3
_IMAGES_PER_BATCH = 32  # on a CPU three times as fast as 250, whose activations leave the caches


def measure_missing(runs: Sequence[Run], output_dir: Path, jobs: int = 1) -> Iterator[tuple[Run, str | None]]:
    """Perturb those of the completed `runs` that were not yet. Yields each when done, and what went wrong.

    What was measured of another checkpoint, or with other magnitudes or draws, is measured again. With `jobs`
    above one, so many at a time in processes of one thread: networks as small as these gain nothing by more.
    """
    waiting = []
    for run in runs:
        try:
            paths = RunPaths(output_dir / run.folder_name)
            if not _is_measured(paths, _last_step(paths), run.seed):
                waiting.append(run)
        except UserError as error:
            yield run, str(error)
    if jobs == 1 or len(waiting) < 2:
        for run in waiting:
            yield run, _measure_one(run, output_dir)
        return
    spawn = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(min(jobs, len(waiting)), spawn, _take_one_thread) as pool:
        futures = {pool.submit(_measure_one, run, output_dir): run for run in waiting}
        for future in as_completed(futures):
            try:
                yield futures[future], future.result()
            except BrokenProcessPool:
                yield futures[future], "the process that measured it died"


def _take_one_thread() -> None:
    import torch

    torch.set_num_threads(1)


def _measure_one(run: Run, output_dir: Path) -> str | None:
    """What went wrong, or None."""
    paths = RunPaths(output_dir / run.folder_name)
    try:
        _write(paths, measure(run, paths, _last_step(paths)))
    except UserError as error:
        return str(error)
    except Exception as error:  # of one network, such as too little memory: the others and the report go on
        log.exception("noise on %s", run.folder_name)
        return f"{type(error).__name__}: {error}"
    return None


def _write(paths: RunPaths, noise: NoiseRecord) -> None:
    try:
        write_noise(paths, noise)
    except OSError as error:
        raise UserError(f"{paths.noise}: cannot be written: {error.strerror}") from None


def _last_step(paths: RunPaths) -> int:
    steps = paths.checkpoint_steps()
    if not steps:
        raise UserError(
            f"{paths.checkpoints}: has no checkpoint left to put noise on; remove the run's folder"
        )
    return steps[-1]


def _is_measured(paths: RunPaths, step: int, seed: int) -> bool:
    try:
        kept = read_noise(paths)
    except UserError:
        return False
    return (
        kept is not None
        and (kept.step, kept.seed, kept.deltas) == (step, seed, DELTAS)
        and all(len(draws) == DRAWS for draws in kept.top1_percent)
    )


def measure(run: Run, paths: RunPaths, step: int) -> NoiseRecord:
    """Accuracy under noise of the network after `step` steps, over the run's validation images.

    Raises UserError for a checkpoint that cannot be read, and for data that are not there.
    """
    import torch

    from suite.data import val_loader
    from suite.models import build_model, load_weights
    from suite.shift import perturb

    use_gpu = run.system.device != "cpu" and torch.cuda.is_available()
    device = torch.device("cuda" if use_gpu else "cpu")
    model = build_model(run.model)
    load_weights(model, paths.checkpoint(step))
    images = val_loader(run, images_per_batch=_IMAGES_PER_BATCH, rank=0, world_size=1, device=device)
    try:
        found = perturb(model.to(device), images, DELTAS, draws=DRAWS, seed=run.seed)
    finally:
        images.close()
    # Draws of the run's own: shared ones would be no part of what differs between the seeds.
    return NoiseRecord(step, run.seed, found.num_images, found.deltas, found.top1_percent)
