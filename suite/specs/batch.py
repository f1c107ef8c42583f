"""The three batch axes and their arithmetic, and what several ranks make of their estimates."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from pydantic import Field, model_validator

from suite.specs.base import Spec
from suite.specs.choice import described


@dataclass(frozen=True)
class EstimatesRule:
    """Which running averages are evaluated and saved. `rule`: "module:class", a `RankEstimates`."""

    meaning: str
    rule: str


ESTIMATES = {
    "first_rank": EstimatesRule("the first rank's, as DDP does", "suite.train.estimates:FirstRank"),
    "mean": EstimatesRule(
        "the means over ranks of running means and running variances, as timm's --dist-bn reduce",
        "suite.train.estimates:MeanOfRanks",
    ),
}
DEFAULT_ESTIMATES = "first_rank"
if TYPE_CHECKING:
    EstimatesName = str
else:
    EstimatesName = Literal[tuple(ESTIMATES)]


class BatchSpec(Spec):
    """The three batch axes, in samples; see docs/design.md for how they differ."""

    global_batch_size: int = Field(
        256, ge=1, description="samples of one optimizer step; all: data.train_images, one step per epoch"
    )
    batch_size_per_gpu: int | None = Field(
        None, ge=1, description="samples of one forward pass of one rank; null: global_batch_size"
    )
    norm_batch_size: int | None = Field(
        None, ge=2, description="samples of one BN statistic; null: batch_size_per_gpu"
    )
    estimates: EstimatesName = Field(
        DEFAULT_ESTIMATES,
        description="where each rank has BN statistics of its own, which running averages are evaluated and "
        f"saved: {described(ESTIMATES)}. On one rank, or with statistics over all ranks, both are the same",
    )

    @model_validator(mode="after")
    def _arithmetic(self) -> "BatchSpec":
        total = self.global_batch_size
        if self.batch_size_per_gpu is None:
            object.__setattr__(self, "batch_size_per_gpu", total)
        per_gpu = self.per_gpu
        if total % per_gpu:
            most = min(per_gpu, total)  # 1 divides, too, where a divisor would take long to find
            near = next((d for d in range(most, max(1, most - 100_000), -1) if total % d == 0), 1)
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
        small, large = sorted((norm, per_gpu))
        if large % small:
            rule, kind = ("divide", "ghost groups") if norm < per_gpu else ("be a multiple of", "SyncBN")
            raise ValueError(
                f"norm_batch_size {norm} must {rule} batch_size_per_gpu {per_gpu} ({kind}), "
                f"but {large} = {large // small} × {small} + {large % small}"
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
        """Return a rank's forward passes per optimizer step. Raises ValueError if that is no whole number."""
        ranks_per_statistic = max(1, self.norm // self.per_gpu)
        if self.global_batch_size % (self.per_gpu * world_size):
            raise ValueError(
                f"{world_size} ranks × batch_size_per_gpu {self.per_gpu} = {world_size * self.per_gpu} "
                f"samples a pass, which does not divide global_batch_size {self.global_batch_size}"
            )
        if world_size % ranks_per_statistic:
            raise ValueError(
                f"norm_batch_size {self.norm} = {ranks_per_statistic} ranks × batch_size_per_gpu "
                f"{self.per_gpu}, but the run has {world_size} rank{'s'[: world_size != 1]}: "
                f"not a multiple of {ranks_per_statistic}"
            )
        return self.global_batch_size // (self.per_gpu * world_size)
