"""Measures the robustness of trained runs, and writes each result to its run's folder.

`python -m jobs.trained.robustness FOLDER PLAN` measures one run; `measure_missing` starts it.
"""

import sys
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path

from jobs import exit_codes
from jobs.checks import read_run
from jobs.local.process import StartProcess
from jobs.trained.processes import last_step, measured_in_processes
from suite.architectures import ARCHITECTURES
from suite.errors import UserError
from suite.experiment import BatchFreeSpec, Run
from suite.paths import RunPaths
from suite.record import RobustnessRecord, read_robustness, write_robustness
from suite.robustness_coverage import missing_of
from suite.specs.robustness import RobustnessPlan

MODULE = "jobs.trained.robustness"


def measure_missing(
    runs: Sequence[Run], plan: RobustnessPlan, output_dir: Path, jobs: int, start_process: StartProcess
) -> Iterator[tuple[Run, str | None]]:
    """Measure what is missing of completed `runs`, `jobs` at a time. Yields each run and its error.

    What was measured before of the same checkpoint is kept, and not measured again.
    """
    text = plan.model_dump_json()
    yield from measured_in_processes(
        runs, output_dir, lambda run, paths: is_measured(run, paths, plan), MODULE, text, jobs, start_process
    )


def is_measured(run: Run, paths: RunPaths, plan: RobustnessPlan) -> bool:
    """Return whether a run's record has all that a plan asks for. Raises UserError without a checkpoint."""
    empty = RobustnessRecord(step=last_step(paths), data=run.data.name, max_images=plan.max_images)
    known = None
    with suppress(UserError):  # a malformed one is measured anew
        known = read_robustness(paths)
    has_bn = not isinstance(run.model.norm, BatchFreeSpec)
    return known is not None and known.is_of_same(empty) and not missing_of(known, plan, has_bn=has_bn)


def main() -> int:
    """Measure one run. Returns the exit code; the last line of the output is the error."""
    folder, plan = Path(sys.argv[1]), RobustnessPlan.model_validate_json(sys.argv[2])
    paths = RunPaths(folder)
    try:
        run = read_run(folder)
        # The shifts are kept even if a method fails on a stream.
        for part in (plan.model_copy(update={"methods": ()}), plan) if plan.methods else (plan,):
            write_robustness(paths, measure(run, paths, part))
    except (UserError, OSError) as error:
        where = error.filename if isinstance(error, OSError) else None
        print(f"{where}: {error.strerror}" if isinstance(error, OSError) else error)
        return exit_codes.BAD_USAGE
    return exit_codes.DONE


def measure(run: Run, paths: RunPaths, plan: RobustnessPlan) -> RobustnessRecord:
    """Return the record of the network after its last step, with what was known of it before.

    Raises UserError for a checkpoint that cannot be read, and for missing data.
    """
    import torch

    from suite.models import build_model, load_weights
    from suite.shift.robustness.surveys import Images, survey

    has_gpu = run.system.device != "cpu" and torch.cuda.is_available()
    device = torch.device("cuda" if has_gpu else "cpu")
    step = last_step(paths)
    model = build_model(run.model)
    load_weights(model, paths.checkpoint(step))
    known = None
    with suppress(UserError):  # a malformed one is measured anew
        known = read_robustness(paths)
    channels = ARCHITECTURES[run.model.arch].family.input_channels
    images = Images(run.data, device, channels, run.system.data_threads)
    return survey(model.to(device), images, plan, step=step, known=known)


if __name__ == "__main__":
    sys.exit(main())
