"""Measures the robustness of trained runs, and writes each result to its run's folder.

`python -m jobs.trained.robustness FOLDER PLAN` measures one run; `measure_missing` starts it.
"""

import json
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from jobs import exit_codes
from jobs.local.process import StartProcess
from jobs.local.process_end import exit_with
from jobs.trained.processes import last_step, measured_in_processes
from suite.architectures import ARCHITECTURES
from suite.errors import UserError
from suite.experiment import BatchFreeSpec, Run
from suite.files import NoLocks, locked
from suite.paths import RunPaths
from suite.record import RobustnessRecord, read_robustness, write_robustness
from suite.robustness_coverage import missing_of
from suite.specs.robustness import RobustnessPlan

MODULE = "jobs.trained.robustness"


def measure_missing(
    runs: Sequence[Run], plan: RobustnessPlan, output_dir: Path, jobs: int, start_process: StartProcess
) -> Iterator[tuple[Run, str | None]]:
    """Measure what is missing of completed `runs`, `jobs` at a time. Yields each run and its error.

    The images' folder and what the machine has to do are those of `runs`, whatever the folders say. What was
    measured before of the same checkpoint is kept, and not measured again.
    """

    def plan_of(run: Run) -> str:
        return json.dumps([run.model_dump(mode="json"), plan.model_dump(mode="json")])

    yield from measured_in_processes(
        runs,
        output_dir,
        lambda run, paths: is_measured(run, paths, plan),
        MODULE,
        plan_of,
        jobs,
        start_process,
    )


def is_measured(run: Run, paths: RunPaths, plan: RobustnessPlan) -> bool:
    """Return whether a run's record has all that a plan asks for. Raises UserError without a checkpoint."""
    known, empty = _known(paths), RobustnessRecord(step=last_step(paths), data=run.data.name)
    has_bn = not isinstance(run.model.norm, BatchFreeSpec)
    return known is not None and known.is_of_same(empty) and not missing_of(known, plan, has_bn=has_bn)


def main() -> int:
    """Measure one run. Returns the exit code; the last line of the output is the error."""
    paths, (run, plan) = RunPaths(sys.argv[1]), json.loads(sys.argv[2])
    try:
        with _held(paths):  # another process adds to the same file
            measure(Run.model_validate(run), paths, RobustnessPlan.model_validate(plan))
    except (UserError, OSError) as error:
        where = error.filename if isinstance(error, OSError) else None
        print(f"{where}: {error.strerror}" if isinstance(error, OSError) else error)
        return exit_codes.BAD_USAGE
    return exit_codes.DONE


@contextmanager
def _held(paths: RunPaths) -> Iterator[None]:
    """Hold the run's robustness.json for the block, as far as the file system has locks."""
    with ExitStack() as stack:
        with suppress(NoLocks):
            stack.enter_context(locked(paths.folder / ".robustness.lock", wait=True))
        yield


def measure(run: Run, paths: RunPaths, plan: RobustnessPlan) -> None:
    """Measure the network after its last step, and write the run's record after each result.

    Raises UserError for a checkpoint that cannot be read, for missing data, and as `survey` does.
    """
    import torch

    from suite.models import build_model, load_weights
    from suite.shift.robustness import Images, survey
    from suite.train.arithmetic import measuring

    has_gpu = run.system.device != "cpu" and torch.cuda.is_available()
    device = torch.device("cuda" if has_gpu else "cpu")
    step = last_step(paths)
    model = build_model(run.model)
    load_weights(model, paths.checkpoint(step))
    channels = ARCHITECTURES[run.model.arch].family.input_channels
    images = Images(run.data, device, channels, run.system.data_threads)

    def keep(record: RobustnessRecord) -> None:
        write_robustness(paths, record)

    with measuring(run):
        survey(model.to(device), images, plan, step=step, known=_known(paths), keep=keep)


def _known(paths: RunPaths) -> RobustnessRecord | None:
    """Return what was measured before; of a malformed file nothing, so that it is measured anew."""
    try:
        return read_robustness(paths)
    except UserError:
        return None


if __name__ == "__main__":
    exit_with(main)
