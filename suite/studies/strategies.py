"""What a study chooses among: the schedulers, which end runs early, and the searches, which find its points.

To add a scheduler, derive a class from `StoppingSpec` and add it to `SCHEDULERS`. To add a search, derive
a class from `SearchSpec`, add it to `SEARCHES`, and give its searcher in `jobs.tune.search.SEARCHERS`. The
YAML's `kind`, its help and the refusals follow from these tables.
"""

from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal, Union

from pydantic import Field

from suite.specs.base import Spec


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
