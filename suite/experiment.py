"""Experiment and Run: what is trained, on what, how, and the identity of each run.

An `Experiment` is science and names no machine. It expands into `Run`s, one for each cell of its
sweeps and each seed; `Run.run_id` is a hash of what decides the run's result. No torch here or in
`suite.specs`: they are imported in milliseconds, so that `config` and refusals answer at once.
"""

import hashlib
import json
from collections.abc import Sequence
from typing import Any

from pydantic import Field, model_validator

from suite.architectures import ARCHITECTURES
from suite.errors import UserError
from suite.specs.base import Spec
from suite.specs.batch import DEFAULT_ESTIMATES, BatchSpec
from suite.specs.choice import listed
from suite.specs.data import WHERE, DataSpec
from suite.specs.federated import FederatedSpec
from suite.specs.loader_table import LOADERS
from suite.specs.model import ModelSpec
from suite.specs.norm import BatchFreeSpec, BatchNormSpec, NormSpec, VariantSpec, XbnSpec
from suite.specs.norm_table import BATCH_NORM_VARIANTS
from suite.specs.process import MeasureSpec, SystemSpec
from suite.specs.recipe import RecipeSpec
from suite.specs.source_table import NUM_CLASSES, SOURCES
from suite.specs.task import ClassificationSpec, DetectionSpec, TaskSpec

__all__ = [
    "NUM_CLASSES",
    "BatchFreeSpec",
    "BatchNormSpec",
    "BatchSpec",
    "ClassificationSpec",
    "DataSpec",
    "DetectionSpec",
    "Experiment",
    "MeasureSpec",
    "ModelSpec",
    "NormSpec",
    "RecipeSpec",
    "Run",
    "SystemSpec",
    "TaskSpec",
    "VariantSpec",
    "XbnSpec",
    "check_batches",
]


# Fields that older runs lack: where they have this value, those keep their ids.
ADDED_LATER: dict[str, dict[str, Any]] = {
    "recipe": {
        **dict.fromkeys(
            ("ema_decay", "swa", "federated", "iterations", "warmup_iterations", "clip_grad_norm")
        ),
        "optimizer": "sgd",
        "trust_coefficient": None,
    },
    "batch": {"estimates": DEFAULT_ESTIMATES},
    "data": {"interpolation": "bilinear"},
}


class Run(Spec):
    """One cell of an experiment, fully resolved: what a process trains."""

    experiment: str = Field(description="name of the experiment it came from; not part of the run_id")
    task: TaskSpec = ClassificationSpec()
    model: ModelSpec
    data: DataSpec
    batch: BatchSpec
    recipe: RecipeSpec
    measure: MeasureSpec = MeasureSpec()
    system: SystemSpec = SystemSpec()
    seed: int = Field(0, ge=0, lt=2**32)

    @model_validator(mode="before")
    @classmethod
    def _full_batch(cls, values: Any) -> Any:
        """Replace `global_batch_size: all` by the number, so that the hash covers the number."""
        batch = values.get("batch") if isinstance(values, dict) else None
        if not isinstance(batch, dict) or batch.get("global_batch_size") != "all":
            return values
        data = values.get("data")
        images = data.get("train_images") if isinstance(data, dict) else None
        if images is None:
            raise ValueError("batch.global_batch_size: all takes data.train_images in one step; give it")
        return {**values, "batch": {**batch, "global_batch_size": images}}

    @model_validator(mode="after")
    def _classes(self) -> "Run":
        classes = self.data.num_classes
        if self.model.num_classes is None:
            object.__setattr__(self, "model", self.model.model_copy(update={"num_classes": classes}))
        elif self.model.num_classes != classes:
            raise ValueError(f"model.num_classes is {self.model.num_classes}, but data has {classes} classes")
        return self

    @model_validator(mode="after")
    def _of_this_task(self) -> "Run":
        """Fill the defaults of detection that depend on the network. Raises ValueError for unused fields."""
        if isinstance(self.task, DetectionSpec) and not LOADERS[self.data.loader].boxes:
            possible = listed((name for name, one in LOADERS.items() if one.boxes), "or")
            raise ValueError(f"data.loader: {self.data.loader} reads no images with boxes; take {possible}")
        for key, why in self.task.entry.unused.items():
            section, _, name = key.partition(".")
            spec = getattr(self, section)
            if getattr(spec, name) != _default(spec, name):
                raise ValueError(f"{key} means nothing in {self.task.kind}: {why}")
        source = SOURCES.get(self.data.name)
        if source is not None and source.layout != self.task.entry.layout:
            fitting = listed((n for n, one in SOURCES.items() if one.layout == self.task.entry.layout), "or")
            wrong = f"data.name: {self.data.name} is not for {self.task.kind}"
            raise ValueError(f"{wrong}; take {fitting}, or a path")
        if isinstance(self.task, DetectionSpec):
            task = self.task.for_stages(ARCHITECTURES[self.model.arch].num_stages, self.model.arch)
            if task.backbone_from is not None:
                names = {"{arch}": self.model.arch, "{norm}": self.model.norm.label.lower()}
                place = task.backbone_from
                for name, value in names.items():
                    place = place.replace(name, value)
                task = task.model_copy(update={"backbone_from": place})
            if isinstance(self.model.norm, BatchFreeSpec):  # no BN left that could be either
                task = task.model_copy(update={"batch_norm": "trained"})
            elif isinstance(self.model.norm, VariantSpec) and task.is_frozen:
                own = f"{self.model.norm.kind} has estimates of its own: set it to trained"
                raise ValueError(f"task.batch_norm: frozen is for BN, and {own}")
            object.__setattr__(self, "task", task)
        return self

    @model_validator(mode="after")
    def _periods(self) -> "Run":
        iterations, every = self.recipe.iterations, self.measure.every_iterations
        if every is not None and iterations is None:
            raise ValueError("measure.every_iterations needs recipe.iterations; give eval_every_epochs")
        if every is not None and iterations is not None and iterations % every:
            raise ValueError(
                f"measure.every_iterations {every} does not divide recipe.iterations {iterations}: "
                f"{iterations} = {iterations // every} × {every} + {iterations % every}"
            )
        return self

    @model_validator(mode="after")
    def _norm_batch(self) -> "Run":
        # Without BN there is no statistic over a batch, so the configured number has no effect.
        if isinstance(self.model.norm, BatchFreeSpec) or self.has_frozen_norms:
            alike = {"norm_batch_size": self.batch.per_gpu, "estimates": DEFAULT_ESTIMATES}
            plain = self.batch.model_copy(update=alike)
            object.__setattr__(self, "batch", plain)
            if (federated := self.recipe.federated) is not None:
                default = FederatedSpec.model_fields["norms"].default
                updated = {"federated": federated.model_copy(update={"norms": default})}
                object.__setattr__(self, "recipe", self.recipe.model_copy(update=updated))
        norm, batch = self.model.norm, self.batch
        if self.recipe.federated is not None and batch.estimates != DEFAULT_ESTIMATES:
            raise ValueError(
                f"batch.estimates: {batch.estimates} is of several ranks, but federated clients train in "
                "turn on one: leave it out; recipe.federated.norms joins the clients' estimates"
            )
        if isinstance(norm, VariantSpec) and batch.norm > batch.per_gpu:
            raise ValueError(
                f"batch.norm_batch_size is {batch.norm}, but the statistics of {norm.kind} cannot span "
                f"several ranks: take batch_size_per_gpu, {batch.per_gpu}, or less"
            )
        return self

    @model_validator(mode="after")
    def _architecture(self) -> "Run":
        arch, size = self.model.arch, self.data.image_size
        family = ARCHITECTURES[arch].family
        if (side := family.image_size) not in (None, size):
            raise ValueError(f"data.image_size is {size}, but {arch} takes images of {side} × {side}")
        if family.takes_vectors and self.batch.norm != self.batch.per_gpu:
            norms = f"the norms of {arch} see the whole batch_size_per_gpu of {self.batch.per_gpu}"
            raise ValueError(f"batch.norm_batch_size is {self.batch.norm}, but {norms}: leave it out")
        return self

    @property
    def run_id(self) -> str:
        """Twelve hex digits over model, data (without its place), batch, recipe, seed. Not cached."""
        decides = self.model_dump(mode="json", include={"model", "data", "batch", "recipe", "seed"})
        for field in WHERE:
            del decides["data"][field]
        norm = decides["model"]["norm"]
        if norm.get("stages", 0) is None:
            del norm["stages"]  # added later: older runs keep their ids
        if isinstance(self.model.norm, VariantSpec):  # without the options of other variants, and later ones
            decides["model"]["norm"] = {"kind": norm["kind"], **self.model.norm.options}
        if not isinstance(self.task, ClassificationSpec):
            decides["task"] = self.task.model_dump(mode="json")
        for section, fields in ADDED_LATER.items():
            for field, value in fields.items():
                if decides[section][field] == value:
                    del decides[section][field]
        text = json.dumps(decides, sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(text.encode()).hexdigest()[:12]

    @property
    def num_epochs(self) -> int:
        """How many epochs the record counts: those of the recipe, or `measure.every_iterations` each."""
        if self.recipe.iterations is None:
            return self.recipe.length
        return self.recipe.iterations // (self.measure.every_iterations or self.recipe.iterations)

    @property
    def has_frozen_norms(self) -> bool:
        """Whether there is BN, and all of it normalises with constants."""
        has_bn = not isinstance(self.model.norm, BatchFreeSpec)
        return has_bn and isinstance(self.task, DetectionSpec) and self.task.is_frozen

    @property
    def norm_label(self) -> str:
        """The norms of the network, and whether BN is frozen."""
        return f"{self.model.norm.label}{'-frozen' if self.has_frozen_norms else ''}"

    @property
    def label(self) -> str:
        """A readable name, such as `resnet50 XBN-P2-GN64 nb32 seed 0`."""
        task = f"{self.task.label} " if isinstance(self.task, DetectionSpec) else ""
        return f"{task}{self.model.arch} {self.norm_label} nb{self.batch.norm} seed {self.seed}"

    @property
    def folder_name(self) -> str:
        """The name of the run's folder: its label and its id."""
        return f"{self.label.lower().replace('seed ', 's').replace(' ', '-')}-{self.run_id}"


def _default(spec: Spec, name: str) -> Any:
    """Return a field's value where the config names none. A later validator may have filled in null."""
    if isinstance(spec, DataSpec) and name == "eval_resize":
        return spec.default_eval_resize
    return type(spec).model_fields[name].default


class Experiment(Spec):
    """A named list of runs. `suite.config` makes it from YAML."""

    name: str
    runs: tuple[Run, ...]


def check_batches(runs: Sequence[Run], ranks: int) -> None:
    """Raise UserError for a global batch that `ranks` ranks cannot divide, with the arithmetic.

    Also for several ranks with a norm that reads its estimates in training, or with federated clients.
    """
    for run in runs:
        norm = run.model.norm
        if ranks > 1 and run.recipe.federated is not None:
            raise UserError(f"recipe.federated: the clients train in turn on one rank, not on {ranks}")
        if ranks > 1 and isinstance(norm, VariantSpec) and BATCH_NORM_VARIANTS[norm.kind].reads_estimates:
            why = "reads its estimates in training, and each rank would have its own"
            raise UserError(f"model.norm: {norm.kind} {why}: train it on one rank, not on {ranks}")
        try:
            run.batch.accumulation_steps(ranks)
        except ValueError as error:
            raise UserError(f"batch: {error}") from None
