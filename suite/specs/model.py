"""A network and the norms at its sites."""

from typing import Annotated, Any, Literal

from pydantic import Field, field_validator, model_validator

from suite.architectures import ARCHITECTURES, Family, default_num_groups
from suite.specs.base import Spec

Position = Literal["p1", "p2", "p3"]
BatchFreeNorm = Literal["gn", "ln", "in", "gw"]


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
        None,
        description="the stem's norm too; null: as released (ResNets yes, mobile networks no, MLPs none)",
    )
    downsample: bool = Field(False, description="the norms of the shortcut projections too")

    @property
    def label(self) -> str:
        groups = "" if self.num_groups is None else str(self.num_groups)
        extras = ("-nostem" if self.stem is False else "") + ("-ds" if self.downsample else "")
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

    arch: str = Field(
        description="a torchvision name, one of the small ones for 28-64 px, or an MLP for 28 px"
    )
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
        family = ARCHITECTURES[self.arch]
        if family is Family.MLP:
            self._check_mlp(norm, bfn)
        update: dict[str, Any] = {}
        if norm.num_groups is None and bfn in ("gn", "gw"):
            update["num_groups"] = default_num_groups(self.arch, not isinstance(norm, XbnSpec))
        if isinstance(norm, XbnSpec) and norm.stem is None and family is not Family.MLP:
            update["stem"] = family in (Family.RESNET, Family.SMALL_RESNET)
        object.__setattr__(self, "norm", norm.model_copy(update=update))
        return self

    def _check_mlp(self, norm: XbnSpec | BatchFreeSpec, bfn: BatchFreeNorm) -> None:
        """Raise ValueError for what only a network of pixels and shortcuts has."""
        if bfn == "in":
            raise ValueError(
                f"norm: in has no meaning for {self.arch}: a unit of one sample is a single number"
            )
        if not isinstance(norm, XbnSpec):
            return
        if norm.position == "p3" or norm.stem is not None or norm.downsample:
            raise ValueError(
                f"norm: {self.arch} has positions p1 and p2, the first and second layer of each pair; "
                "there is no p3, stem or downsample"
            )
