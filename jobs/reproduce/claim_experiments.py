"""Which experiment tests which claim, on which images, and how `--quick` makes it small."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from suite.config import load_experiment
from suite.data.idx import DEBIAN_FOLDER
from suite.data.sources import default_root
from suite.errors import UserError
from suite.experiment import Experiment, Run

FOLDER = Path(__file__).resolve().parent.parent.parent / "configs" / "experiments" / "paper"
CARRIED = "fashion-mnist-7k"  # has 6000 training images


@dataclass(frozen=True)
class ClaimPlan:
    """The experiment of a claim. `quick`: overrides that make it small. `is_mlp`: it trains on all images.

    `cost` and `quick_cost`: minutes on two cores, measured and rounded up. Some claims share runs.
    """

    config: str
    cost: int
    quick_cost: int
    quick: tuple[str, ...]
    is_mlp: bool = False


# Claims with the same overrides share runs.
_QUICK_FULL_BATCH = ("seeds=[10]", "data.val_images=1000", "data.train_images=4000", "recipe.epochs=60")
_QUICK_MLP = ("seeds=[10]", "data.val_images=1000", "data.train_images=[32, 256]")
_QUICK_RESNET = ("seeds=[20]", "data.train_images=256", "data.val_images=300")
PLANS: Mapping[str, ClaimPlan] = {
    "A": ClaimPlan("mlp-full-batch.yaml", 4, 1, _QUICK_FULL_BATCH, is_mlp=True),
    "B": ClaimPlan("mlp-train-size.yaml", 3, 1, _QUICK_MLP, is_mlp=True),
    "C": ClaimPlan("mlp-gnbn.yaml", 7, 1, _QUICK_MLP, is_mlp=True),
    "D": ClaimPlan("noise.yaml", 5, 1, _QUICK_RESNET),
    "E": ClaimPlan("norm-batch.yaml", 4, 1, _QUICK_RESNET),
    "F": ClaimPlan("positions.yaml", 10, 3, _QUICK_RESNET),
}


def chosen(letters: Sequence[str]) -> list[str]:
    """Return these claims, each once and in order; without letters all of them. Raises UserError."""
    wanted = {letter.upper() for letter in letters} or set(PLANS)
    if unknown := [letter for letter in letters if letter.upper() not in PLANS]:
        raise UserError(f"{unknown[0]!r} is no claim; the claims are {', '.join(PLANS)}")
    return [letter for letter in PLANS if letter in wanted]


def experiments(letters: Sequence[str], quick: bool) -> dict[str, Experiment]:
    """Return the experiment of each claim, on the images of this machine. Raises UserError."""
    data = dataset()
    return {letter: _experiment(PLANS[letter], data, quick) for letter in letters}


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


def _experiment(plan: ClaimPlan, data: str, quick: bool) -> Experiment:
    overrides = list(plan.quick) if quick else []
    if data == "mnist":
        overrides.append("data.name=mnist")
    elif data == CARRIED and plan.is_mlp:
        overrides.append(f"data.name={CARRIED}")
        if plan.config == PLANS["A"].config and not quick:
            overrides.append("data.train_images=6000")
    return load_experiment(FOLDER / plan.config, overrides)
