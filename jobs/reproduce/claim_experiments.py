"""Which experiment stands behind which claim, on which images, and how it is made quick."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from suite.config import load_experiment
from suite.data.idx import DEBIAN_FOLDER
from suite.data.sources import default_root
from suite.errors import UserError
from suite.experiment import Experiment, Run

FOLDER = Path(__file__).resolve().parent.parent.parent / "configs" / "experiments" / "paper"
CARRIED = "fashion-mnist-7k"
# What the carried set has for training.
_CARRIED_TRAIN_IMAGES = 6000


@dataclass(frozen=True)
class ClaimPlan:
    """The experiment of a claim. `quick`: overrides that make it small. `is_mlp`: it takes a whole data set.

    `cost` and `quick_cost`: minutes on two cores, from the times of its runs, rounded up; claims share runs.
    """

    config: str
    cost: int
    quick_cost: int
    quick: tuple[str, ...]
    is_mlp: bool = False


_QUICK_MLP = ("seeds=[10]", "data.val_images=1000")
# The same for all three, which share runs.
_QUICK_RESNET = ("seeds=[20]", "data.train_images=256", "data.val_images=300")
PLANS: Mapping[str, ClaimPlan] = {
    "A": ClaimPlan(
        "mlp-full-batch.yaml",
        4,
        1,
        (*_QUICK_MLP, "data.train_images=4000", "recipe.epochs=60"),
        is_mlp=True,
    ),
    "B": ClaimPlan("mlp-train-size.yaml", 3, 1, (*_QUICK_MLP, "data.train_images=[32, 256]"), is_mlp=True),
    "C": ClaimPlan("mlp-gnbn.yaml", 7, 1, (*_QUICK_MLP, "data.train_images=[32, 256]"), is_mlp=True),
    "D": ClaimPlan("noise.yaml", 5, 1, _QUICK_RESNET),
    "E": ClaimPlan("norm-batch.yaml", 4, 1, _QUICK_RESNET),
    "F": ClaimPlan("positions.yaml", 10, 3, _QUICK_RESNET),
}


def chosen(letters: Sequence[str]) -> list[str]:
    """The claims of these letters, each once and in order; none given means all. Raises UserError."""
    wanted = {letter.upper() for letter in letters} or set(PLANS)
    if unknown := [letter for letter in letters if letter.upper() not in PLANS]:
        raise UserError(f"{unknown[0]!r} is no claim; the claims are {', '.join(PLANS)}")
    return [letter for letter in PLANS if letter in wanted]


def experiments(letters: Sequence[str], quick: bool) -> dict[str, Experiment]:
    """The experiment of each claim, on the images that are here. Raises UserError."""
    data = dataset()
    return {letter: _experiment(PLANS[letter], data, quick) for letter in letters}


def runs_of(found: Mapping[str, Experiment]) -> list[Run]:
    """All runs, each once: claims may share some."""
    runs = {run.run_id: run for experiment in found.values() for run in experiment.runs}
    return list(runs.values())


def dataset() -> str:
    """MNIST where its files lie in the data folder, else Fashion-MNIST: all of it, or the part we carry.

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
            overrides.append(f"data.train_images={_CARRIED_TRAIN_IMAGES}")
    return load_experiment(FOLDER / plan.config, overrides)
