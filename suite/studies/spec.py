"""What a study's YAML says, and what is refused in it."""

from typing import Annotated, Literal

from pydantic import Field, model_validator

from suite.config import SWEEPING
from suite.metrics import METRICS
from suite.specs.base import Spec
from suite.studies.space import Space, check_order, is_drawn


class Objective(Spec):
    """A metric of the registry that a study looks at; a per-layer one by its mean over the layers."""

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


class NoStopping(Spec):
    """Every run is trained to its last epoch."""

    kind: Literal["none"] = "none"


class Asha(Spec):
    """Asynchronous successive halving (Li et al. 2020): at each rung the best 1/reduction_factor go on."""

    kind: Literal["asha"]
    grace_epochs: int = Field(1, ge=1, description="the first rung; the next are × reduction_factor")
    reduction_factor: float = Field(4.0, gt=1)


class MedianStopping(Spec):
    """Ends a run whose best value is worse than the median of the others' running means (Vizier, 2017)."""

    kind: Literal["median"]
    grace_epochs: int = Field(1, ge=1, description="no run is ended before")
    min_runs: int = Field(3, ge=1, description="others that must have come so far")


Scheduler = Annotated[NoStopping | Asha | MedianStopping, Field(discriminator="kind")]


class EveryPoint(Spec):
    """Every point of the grids, with `num_samples` draws of the other fields."""

    kind: Literal["all"] = "all"


class OptunaSearch(Spec):
    """Points proposed by Optuna's TPE (NSGA-II for several objectives), from the results so far."""

    kind: Literal["optuna"]
    num_points: int = Field(ge=1, description="points in all; each is run with every seed")


Search = Annotated[EveryPoint | OptunaSearch, Field(discriminator="kind")]


class BudgetSpec(Spec):
    """When a study ends before its last trial. What runs then writes a checkpoint; `--resume` goes on."""

    rank_hours: float | None = Field(
        None, gt=0, description="over all its runs and attempts; GPU-hours where a rank has a GPU"
    )
    wall_hours: float | None = Field(None, gt=0, description="since this start of the driver")


class TrialsSpec(Spec):
    """Where trials run. Decides no result, and may change when a study is resumed."""

    cluster: str = Field("local", description="a name in configs/clusters, or a YAML's path")
    at_a_time: int | None = Field(
        None, ge=1, description="null: the cluster's array_parallelism, else 1 locally and 8 on Slurm"
    )
    timeout_s: float | None = Field(
        None, gt=0, description="a trial that runs longer is ended and is failed; waiting is not counted"
    )
    ray_address: str | None = Field(
        None, description="of a Ray cluster that runs already, whose nodes see this folder; null: our own"
    )
    ray_results: str | None = Field(None, description="for Tune's own folder; null: ~/ray_results")


class StudySpec(Spec):
    """What a study's YAML says."""

    name: str = Field(min_length=1, pattern=r"^\w[\w. -]*$", description="the file's name, unless given")
    experiment: str = Field(description="the base experiment's YAML, relative to this file")
    overrides: tuple[str, ...] = Field((), description="key=value for the base, as on the command line")
    space: Space = Field(
        min_length=1, description="dotted field -> {kind: grid | scaled | choice | uniform | loguniform, …}"
    )
    num_samples: int = Field(1, ge=1, description="draws for each point of the grids, where fields are drawn")
    sampling_seed: int = Field(0, ge=0, description="of the draws, and of Optuna")
    seeds: tuple[int, ...] = Field(
        (0, 1, 2), min_length=1, description="of each point's runs, whatever the base says"
    )
    objectives: tuple[Objective, ...] = Field(
        (Objective(metric="top1_percent", mode="max"),),
        min_length=1,
        description="what it looks at; the first one is what scheduler and search go by",
    )
    scheduler: Scheduler = NoStopping()
    search: Search = EveryPoint()
    budget: BudgetSpec = BudgetSpec()
    trials: TrialsSpec = TrialsSpec()
    margin_points: float = Field(
        1.0, ge=0, description="of top-1: below which norm batch does BN lose more than this?"
    )

    @model_validator(mode="after")
    def _check(self) -> "StudySpec":
        for key in self.space:
            section = key.partition(".")[0]
            if section not in SWEEPING or section == key or key == "data.path":
                raise ValueError(
                    f"space: {key}: expected a field of {', '.join(SWEEPING)} that decides a result, "
                    "such as recipe.lr"
                )
        check_order(self.space)
        if self.num_samples > 1 and not is_drawn(self.space):
            raise ValueError("num_samples: no field is drawn; remove it")
        if self.num_samples > 1 and isinstance(self.search, OptunaSearch):
            raise ValueError("num_samples: Optuna proposes search.num_points points; remove num_samples")
        if len(set(self.seeds)) != len(self.seeds):
            raise ValueError(f"seeds: expected different numbers, got {list(self.seeds)}")
        if len({objective.metric for objective in self.objectives}) != len(self.objectives):
            raise ValueError("objectives: expected different metrics")
        return self


OWN_KEYS = frozenset(StudySpec.model_fields) - {"experiment", "overrides", "space"}
"""What an override may set of the study itself; any other key is the base experiment's."""
