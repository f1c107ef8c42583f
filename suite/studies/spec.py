"""A study's YAML, field by field, and what is refused in it."""

from typing import Literal

from pydantic import Field, model_validator

from suite.config import SWEEPING
from suite.experiment import BatchFreeSpec, Run
from suite.metrics import METRICS
from suite.specs.base import Spec
from suite.studies.axes import AXES, kinds
from suite.studies.space import Space, check_order, is_drawn
from suite.studies.strategies import EveryPoint, NoStopping, Scheduler, Search

# Metrics whose results are the evaluation's values.
VALIDATED = {metric.name for metric in METRICS.values() if metric.measured_in != "train"}
AT_THE_END = {"flops_per_image", "matmul_peak_flops_per_s", "matmul_peak_share"}


class Objective(Spec):
    """A metric that a study measures its runs by; of a per-layer metric, the mean over the layers."""

    metric: str
    mode: Literal["max", "min"] | None = Field(None, description="null: the metric's own direction")

    @model_validator(mode="after")
    def _known(self) -> "Objective":
        if self.metric not in METRICS:
            raise ValueError(f"no run measures {self.metric!r}; measured are {', '.join(METRICS)}")
        if self.mode is None:
            direction = METRICS[self.metric].direction
            if direction == "neither":
                raise ValueError(f"{self.metric} is neither better high nor low: give mode, max or min")
            object.__setattr__(self, "mode", "max" if direction == "higher" else "min")
        return self


def is_due(run: Run, metric: str, epoch: int) -> bool:
    """Whether a run measures a metric at the end of an epoch (counted from 1)."""
    measure, epochs = run.measure, run.recipe.epochs
    is_last, is_evaluated = epoch == epochs, measure.is_evaluated(epoch, epochs)
    if METRICS[metric].per_layer or metric == "top1_precise_percent":
        if isinstance(run.model.norm, BatchFreeSpec):
            return False  # no BN, so no estimates
        if metric == "top1_precise_percent":
            return is_last and measure.precise_bn_images > 0
        return measure.is_probed(epoch, epochs) if metric in VALIDATED else measure.tid
    if metric == "top1_inference_percent":
        return is_evaluated and measure.eval_train
    return is_last if metric in AT_THE_END else is_evaluated or metric not in VALIDATED


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

    name: str = Field(min_length=1, pattern=r"^\w[\w. -]*$", description="the file's name, unless given")
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

    @model_validator(mode="after")
    def _check(self) -> "StudySpec":
        for key in self.space:
            section, _, field = key.partition(".")
            if section not in SWEEPING or not field or key == "data.path":
                expected = f"a field of {', '.join(SWEEPING)} that decides a result, such as recipe.lr"
                raise ValueError(f"space: {key}: expected {expected}")
        check_order(self.space)
        if self.num_samples > 1 and (self.search.num_proposed is not None or not is_drawn(self.space)):
            raise ValueError("num_samples: no field is drawn, or the search proposes its points; remove it")
        if len(set(self.seeds)) != len(self.seeds):
            raise ValueError(f"seeds: expected different numbers, got {list(self.seeds)}")
        if len({objective.metric for objective in self.objectives}) != len(self.objectives):
            raise ValueError("objectives: expected different metrics")
        return self


OWN_KEYS = frozenset(StudySpec.model_fields) - {"experiment", "overrides", "space"}
"""Keys that an override sets in the study itself; any other key is the base experiment's."""
