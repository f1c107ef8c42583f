"""Measures trained networks under noise on BN's estimates, and writes each result to its run's folder.

`python -m jobs.trained.noise FOLDER PLAN` measures one run; `measure_missing` starts it.
"""

import json
import sys
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from jobs import exit_codes
from jobs.checks import read_run
from jobs.local.process import StartProcess
from jobs.local.process_end import exit_with
from jobs.trained.processes import last_step, measured_in_processes
from suite.errors import UserError
from suite.experiment import NormSpec, Run
from suite.paths import RunPaths
from suite.record import Noise, NoiseRecord, Scope, read_noise, write_noise
from suite.specs.norm import norm_spec

_IMAGES_PER_BATCH = 32  # on a CPU three times as fast as 250, whose activations leave the caches


@dataclass(frozen=True)
class NoisePlan:
    """The magnitudes (0 among them), the draws and the test images of each run, and the norms compared.

    Each seed has test images of its own, so that the spread over seeds includes that of the images. Noise on
    the common layers is on those that all of `norms` leave as BN.
    """

    deltas: tuple[float, ...]
    draws: int
    num_images: int
    norms: tuple[NormSpec, ...]

    @property
    def labels(self) -> tuple[str, ...]:
        """The norms' labels."""
        return tuple(norm.label for norm in self.norms)

    def dump(self) -> str:
        """Return the plan for the command line of the process that measures."""
        norms = [norm.model_dump(mode="json") for norm in self.norms]
        return json.dumps([self.deltas, self.draws, self.num_images, norms])

    @classmethod
    def parse(cls, text: str) -> "NoisePlan":
        """Return the plan that `dump` gave."""
        deltas, draws, num_images, norms = json.loads(text)
        return cls(tuple(deltas), draws, num_images, tuple(map(norm_spec, norms)))


def measure_missing(
    runs: Sequence[Run], plan: NoisePlan, output_dir: Path, jobs: int, start_process: StartProcess
) -> Iterator[tuple[Run, str | None]]:
    """Measure those completed `runs` that were not measured, `jobs` at a time. Yields each run and its error.

    A measurement of another checkpoint, or by another plan, is repeated.
    """

    def is_measured(run: Run, paths: RunPaths) -> bool:
        return _is_measured(paths, last_step(paths), run.seed, plan)

    def plan_of(run: Run) -> str:
        return plan.dump()

    module = "jobs.trained.noise"
    yield from measured_in_processes(runs, output_dir, is_measured, module, plan_of, jobs, start_process)


def main() -> int:
    """Measure one run. Returns the exit code; the last line of the output is the error."""
    folder, plan = Path(sys.argv[1]), NoisePlan.parse(sys.argv[2])
    paths = RunPaths(folder)
    try:
        noise = measure(read_run(folder), paths, last_step(paths), plan)
        write_noise(paths, noise)
    except (UserError, OSError) as error:
        print(f"{paths.noise}: cannot be written: {error.strerror}" if isinstance(error, OSError) else error)
        return exit_codes.BAD_USAGE
    return exit_codes.DONE


def _is_measured(paths: RunPaths, step: int, seed: int, plan: NoisePlan) -> bool:
    kept = None
    with suppress(UserError):
        kept = read_noise(paths)
    if kept is None:
        return False
    expected = (step, seed, plan.num_images, plan.labels, plan.deltas, {plan.draws})
    return all(
        (one.step, one.seed, one.num_images, one.norms, one.deltas, set(map(len, one.top1_percent)))
        == expected
        for one in kept.values()
    )


def measure(run: Run, paths: RunPaths, step: int, plan: NoisePlan) -> Noise:
    """Return the accuracy under noise of the network after `step` steps, on test images chosen by the seed.

    Raises UserError for a checkpoint that cannot be read, and for missing data.
    """
    import torch

    from suite.data import folder_loader
    from suite.models import build_model, load_weights
    from suite.shift import perturb
    from suite.shift.layers import batch_norm_layers
    from suite.train.arithmetic import measuring

    has_gpu = run.system.device != "cpu" and torch.cuda.is_available()
    device = torch.device("cuda" if has_gpu else "cpu")
    model = build_model(run.model)
    load_weights(model, paths.checkpoint(step))
    names = list(batch_norm_layers(model))
    others = [build_model(run.model.model_copy(update={"norm": norm})) for norm in plan.norms]
    shared = set(names).intersection(*map(batch_norm_layers, others))
    loader = folder_loader(
        run.data, "val", images_per_batch=_IMAGES_PER_BATCH, device=device, shuffle_seed=run.seed
    )
    try:
        images = list(islice(loader, plan.num_images // _IMAGES_PER_BATCH))
    finally:
        loader.close()
    model = model.to(device)
    found: dict[Scope, NoiseRecord] = {}
    scopes: dict[Scope, list[str]] = {"all": names, "common": [name for name in names if name in shared]}
    for scope, layers in scopes.items():
        if found and layers == names:
            found[scope] = found["all"]
            continue
        # Seeded by the run: draws that all runs shared would be missing from the differences between seeds.
        with measuring(run):
            result = perturb(model, images, plan.deltas, draws=plan.draws, seed=run.seed, layers=layers)
        of_layers = (plan.labels, tuple(layers), result.deltas, result.top1_percent)
        found[scope] = NoiseRecord(step, run.seed, result.num_images, *of_layers)
    return found


if __name__ == "__main__":
    exit_with(main)
