"""What a run measures and how its processes use the machine. Neither affects the result."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from pydantic import Field

from suite.specs.base import Spec
from suite.specs.choice import described, listed
from suite.specs.dali import DaliSpec
from suite.specs.loader_table import LOADERS


@dataclass(frozen=True)
class KernelChoice:
    """Which code computes norms. `fuses`: the kernels of `suite.kernels`; `may_decline`: where they can."""

    meaning: str
    fuses: bool
    may_decline: bool = False


KERNELS = {
    "native": KernelChoice("torch's own norms", fuses=False),
    "fused": KernelChoice(
        "norm, residual addition and ReLU in one; needs recipe.channels_last; on a CPU only a rehearsal",
        fuses=True,
    ),
    "auto": KernelChoice(
        "fused on NVIDIA's GPUs where that is possible, else native", fuses=True, may_decline=True
    ),
}


@dataclass(frozen=True)
class LoggerEntry:
    """A tool that gets a copy of a run's measurements.

    `logger`: "module:class" that satisfies `suite.train.loggers.RunLogger`, and is called like it.
    `package`: what it imports. `install`: what to do if that is missing.
    """

    meaning: str
    logger: str
    package: str
    install: str = "pip install 'shiftbench[loggers]'"


LOGGERS = {
    "tensorboard": LoggerEntry(
        "event files in each run's folder", "suite.train.tool_loggers:TensorBoardLogger", "tensorboard"
    ),
    "wandb": LoggerEntry(
        "Weights & Biases, offline unless WANDB_MODE says otherwise",
        "suite.train.tool_loggers:WandbLogger",
        "wandb",
    ),
    "mlflow": LoggerEntry(
        "MLflow, at MLFLOW_TRACKING_URI or in mlruns beside the runs",
        "suite.train.tool_loggers:MlflowLogger",
        "mlflow",
    ),
}
if TYPE_CHECKING:
    KernelsName = str
    LoggerName = str
else:
    KernelsName = Literal[tuple(KERNELS)]
    LoggerName = Literal[tuple(LOGGERS)]

_THREADS = listed((f"{entry.threads} ({name})" for name, entry in LOADERS.items() if entry.threads), "or")


class MeasureSpec(Spec):
    """What is measured besides accuracy. Not part of the run_id."""

    eval_every_epochs: int = Field(1, ge=1, description="the last epoch is always evaluated")
    every_iterations: int | None = Field(
        None,
        ge=1,
        description="with recipe.iterations: so many count as an epoch of the record; null: all of them",
    )
    eval_train: bool = Field(
        False,
        description="evaluate the training images too, also with bias-corrected estimates, and probe on them",
    )
    probe_every_epochs: int | None = Field(None, ge=1, description="null: only at the end")
    precise_bn_images: int = Field(
        2048, ge=0, description="training images behind the PreciseBN statistics; 0: skip"
    )
    tid: bool = Field(True, description="record the training-inference discrepancy, as epoch means")
    tid_every_steps: int | None = Field(
        None, ge=1, description="also write means over this many steps to tid.jsonl; null: do not"
    )
    warmup_steps: int = Field(10, ge=0, description="first steps of a process that speeds leave out")

    def is_evaluated(self, epoch: int, epochs: int) -> bool:
        """Return whether a run of `epochs` epochs is evaluated at the end of `epoch` (counted from 1)."""
        return epoch == epochs or epoch % self.eval_every_epochs == 0

    def is_probed(self, epoch: int, epochs: int) -> bool:
        """Return whether a run of `epochs` epochs is probed at the end of `epoch` (counted from 1)."""
        every = self.probe_every_epochs
        return epoch == epochs or (every is not None and epoch % every == 0)


class SystemSpec(Spec):
    """How a process uses its machine. Not part of the run_id."""

    device: Literal["auto", "cpu", "cuda"] = Field("auto", description="auto: a GPU if torch sees one")
    data_threads: int = Field(2, ge=1, description=f"per rank: {_THREADS}")
    dali: DaliSpec = Field(DaliSpec(), description="how the loader dali decodes; see system.dali")
    kernels: KernelsName = Field("native", description=described(KERNELS))
    loggers: tuple[LoggerName, ...] = Field(
        (), description=f"copies of the measurements for other tools: {described(LOGGERS)}"
    )
    torch_threads: int | None = Field(
        None, ge=1, description="CPU threads of torch per rank; null: torch's own choice"
    )
    cudnn_benchmark: bool | None = Field(
        None,
        description="let cuDNN measure its algorithms for each new shape, which lengthens the first steps; "
        "null: where all images have one size",
    )
    cuda_graphs: bool = Field(
        False,
        description="record a step on a GPU as a CUDA graph and replay it, which spares launches of small "
        "batches; refused with accumulation, recipe.compile, federated clients and norms over ranks",
    )
    ddp_bucket_mb: int | None = Field(
        None,
        ge=1,
        description="MiB of gradients that ranks exchange at once; null: torch's 25, after a first one of 1",
    )
    checkpoint_every_epochs: int = Field(1, ge=1, description="the last epoch always writes one")
    checkpoint_every_steps: int | None = Field(
        None, ge=1, description="also within an epoch; null: only at its end"
    )
    collective_timeout_s: float = Field(
        600.0, gt=0, description="a rank that waits this long for the others, or for its data, fails"
    )
