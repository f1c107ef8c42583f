"""What does not decide a run's result: what is measured, and how a process uses its machine."""

from typing import Literal

from pydantic import Field

from suite.specs.base import Spec


class MeasureSpec(Spec):
    """What is measured beside accuracy. Not part of the run_id."""

    eval_every_epochs: int = Field(1, ge=1, description="the last epoch is always evaluated")
    eval_train: bool = Field(
        False, description="evaluate the training images too, in inference mode (top1_inference_percent)"
    )
    probe_every_epochs: int | None = Field(None, ge=1, description="null: only at the end")
    precise_bn_images: int = Field(
        2048, ge=0, description="training images behind the PreciseBN statistics; 0: skip"
    )
    tid: bool = Field(
        True, description="the discrepancy between training and inference at every step, as epoch means"
    )
    tid_every_steps: int | None = Field(
        None, ge=1, description="besides, means over so many steps in tid.jsonl (1: each step); null: none"
    )
    warmup_steps: int = Field(
        10, ge=0, description="steps at the start of a process that the meter leaves out"
    )

    def is_evaluated(self, epoch: int, epochs: int) -> bool:
        """Return whether a run of `epochs` epochs is evaluated at the end of `epoch` (counted from 1)."""
        return epoch == epochs or epoch % self.eval_every_epochs == 0

    def is_probed(self, epoch: int, epochs: int) -> bool:
        """Return whether a run of `epochs` epochs is probed at the end of `epoch` (counted from 1)."""
        every = self.probe_every_epochs
        return epoch == epochs or (every is not None and epoch % every == 0)


class SystemSpec(Spec):
    """How a process uses its machine. Not part of the run_id."""

    device: Literal["auto", "cpu", "cuda"] = "auto"
    data_threads: int = Field(
        2, ge=1, description="decoder threads (dali) or worker processes (torchvision) per rank"
    )
    torch_threads: int | None = Field(
        None, ge=1, description="CPU threads of torch per rank; null: torch's own choice"
    )
    checkpoint_every_epochs: int = Field(1, ge=1)
    checkpoint_every_steps: int | None = Field(
        None, ge=1, description="besides the epochs' ends; null: never"
    )
    collective_timeout_s: float = Field(
        600.0, gt=0, description="a rank waiting this long for the others fails"
    )
