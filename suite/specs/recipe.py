"""The optimisation, with the learning rate's schedules and the precisions by name."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from pydantic import Field, model_validator

from suite.specs.base import Spec
from suite.specs.choice import described, listed
from suite.specs.federated import FederatedSpec


@dataclass(frozen=True)
class Schedule:
    """A schedule; `lr` is the learning rate after the warm-up, from the recipe and how far training is.

    That is in the recipe's unit: (fractional) epochs, or iterations.
    """

    meaning: str
    lr: "Callable[[RecipeSpec, float], float]"


def _step(recipe: "RecipeSpec", at: float) -> float:
    return recipe.lr * recipe.gamma ** sum(at >= m for m in recipe.milestones)


def _cosine(recipe: "RecipeSpec", at: float) -> float:
    progress = (at - recipe.warmup) / (recipe.length - recipe.warmup)
    return recipe.final_lr + (recipe.lr - recipe.final_lr) * (1 + math.cos(math.pi * progress)) / 2


SCHEDULES = {
    "step": Schedule("multiplied by gamma at each of the milestones", _step),
    "cosine": Schedule("half a cosine from lr to final_lr", _cosine),
    "constant": Schedule("always lr", lambda recipe, at: recipe.lr),
}


@dataclass(frozen=True)
class Precision:
    """A precision. `autocast`: the torch dtype that forward passes are cast to; None: they are not.

    `convolutions`, `products`: what a GPU computes float32 convolutions and matrix products in, ieee or tf32.
    Float32 products stay IEEE's under autocast: those that remain, such as whitening's, need the digits.
    `is_scaled`: whether the loss is scaled, since small gradients would be 0.
    """

    meaning: str
    autocast: str | None
    convolutions: str = "ieee"
    products: str = "ieee"
    is_scaled: bool = False


_CAST = "(of a detector the backbone), weights stay float32"
PRECISIONS = {
    "fp32": Precision("float32", None),
    "tf32": Precision(
        "float32 whose products a GPU computes as TF32; torch's default is that for convolutions",
        None,
        "tf32",
        "tf32",
    ),
    "bf16": Precision(f"autocast to bfloat16 {_CAST}", "bfloat16", "tf32"),
    "fp16": Precision(f"autocast to float16 {_CAST}, the loss is scaled", "float16", "tf32", is_scaled=True),
}


@dataclass(frozen=True)
class OptimizerEntry:
    """An optimizer. `optimizer`: "module:class", a torch.optim.SGD.

    `adapts`: whether each layer's weight has a learning rate of its own. The group of these weights then has
    `trust_coefficient` and `layer_weight_decay`, and the field recipe.trust_coefficient has a meaning.
    """

    meaning: str
    optimizer: str
    adapts: bool = False


OPTIMIZERS = {
    "sgd": OptimizerEntry("stochastic gradient descent", "torch.optim:SGD"),
    "lars": OptimizerEntry(
        "SGD in which each layer's weight w has the rate lr · trust_coefficient · ‖w‖ / (‖gradient‖ + "
        "weight_decay · ‖w‖), for large batches; norms and biases keep lr",
        "suite.train.lars:Lars",
        adapts=True,
    ),
}
TRUST_COEFFICIENT = 0.001
"""Of You, Gitman and Ginsburg 2017."""
DEFAULT_EPOCHS = 100
_IN_ITERATIONS = ("warmup_iterations", "iterations")
if TYPE_CHECKING:
    ScheduleName = str
    PrecisionName = str
    OptimizerName = str
else:
    ScheduleName, PrecisionName = Literal[tuple(SCHEDULES)], Literal[tuple(PRECISIONS)]
    OptimizerName = Literal[tuple(OPTIMIZERS)]


class SwaSpec(Spec):
    """Stochastic weight averaging (Izmailov et al. 2018): the mean of the weights at the ends of epochs."""

    start: float = Field(0.75, ge=0, lt=1, description="share of the epochs before the averaged ones")
    lr: float | None = Field(
        None, gt=0, description="constant learning rate of the averaged epochs; null: the schedule's"
    )


class RecipeSpec(Spec):
    """The optimisation. The defaults are the paper's: SGD, lr 0.1 for 256, ÷ 10 at epochs 30, 60 and 90."""

    epochs: int = Field(DEFAULT_EPOCHS, ge=1, description="passes over the training images")
    iterations: int | None = Field(
        None,
        ge=1,
        description="optimizer steps, in place of epochs: milestones and the warm-up are then in iterations, "
        "and measure.every_iterations of them count as an epoch of the record; null: epochs decide",
    )
    optimizer: OptimizerName = Field("sgd", description=described(OPTIMIZERS))
    trust_coefficient: float | None = Field(
        None, gt=0, description=f"of lars; null: {TRUST_COEFFICIENT:g} there, none elsewhere"
    )
    lr: float = Field(0.1, gt=0, description="peak learning rate for the given batch; it is never rescaled")
    schedule: ScheduleName = Field("step", description=described(SCHEDULES))
    milestones: tuple[float, ...] = Field(
        (30, 60, 90), description="epochs, or iterations, at which `step` multiplies the lr by gamma"
    )
    gamma: float = Field(0.1, gt=0, le=1, description="factor of `step` at each milestone")
    final_lr: float = Field(0.0, ge=0, description="learning rate at which `cosine` ends")
    warmup_epochs: float = Field(0.0, ge=0, description="epochs in which the lr rises linearly from 0")
    warmup_iterations: int | None = Field(
        None, ge=0, description="the same with iterations, in their unit; null: none"
    )
    momentum: float = Field(0.9, ge=0, lt=1, description="of the gradients; 0: none")
    nesterov: bool = Field(False, description="Nesterov's momentum")
    weight_decay: float = Field(1e-4, ge=0, description="L2 penalty of the weights of layers")
    norm_weight_decay: float | None = Field(
        None, ge=0, description="for norm parameters and biases; null: weight_decay, as in the paper's code"
    )
    label_smoothing: float = Field(0.0, ge=0, lt=1, description="0: none")
    mixup_alpha: float = Field(0.0, ge=0, description="λ ~ Beta(α, α); 0: no mixup")
    precision: PrecisionName = Field("fp32", description=described(PRECISIONS))
    channels_last: bool = Field(False, description="lay out images and weights as NHWC")
    compile: bool = Field(False, description="train with torch.compile")
    clip_grad_norm: float | None = Field(
        None, gt=0, description="L2 norm to which a step's gradients are clipped; null: they are not"
    )
    ema_decay: float | None = Field(
        None,
        gt=0,
        lt=1,
        description="also keep an exponential moving average of weights and estimates, updated at each step: "
        "average ← decay · average + (1 − decay) · weights; null: none",
    )
    swa: SwaSpec | None = Field(
        None,
        description="also keep the mean of the weights at the ends of the last epochs; null: none",
    )
    federated: FederatedSpec | None = Field(
        None,
        description="clients train in turn, and their weights are averaged after each round; null: none",
    )

    @model_validator(mode="after")
    def _check(self) -> "RecipeSpec":
        self._check_unit()
        if OPTIMIZERS[self.optimizer].adapts:
            if self.trust_coefficient is None:
                object.__setattr__(self, "trust_coefficient", TRUST_COEFFICIENT)
        elif self.trust_coefficient is not None:
            adapting = listed((name for name, one in OPTIMIZERS.items() if one.adapts), "or")
            raise ValueError(f"trust_coefficient means nothing to {self.optimizer}: it is of {adapting}")
        if self.warmup >= self.length:
            name, unit = ("warmup_epochs", "epochs") if self.iterations is None else _IN_ITERATIONS
            raise ValueError(f"{name} ({self.warmup:g}) must be below {unit} ({self.length})")
        if self.nesterov and self.momentum == 0:
            raise ValueError("nesterov needs a momentum above 0")
        if self.final_lr > self.lr:
            raise ValueError(f"final_lr ({self.final_lr:g}) exceeds lr ({self.lr:g})")
        if list(self.milestones) != sorted(set(self.milestones)):
            raise ValueError(f"milestones must rise: {list(self.milestones)}")
        if self.federated is not None and (self.swa is not None or self.ema_decay is not None):
            raise ValueError("federated averages the clients' weights itself: leave ema_decay and swa out")
        if self.swa is not None and self.swa_start_epoch < self.warmup_epochs:
            begins = f"swa begins after {self.swa_start_epoch} of {self.epochs} epochs"
            raise ValueError(f"{begins}, within warmup_epochs ({self.warmup_epochs:g}): raise swa.start")
        return self

    def _check_unit(self) -> None:
        """Raise ValueError for fields in the unit that the recipe lacks."""
        if self.iterations is None:
            if self.warmup_iterations is not None:
                raise ValueError("warmup_iterations needs iterations; give warmup_epochs")
            return
        if self.epochs != DEFAULT_EPOCHS:
            raise ValueError("epochs and iterations both say how long training is: give one of them")
        if self.warmup_epochs:
            raise ValueError("warmup_epochs needs epochs; give warmup_iterations")
        if self.swa is not None or self.federated is not None:
            raise ValueError("swa and federated go by epochs: give epochs in place of iterations")
        if self.schedule == "step" and "milestones" not in self.model_fields_set:
            raise ValueError("milestones are missing: with iterations, they are iterations too")

    @property
    def length(self) -> int:
        """How long training is, in the recipe's unit: epochs, or iterations."""
        return self.epochs if self.iterations is None else self.iterations

    @property
    def warmup(self) -> float:
        """How long the warm-up is, in the recipe's unit."""
        return self.warmup_epochs if self.iterations is None else self.warmup_iterations or 0

    def position(self, step: int, steps_per_epoch: int) -> float:
        """Return how far training is after so many optimizer steps, in the recipe's unit."""
        return step / steps_per_epoch if self.iterations is None else step

    @property
    def swa_start_epoch(self) -> int:
        """How many epochs pass before the first one that SWA averages; all of them without SWA."""
        return self.length if self.swa is None else math.floor(self.swa.start * self.length + 1e-9)

    def lr_at(self, at: float) -> float:
        """Return the learning rate at a `position`. It depends on nothing else, as resuming needs."""
        if at < self.warmup:
            return self.lr * at / self.warmup
        if self.swa is not None and self.swa.lr is not None and at >= self.swa_start_epoch:
            return self.swa.lr
        return SCHEDULES[self.schedule].lr(self, at)
