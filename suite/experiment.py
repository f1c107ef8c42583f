"""Experiment and its parts: what is trained, on what, how, and the identity of each run.

An `Experiment` is science and names no machine. It expands into `Run`s, one for each cell of its
sweeps and each seed; `Run.run_id` is a hash of what decides the run's result. No torch here: this
module opens in milliseconds, so that `config` and refusals answer at once.
"""

import hashlib
import json
import math
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from suite.architectures import ARCHITECTURES, Family, default_num_groups

Position = Literal["p1", "p2", "p3"]
BatchFreeNorm = Literal["gn", "ln", "in", "gw"]
# Known sources and their class counts; any other name is an ImageFolder at `data.path`.
NUM_CLASSES = {"imagenet": 1000, "fashion-mnist": 10, "fashion-mnist-7k": 10, "synthetic": 1000}


class Spec(BaseModel):
    """Base of every part: frozen, and an unknown key is an error at every depth."""

    model_config = ConfigDict(extra="forbid", frozen=True, validate_default=True)

    @model_validator(mode="before")
    @classmethod
    def _no_bool_for_number(cls, data: Any) -> Any:
        # YAML's `yes` would otherwise become the number 1.
        for name, value in data.items() if isinstance(data, dict) else ():
            field = cls.model_fields.get(name)
            if isinstance(value, bool) and field is not None and "bool" not in str(field.annotation):
                raise ValueError(f"{name}: expected {_plain(field.annotation)}, got {str(value).lower()}")
        return data


def _plain(annotation: Any) -> str:
    return str(getattr(annotation, "__name__", annotation)).replace("NoneType", "null")


# ---------------------------------------------------------------- model


class BatchNormSpec(Spec):
    """Batch normalisation at every site: the baseline."""

    kind: Literal["bn"] = "bn"

    @property
    def label(self) -> str:
        return "BN"


class XbnSpec(Spec):
    """One batch-free norm (BFN) per block, the rest BN (Huang et al. 2022)."""

    kind: Literal["xbn"]
    position: Position = Field("p2", description="which norm of a block becomes the BFN")
    bfn: BatchFreeNorm = Field("gn", description="group, layer or instance norm, or group whitening")
    num_groups: int | None = Field(
        None,
        ge=1,
        description="groups of gn and gw, clipped to the channel count; null: as released for the arch",
    )
    stem: bool | None = Field(
        None, description="the stem's norm too; null: as released (ResNets yes, mobile networks no)"
    )
    downsample: bool = Field(False, description="the norms of the shortcut projections too")

    @property
    def label(self) -> str:
        groups = "" if self.num_groups is None else str(self.num_groups)
        extras = ("" if self.stem else "-nostem") + ("-ds" if self.downsample else "")
        return f"XBN-{self.position.upper()}-{self.bfn.upper()}{groups}{extras}"


class BatchFreeSpec(Spec):
    """One batch-free norm at every site, no BN left."""

    kind: BatchFreeNorm
    num_groups: int | None = Field(
        None, ge=1, description="groups of gn and gw; null: 32, or fewer where channels ask it"
    )

    @property
    def label(self) -> str:
        return self.kind.upper() + ("" if self.num_groups is None else str(self.num_groups))


NormSpec = Annotated[BatchNormSpec | XbnSpec | BatchFreeSpec, Field(discriminator="kind")]


class ModelSpec(Spec):
    """A network and the norms at its sites."""

    arch: str = Field(description="a torchvision name, or one of the small ones for 28-64 px")
    norm: NormSpec = Field(BatchNormSpec(), description="kind: bn | xbn | gn | ln | in | gw")
    num_classes: int | None = Field(None, ge=2, description="null: the data set's")
    bn_momentum: float = Field(0.1, gt=0, le=1, description="weight of the newest batch in the estimates")

    @field_validator("arch")
    @classmethod
    def _known_arch(cls, arch: str) -> str:
        if arch not in ARCHITECTURES:
            raise ValueError(f"unknown arch {arch!r}; valid: {', '.join(ARCHITECTURES)}")
        return arch

    @model_validator(mode="after")
    def _as_released(self) -> "ModelSpec":
        """Fill the defaults that hang on the architecture, so that the hash sees what is built."""
        norm = self.norm
        if isinstance(norm, BatchNormSpec):
            return self
        bfn = norm.bfn if isinstance(norm, XbnSpec) else norm.kind
        if bfn in ("ln", "in") and norm.num_groups is not None:
            raise ValueError(f"norm.num_groups has no meaning for {bfn}; remove it, or use gn or gw")
        update: dict[str, Any] = {}
        if norm.num_groups is None and bfn in ("gn", "gw"):
            update["num_groups"] = default_num_groups(self.arch, not isinstance(norm, XbnSpec))
        if isinstance(norm, XbnSpec) and norm.stem is None:
            update["stem"] = ARCHITECTURES[self.arch] in (Family.RESNET, Family.SMALL_RESNET)
        object.__setattr__(self, "norm", norm.model_copy(update=update))
        return self


# ---------------------------------------------------------------- data, batch, recipe


class DataSpec(Spec):
    """Which images, and how they are cropped."""

    name: str = Field(
        "fashion-mnist-7k", description="a known source, or any name with `path` and `num_classes`"
    )
    path: str | None = Field(None, description="ImageFolder with train/ and val/; never part of the run_id")
    num_classes: int | None = Field(None, ge=2, description="null: the known source's")
    image_size: int = Field(224, ge=8, description="side of the square that the network sees, pixels")
    train_images: int | None = Field(
        None, ge=1, description="train on this many images, chosen by the seed; null: all"
    )
    val_images: int | None = Field(None, ge=1, description="evaluate on the first this many; null: all")
    crop_area: tuple[float, float] = Field((0.08, 1.0), description="random crop's share of the image's area")
    crop_ratio: tuple[float, float] = Field((3 / 4, 4 / 3), description="random crop's width over height")
    flip: bool = Field(True, description="mirror half of the training images")
    eval_resize: int | None = Field(
        None, ge=8, description="shorter side before the centre crop; null: image_size × 256/224"
    )
    loader: Literal["dali", "torchvision"] = Field("dali", description="who reads, decodes and crops")

    @model_validator(mode="after")
    def _check(self) -> "DataSpec":
        known = NUM_CLASSES.get(self.name)
        if self.num_classes is None:
            if known is None:
                raise ValueError(
                    f"num_classes is missing for the data set {self.name!r}; "
                    f"known sources are {', '.join(NUM_CLASSES)}"
                )
            object.__setattr__(self, "num_classes", known)
        elif known not in (None, self.num_classes) and self.name != "synthetic":
            raise ValueError(f"num_classes is {self.num_classes}, but {self.name} has {known}")
        if self.path is None and (known is None or self.name == "imagenet"):
            raise ValueError(f"path is missing: the folder of {self.name!r} that holds train/ and val/")
        for name in ("crop_area", "crop_ratio"):
            low, high = getattr(self, name)
            if not 0 < low <= high or (name == "crop_area" and high > 1):
                raise ValueError(
                    f"{name} must be [low, high] with 0 < low ≤ high (area: ≤ 1), got [{low}, {high}]"
                )
        if self.eval_resize is None:
            object.__setattr__(self, "eval_resize", round(self.image_size * 256 / 224))
        elif self.eval_resize < self.image_size:
            raise ValueError(
                f"eval_resize ({self.eval_resize}) is smaller than image_size ({self.image_size})"
            )
        return self


class BatchSpec(Spec):
    """The three batch axes, in samples. They are never one: see docs/design.md."""

    global_batch_size: int = Field(256, ge=1, description="samples behind one optimizer step")
    batch_size_per_gpu: int | None = Field(
        None, ge=1, description="samples in one forward pass of one rank; null: global_batch_size"
    )
    norm_batch_size: int | None = Field(
        None, ge=2, description="samples behind one BN statistic; null: batch_size_per_gpu"
    )

    @model_validator(mode="after")
    def _arithmetic(self) -> "BatchSpec":
        total = self.global_batch_size
        if self.batch_size_per_gpu is None:
            object.__setattr__(self, "batch_size_per_gpu", total)
        per_gpu = self.per_gpu
        if total % per_gpu:
            near = max(d for d in range(1, min(per_gpu, total) + 1) if total % d == 0)
            raise ValueError(
                f"global_batch_size {total} is not a multiple of batch_size_per_gpu {per_gpu}: "
                f"{total} = {total // per_gpu} × {per_gpu} + {total % per_gpu}; {near} would divide it"
            )
        if self.norm_batch_size is None:
            if per_gpu < 2:
                raise ValueError("batch_size_per_gpu is 1, so norm_batch_size must be given (2 or more)")
            object.__setattr__(self, "norm_batch_size", per_gpu)
        norm = self.norm
        if norm > total:
            raise ValueError(f"norm_batch_size {norm} exceeds global_batch_size {total}")
        if norm < per_gpu and per_gpu % norm:
            raise ValueError(
                f"norm_batch_size {norm} must divide batch_size_per_gpu {per_gpu} (ghost groups), "
                f"but {per_gpu} = {per_gpu // norm} × {norm} + {per_gpu % norm}"
            )
        if norm > per_gpu and norm % per_gpu:
            raise ValueError(
                f"norm_batch_size {norm} must be a multiple of batch_size_per_gpu {per_gpu} (SyncBN), "
                f"but {norm} = {norm // per_gpu} × {per_gpu} + {norm % per_gpu}"
            )
        return self

    @property
    def per_gpu(self) -> int:
        assert self.batch_size_per_gpu is not None
        return self.batch_size_per_gpu

    @property
    def norm(self) -> int:
        assert self.norm_batch_size is not None
        return self.norm_batch_size

    def accumulation_steps(self, world_size: int) -> int:
        """Forward passes of a rank behind one optimizer step. Raises ValueError with the arithmetic."""
        ranks_per_statistic = max(1, self.norm // self.per_gpu)
        if self.global_batch_size % (self.per_gpu * world_size):
            raise ValueError(
                f"{world_size} ranks × batch_size_per_gpu {self.per_gpu} = "
                f"{world_size * self.per_gpu} samples a pass, "
                f"which does not divide global_batch_size {self.global_batch_size}"
            )
        if world_size % ranks_per_statistic:
            raise ValueError(
                f"norm_batch_size {self.norm} = {ranks_per_statistic} ranks × batch_size_per_gpu "
                f"{self.per_gpu}, but the run has {world_size} rank{'s'[: world_size != 1]}: "
                f"not a multiple of {ranks_per_statistic}"
            )
        return self.global_batch_size // (self.per_gpu * world_size)


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


# ---------------------------------------------------------------- what does not decide the result


class MeasureSpec(Spec):
    """What is measured beside accuracy. Not part of the run_id."""

    eval_every_epochs: int = Field(1, ge=1, description="the last epoch is always evaluated")
    probe_every_epochs: int | None = Field(None, ge=1, description="null: only at the end")
    precise_bn_images: int = Field(
        2048, ge=0, description="training images behind the PreciseBN statistics; 0: skip"
    )
    warmup_steps: int = Field(
        10, ge=0, description="steps at the start of a process that the meter leaves out"
    )


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


class Run(Spec):
    """One cell of an experiment, fully resolved: what a process trains."""

    experiment: str = Field(description="name of the experiment it came from; not part of the run_id")
    model: ModelSpec
    data: DataSpec
    batch: BatchSpec
    recipe: RecipeSpec
    measure: MeasureSpec = MeasureSpec()
    system: SystemSpec = SystemSpec()
    seed: int = Field(0, ge=0, lt=2**32)

    @model_validator(mode="after")
    def _classes(self) -> "Run":
        classes = self.data.num_classes
        if self.model.num_classes is None:
            object.__setattr__(self, "model", self.model.model_copy(update={"num_classes": classes}))
        elif self.model.num_classes != classes:
            raise ValueError(f"model.num_classes is {self.model.num_classes}, but data has {classes} classes")
        return self

    @property
    def run_id(self) -> str:
        """Twelve hex digits over model, data (less its path), batch, recipe and seed."""
        decides = self.model_dump(mode="json", include={"model", "data", "batch", "recipe", "seed"})
        del decides["data"]["path"]
        text = json.dumps(decides, sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(text.encode()).hexdigest()[:12]

    @property
    def label(self) -> str:
        """For people: `resnet50 XBN-P2-GN64 nb32 seed 0`."""
        return f"{self.model.arch} {self.model.norm.label} nb{self.batch.norm} seed {self.seed}"

    @property
    def folder_name(self) -> str:
        return f"{self.label.lower().replace('seed ', 's').replace(' ', '-')}-{self.run_id}"


class Experiment(Spec):
    """A named list of runs. `suite.config` makes it from YAML."""

    name: str
    runs: tuple[Run, ...]
