"""The norms of a network: BN, one batch-free norm in each block, one everywhere, or a variant of BN."""

from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import Field, ValidationError, field_validator, model_validator

from suite.errors import UserError
from suite.specs.base import Spec
from suite.specs.choice import described, listed
from suite.specs.norm_table import BATCH_FREE_NORMS, BATCH_NORM_VARIANTS, GROUPED
from suite.wording import explain

Position = Literal["p1", "p2", "p3"]
if TYPE_CHECKING:
    BatchFreeNorm = str
    BatchNormVariant = str
else:
    BatchFreeNorm = Literal[tuple(BATCH_FREE_NORMS)]
    BatchNormVariant = Literal[tuple(BATCH_NORM_VARIANTS)]


class BatchNormSpec(Spec):
    """Batch normalisation at every site: the baseline."""

    kind: Literal["bn"] = "bn"

    @property
    def label(self) -> str:
        return "BN"


class XbnSpec(Spec):
    """One batch-free norm (BFN) per block, the rest BN (Huang et al. 2022)."""

    kind: Literal["xbn"]
    position: Position = Field("p2", description="which norm of a block is the BFN")
    bfn: BatchFreeNorm = Field("gn", description=described(BATCH_FREE_NORMS, ", "))
    num_groups: int | None = Field(
        None,
        ge=1,
        description=f"groups of {listed(GROUPED)}, clipped to the channels; null: as released for the arch",
    )
    stem: bool | None = Field(
        None, description="also the stem's norm; null: as released (ResNets yes, mobile networks no)"
    )
    downsample: bool = Field(False, description="also the norms of the shortcut projections")
    stages: tuple[int, ...] | None = Field(
        None, description="stages of a ResNet whose blocks have a BFN, such as [3, 4]; null: all"
    )

    @field_validator("stages")
    @classmethod
    def _sorted_stages(cls, stages: tuple[int, ...] | None) -> tuple[int, ...] | None:
        if stages is not None and (not stages or len(set(stages)) != len(stages)):
            raise ValueError(f"expected different stages, such as [3, 4], got {list(stages)}")
        return None if stages is None else tuple(sorted(stages))

    @property
    def label(self) -> str:
        groups = "" if self.num_groups is None else str(self.num_groups)
        extras = ("-nostem" if self.stem is False else "") + ("-ds" if self.downsample else "")
        extras += "" if self.stages is None else f"-s{''.join(map(str, self.stages))}"
        return f"XBN-{self.position.upper()}-{BATCH_FREE_NORMS[self.bfn].label}{groups}{extras}"


class BatchFreeSpec(Spec):
    """One batch-free norm at every site, no BN left."""

    kind: BatchFreeNorm
    num_groups: int | None = Field(
        None,
        ge=1,
        description=f"groups of {listed(GROUPED)}; null: 32, or fewer if that does not divide the channels",
    )

    @property
    def label(self) -> str:
        return BATCH_FREE_NORMS[self.kind].label + ("" if self.num_groups is None else str(self.num_groups))


class VariantSpec(Spec):
    """A variant of BN, with estimates of its own, at every site. Options that are null get their defaults."""

    kind: BatchNormVariant = Field(description=described(BATCH_NORM_VARIANTS, ", "))
    relax_batches: tuple[int, int, int] | None = Field(
        None,
        description="brn: batches after which it differs from BN, has all of r, and has all of d; "
        f"null: {list(BATCH_NORM_VARIANTS['brn'].options['relax_batches'])}",
    )
    window: int | None = Field(
        None,
        ge=1,
        description="mabn: batches in the moving averages that training uses; "
        f"null: {BATCH_NORM_VARIANTS['mabn'].options['window']}",
    )

    @model_validator(mode="after")
    def _of_this_kind(self) -> "VariantSpec":
        defaults = BATCH_NORM_VARIANTS[self.kind].options
        for name, value in self:
            if name != "kind" and name not in defaults and value is not None:
                raise ValueError(f"{name}: has no meaning for {self.kind}; remove it")
            if name in defaults and value is None:
                object.__setattr__(self, name, defaults[name])
        if self.relax_batches is not None:
            start, *ends = self.relax_batches
            if not 0 <= start <= min(ends):
                raise ValueError(
                    "relax_batches: expected the start and then two ends, such as [100, 800, 500], "
                    f"got {list(self.relax_batches)}"
                )
        return self

    @property
    def options(self) -> dict[str, Any]:
        """What the norm is made with, beside what every BN has."""
        every = {"relax_batches": self.relax_batches, "window": self.window}
        return {name: every[name] for name in BATCH_NORM_VARIANTS[self.kind].options}

    @property
    def label(self) -> str:
        entry = BATCH_NORM_VARIANTS[self.kind]
        own = [value for name, value in self.options.items() if value != entry.options[name]]
        parts = [str(number) for value in own for number in (value if isinstance(value, tuple) else (value,))]
        return "-".join([entry.label, *parts])


NormSpec = Annotated[BatchNormSpec | XbnSpec | BatchFreeSpec | VariantSpec, Field(discriminator="kind")]


class _Norm(Spec):
    norm: NormSpec


def norm_spec(norm: object) -> NormSpec:
    """Return a norm that is given as a spec, as its mapping, or as its kind. Raises UserError."""
    try:
        return _Norm.model_validate({"norm": norm}).norm
    except ValidationError as error:
        raise UserError(explain(error, _Norm)) from None
