"""Which experiment tests which claim, on which images, and how `--quick` makes it small."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from suite.config import load_experiment
from suite.data.idx import DEBIAN_FOLDER
from suite.data.sources import default_root
from suite.errors import UserError
from suite.experiment import Experiment, Run
from suite.shipped import PAPER

FOLDER = PAPER
CARRIED = "fashion-mnist-7k"  # has 6000 training images


@dataclass(frozen=True)
class ClaimPlan:
    """The cost of a claim, and what makes its experiment small.

    `cost` and `quick_cost`: minutes on two cores, measured at the first look and rounded up; some claims
    share runs. `quick`: overrides of the preview. `data`: the source that it needs; empty: any digits or
    garments that this machine has.
    """

    cost: int
    quick_cost: int
    quick: tuple[str, ...]
    data: str = ""


# Claims with the same overrides share runs.
_QUICK_FULL_BATCH = ("data.train_images=2000", "data.val_images=1000", "recipe.epochs=12")
_QUICK_MLP = ("data.train_images=[32, 256]", "data.val_images=1000")
_QUICK_DETECTOR = ("recipe.iterations=60", "measure.every_iterations=60", "data.val_images=40")
_QUICK_RESNET = ("data.train_images=480", "data.val_images=500")
# The seed of previews: no claim's, since a preview is looked at.
QUICK_SEED = 0
PLANS: Mapping[str, ClaimPlan] = {
    "A": ClaimPlan(3, 1, _QUICK_FULL_BATCH),
    "B": ClaimPlan(2, 1, _QUICK_MLP),
    "C": ClaimPlan(4, 1, _QUICK_MLP),
    "D": ClaimPlan(6, 1, _QUICK_RESNET),
    "E": ClaimPlan(3, 1, _QUICK_RESNET),
    "F": ClaimPlan(8, 1, _QUICK_RESNET),
    "G": ClaimPlan(4, 1, _QUICK_RESNET),
    "H": ClaimPlan(4, 1, _QUICK_RESNET),
    "I": ClaimPlan(9, 1, _QUICK_DETECTOR, data="fashion-scenes"),
}


def chosen(letters: Sequence[str]) -> list[str]:
    """Return these claims, each once and in order; without letters all of them. Raises UserError."""
    wanted = {letter.upper() for letter in letters} or set(PLANS)
    if unknown := [letter for letter in letters if letter.upper() not in PLANS]:
        raise UserError(f"{unknown[0]!r} is no claim; the claims are {', '.join(PLANS)}")
    return [letter for letter in PLANS if letter in wanted]


def experiment_of(letter: str, config: str, seeds: Sequence[int], quick: bool) -> Experiment:
    """Return the experiment of a claim with these seeds, on the images of this machine. Raises UserError."""
    plan = PLANS[letter]
    data = plan.data or dataset()
    overrides = [f"seeds={list(seeds)}", f"data.name={data}", *(plan.quick if quick else ())]
    if data == CARRIED:
        overrides += _limits(config, overrides)
    return load_experiment(FOLDER / config, overrides)


def runs_of(found: Mapping[str, Experiment]) -> list[Run]:
    """Return all runs, each once: claims may share some."""
    return list({run.run_id: run for one in found.values() for run in one.runs}.values())


def dataset() -> str:
    """Return MNIST if its files are in the data folder, else Fashion-MNIST: all of it, or our part of it.

    Downloads nothing.
    """
    if (default_root() / "mnist").is_dir():
        return "mnist"
    if DEBIAN_FOLDER.is_dir() or (default_root() / "fashion-mnist-idx").is_dir():
        return "fashion-mnist"
    return CARRIED


def _limits(config: str, overrides: Sequence[str]) -> list[str]:
    """Overrides that leave no more images than are carried."""
    data = [run.data for run in load_experiment(FOLDER / config, overrides).runs]
    found = []
    for name, most in (("train_images", 6000), ("val_images", 1000)):
        counts = {getattr(one, name) for one in data}
        if any(count is None or count > most for count in counts):
            found.append(f"data.{name}={most}")
    return found
