"""A study's YAML, field by field, and what is refused in it.

To add a scheduler, derive a class from `StoppingSpec` and add it to `SCHEDULERS`. To add a search, derive a
class from `SearchSpec`, add it to `SEARCHES`, and give its searcher in `jobs.tune.search.SEARCHERS`. The
`kind` in the YAML, its help and the refusals follow from these tables.
"""

from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal, Union

from pydantic import Field, field_validator, model_validator

from suite.config import SWEEPING
from suite.experiment import BatchFreeSpec, Run
from suite.metrics import METRICS, OF_CLIENTS, ON_TRAINING_IMAGES, PROBED, Metric
from suite.specs.base import Spec
from suite.specs.data import WHERE
from suite.studies.space import AXES, Space, check_order, kinds

# Metrics whose results are the evaluation's values.
VALIDATED = {metric.name for metric in METRICS.values() if metric.measured_in != "train"}


class Objective(Spec):
    """A metric that a study measures its runs by; of a per-layer metric, the mean over the layers."""

    metric: str
    mode: Literal["max", "min"] | None = Field(None, description="null: the metric's own direction")

    @model_validator(mode="after")
    def _known(self) -> "Objective":
        if self.metric not in METRICS:
            raise ValueError(f"metric: no run measures {self.metric!r}; measured are {', '.join(METRICS)}")
        if self.mode is None:
            direction = METRICS[self.metric].direction
            if direction == "neither":
                raise ValueError(f"mode: {self.metric} is neither better high nor low: give mode, max or min")
            object.__setattr__(self, "mode", "max" if direction == "higher" else "min")
        return self


def is_due(run: Run, metric: str, epoch: int) -> bool:
    """Whether a run measures a metric at the end of an epoch (counted from 1)."""
    measure, epochs = run.measure, run.num_epochs
    if not run.task.entry.measures(metric) or (metric.startswith("mask_") and not run.task.masks):
        return False
    is_last, is_evaluated = epoch == epochs, measure.is_evaluated(epoch, epochs)
    if metric in ON_TRAINING_IMAGES:
        is_probed = measure.is_probed(epoch, epochs) and not isinstance(run.model.norm, BatchFreeSpec)
        return is_evaluated and measure.eval_train and (is_probed or not METRICS[metric].per_layer)
    if METRICS[metric].weights != "raw":
        return _is_average_due(run, METRICS[metric], epoch)
    if metric in OF_CLIENTS and run.recipe.federated is None:
        return False
    precise = f"{run.task.entry.accuracy}_precise_percent"
    if METRICS[metric].per_layer or metric == precise:
        if isinstance(run.model.norm, BatchFreeSpec):
            return False  # no BN, so no estimates
        if run.has_frozen_norms and metric not in PROBED:
            return False  # estimates that do not move
        if metric == precise:
            return is_last and measure.precise_bn_images > 0
        return measure.is_probed(epoch, epochs) if metric in VALIDATED else measure.tid
    return is_last if METRICS[metric].at_the_end else is_evaluated or metric not in VALIDATED


def _is_average_due(run: Run, metric: Metric, epoch: int) -> bool:
    """Whether a run measures a metric of averaged weights at the end of an epoch."""
    measure, epochs = run.measure, run.num_epochs
    begins = {"ema": 0 if run.recipe.ema_decay is not None else epochs, "swa": run.recipe.swa_start_epoch}
    if epoch <= begins[metric.weights]:
        return False
    is_precise = "_precise" in metric.name
    if not is_precise and not metric.per_layer:
        return measure.is_evaluated(epoch, epochs)
    has_images = measure.precise_bn_images > 0 or not is_precise
    is_probed = measure.is_probed(epoch, epochs) and not isinstance(run.model.norm, BatchFreeSpec)
    return is_probed and has_images


class StoppingSpec(Spec):
    """Ends runs early by a rule with the interface of Ray Tune's schedulers, given as `module:class`."""

    rule: ClassVar[str]
    kind: str
    grace_epochs: int = Field(1, ge=1, description="no run is ended before this epoch")

    def rule_arguments(self, max_epochs: int) -> dict[str, Any]:
        """The rule's arguments, besides metric, mode and `time_attr`. `max_epochs`: of the longest run."""
        raise NotImplementedError(f"{type(self).__name__}.rule_arguments")


class NoStopping(Spec):
    """Every run is trained to its last epoch."""

    kind: Literal["none"] = "none"


class Asha(StoppingSpec):
    """Asynchronous successive halving (Li et al. 2020): at each rung the best 1/reduction_factor continue."""

    rule = "ray.tune.schedulers:ASHAScheduler"
    kind: Literal["asha"]
    reduction_factor: float = Field(4.0, gt=1, description="between rungs; the first is grace_epochs")

    def rule_arguments(self, max_epochs: int) -> dict[str, Any]:
        # Beyond the last epoch: there a run ends by itself, and is not stopped.
        max_t = max(max_epochs, self.grace_epochs) + 1
        return {"max_t": max_t, "grace_period": self.grace_epochs, "reduction_factor": self.reduction_factor}


class MedianStopping(StoppingSpec):
    """Ends a run whose best value is worse than the median of the others' running means (Vizier, 2017)."""

    rule = "ray.tune.schedulers:MedianStoppingRule"
    kind: Literal["median"]
    min_runs: int = Field(3, ge=1, description="others that must have come so far")

    def rule_arguments(self, max_epochs: int) -> dict[str, Any]:
        return {"grace_period": self.grace_epochs, "min_samples_required": self.min_runs}


class SearchSpec(Spec):
    """How a study finds its points."""

    kind: str

    @property
    def num_proposed(self) -> int | None:
        """How many points are proposed as results come in; None: every point is known beforehand."""
        return None


class EveryPoint(SearchSpec):
    """Every point of the grids, with `num_samples` draws of the other fields."""

    kind: Literal["all"] = "all"


class OptunaSearch(SearchSpec):
    """Points proposed by Optuna's TPE (NSGA-II for several objectives), from the results so far."""

    kind: Literal["optuna"]
    num_points: int = Field(ge=1, description="points in all; each is run with every seed")

    @property
    def num_proposed(self) -> int:
        return self.num_points


SCHEDULERS: tuple[type[NoStopping | StoppingSpec], ...] = (NoStopping, Asha, MedianStopping)
SEARCHES: tuple[type[SearchSpec], ...] = (EveryPoint, OptunaSearch)

if TYPE_CHECKING:
    Scheduler = NoStopping | StoppingSpec
    Search = SearchSpec
else:
    Scheduler = Annotated[Union[SCHEDULERS], Field(discriminator="kind")]  # noqa: UP007 - of a table
    Search = Annotated[Union[SEARCHES], Field(discriminator="kind")]  # noqa: UP007


class BudgetSpec(Spec):
    """When a study ends before its last trial. Runs then write a checkpoint, and `--resume` continues."""

    rank_hours: float | None = Field(None, gt=0, description="of all runs and attempts; of GPUs, GPU-hours")
    wall_hours: float | None = Field(None, gt=0, description="since this start of the driver")


class TrialsSpec(Spec):
    """Where trials run. Decides no result, so it may change when a study is resumed."""

    cluster: str = Field("local", description="a name in configs/clusters, or a YAML's path")
    at_a_time: int | None = Field(None, ge=1, description="null: array_parallelism, else 1, or 8 on Slurm")
    timeout_s: float | None = Field(None, gt=0, description="a longer trial fails; a queue's time is free")
    ray_address: str | None = Field(None, description="of a Ray that shares this folder; null: starts one")
    ray_results: str | None = Field(None, description="for Tune's own folder; null: ~/ray_results")


class StudySpec(Spec):
    """A study's YAML."""

    name: str = Field(
        min_length=1,
        pattern=r"^\w[\w. -]*$",
        description="letters, digits, _ . - and spaces; default: the file's name",
    )
    experiment: str = Field(description="the base experiment's YAML, relative to this file")
    overrides: tuple[str, ...] = Field((), description="key=value for the base, as on the command line")
    space: Space = Field(min_length=1, description=f"dotted field -> {{kind: {' | '.join(kinds(AXES))}, …}}")
    num_samples: int = Field(1, ge=1, description="draws for each point of the grids, where fields are drawn")
    sampling_seed: int = Field(0, ge=0, description="of the draws and of Optuna")
    seeds: tuple[int, ...] = Field((0, 1, 2), min_length=1, description="of each point, not the base's")
    objectives: tuple[Objective, ...] = Field(
        (Objective(metric="top1_percent"),), min_length=1, description="scheduler and search use the first"
    )
    scheduler: Scheduler = NoStopping()
    search: Search = EveryPoint()
    budget: BudgetSpec = BudgetSpec()
    trials: TrialsSpec = TrialsSpec()
    margin_points: float = Field(1.0, ge=0, description="the answers say where BN loses more top-1")

    @field_validator("space", mode="before")
    @classmethod
    def _lists_are_grids(cls, space: Any) -> Any:
        if not isinstance(space, dict):
            return space
        return {
            key: {"kind": "grid", "values": axis} if isinstance(axis, list) else axis
            for key, axis in space.items()
        }

    @model_validator(mode="after")
    def _check(self) -> "StudySpec":
        for key in self.space:
            section, _, field = key.partition(".")
            if section not in SWEEPING or not field or (section, field) in [("data", one) for one in WHERE]:
                expected = f"a field of {', '.join(SWEEPING)} that decides a result, such as recipe.lr"
                raise ValueError(f"space: {key}: expected {expected}")
        check_order(self.space)
        if self.num_samples > 1 and self.search.num_proposed is not None:
            raise ValueError("num_samples: the search proposes search.num_points points; remove num_samples")
        if self.num_samples > 1 and not any(axis.is_drawn for axis in self.space.values()):
            raise ValueError("num_samples: no field of the space is drawn; remove num_samples")
        if len(set(self.seeds)) != len(self.seeds):
            raise ValueError(f"seeds: expected different numbers, got {list(self.seeds)}")
        if len({objective.metric for objective in self.objectives}) != len(self.objectives):
            raise ValueError("objectives: expected different metrics")
        return self


OWN_KEYS = frozenset(StudySpec.model_fields) - {"experiment", "overrides", "space"}
"""Keys that an override sets in the study itself; any other key is the base experiment's."""
