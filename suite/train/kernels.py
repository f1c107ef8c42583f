"""Which code computes a run's norms: torch's, or the fused kernels where the run asks for them."""

import logging
from dataclasses import dataclass

import torch
from torch import nn

from suite.architectures import ARCHITECTURES
from suite.errors import UserError
from suite.experiment import Run
from suite.kernels import FusedNorms, forget_what_was_said, fuse_norms, kernels_missing
from suite.specs.process import KERNELS

UNTRIED = "the fused kernels have not been tried on AMD's GPUs"
log = logging.getLogger("shiftbench")


@dataclass(frozen=True)
class NormKernels:
    """What computes a run's norms, "native" or "fused"; and why, where it is not what was asked."""

    ran: str
    why: str = ""

    def put_into(self, model: nn.Module, run: Run) -> FusedNorms:
        """Fuse the norms of a network of `run` that is otherwise prepared, in place, if this says so.

        Raises UserError where the run insists on fused norms, and no norm has a fused form.
        """
        if self.ran != "fused":
            return FusedNorms()
        forget_what_was_said()
        done = fuse_norms(model)
        log.info("fused norms: %s", done)
        if not done.norms and not KERNELS[run.system.kernels].may_decline:
            raise UserError(f"{_refusal(run)}: no norm of this network has a fused form ({done})")
        return done


def norm_kernels(run: Run, device: torch.device) -> NormKernels:
    """Return what computes the norms of a run on this device.

    Raises UserError where `system.kernels` is fused and cannot be.
    """
    choice = KERNELS[run.system.kernels]
    if not choice.fuses:
        return NormKernels("native")
    obstacle = _obstacle(run, device)
    if obstacle is None and device.type == "cpu":
        if choice.may_decline:
            obstacle = "on a CPU the fused kernels are no faster than torch's norms"
        else:
            return NormKernels("fused", "by torch's operations, which rehearse the kernels on a CPU")
    is_amd = device.type == "cuda" and torch.version.hip is not None
    if obstacle is None and is_amd and choice.may_decline:
        obstacle = UNTRIED
    if obstacle is None:
        return NormKernels("fused", UNTRIED if is_amd else "")
    if choice.may_decline:
        return NormKernels("native", obstacle)
    raise UserError(f"{_refusal(run)}: {obstacle}")


def _refusal(run: Run) -> str:
    return f"system.kernels: {run.system.kernels} is not possible here, but auto or native is"


def _obstacle(run: Run, device: torch.device) -> str | None:
    """Return why the fused kernels cannot compute a run's norms at all, or None."""
    if run.recipe.compile:
        return "recipe.compile is true, and compiled code fuses norms itself"
    if not run.recipe.channels_last and not ARCHITECTURES[run.model.arch].family.takes_vectors:
        return "recipe.channels_last is false, and they take no other layout"
    if device.type != "cpu":
        return kernels_missing() or None
    return None
