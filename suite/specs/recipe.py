"""Optimisation."""

import math
from typing import Literal

from pydantic import Field, model_validator

from suite.specs.base import Spec


class RecipeSpec(Spec):
    """Optimisation. The defaults are the paper's: SGD, lr 0.1 for 256, ÷ 10 at epochs 30, 60 and 90."""

    epochs: int = Field(100, ge=1)
    lr: float = Field(0.1, gt=0, description="for this global batch; nothing rescales it")
    schedule: Literal["step", "cosine", "constant"] = "step"
    milestones: tuple[float, ...] = Field(
        (30, 60, 90), description="epochs at which `step` multiplies the lr by gamma"
    )
    gamma: float = Field(0.1, gt=0, le=1)
    final_lr: float = Field(0.0, ge=0, description="where `cosine` ends")
    warmup_epochs: float = Field(0.0, ge=0, description="linear from 0 to lr")
    momentum: float = Field(0.9, ge=0, lt=1)
    nesterov: bool = False
    weight_decay: float = Field(1e-4, ge=0)
    norm_weight_decay: float | None = Field(
        None, ge=0, description="for norm parameters and biases; null: weight_decay, as the paper's code does"
    )
    label_smoothing: float = Field(0.0, ge=0, lt=1)
    mixup_alpha: float = Field(0.0, ge=0, description="0: no mixup")
    precision: Literal["fp32", "bf16"] = Field("fp32", description="bf16: autocast, weights stay fp32")
    channels_last: bool = False
    compile: bool = Field(False, description="torch.compile")

    @model_validator(mode="after")
    def _check(self) -> "RecipeSpec":
        if self.warmup_epochs >= self.epochs:
            raise ValueError(f"warmup_epochs ({self.warmup_epochs:g}) must be below epochs ({self.epochs})")
        if self.nesterov and self.momentum == 0:
            raise ValueError("nesterov needs a momentum above 0")
        if self.final_lr > self.lr:
            raise ValueError(f"final_lr ({self.final_lr:g}) exceeds lr ({self.lr:g})")
        if list(self.milestones) != sorted(set(self.milestones)):
            raise ValueError(f"milestones must rise: {list(self.milestones)}")
        return self

    def lr_at(self, epoch: float) -> float:
        """Learning rate at a (fractional) epoch: a pure function of progress, so resuming needs no state."""
        if epoch < self.warmup_epochs:
            return self.lr * epoch / self.warmup_epochs
        if self.schedule == "step":
            return self.lr * self.gamma ** sum(epoch >= m for m in self.milestones)
        if self.schedule == "cosine":
            progress = (epoch - self.warmup_epochs) / (self.epochs - self.warmup_epochs)
            return self.final_lr + (self.lr - self.final_lr) * (1 + math.cos(math.pi * progress)) / 2
        return self.lr
