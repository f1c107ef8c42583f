"""A network and the norms at its sites."""

from typing import Annotated, Any, Literal

from pydantic import Field, field_validator, model_validator

from suite.architectures import ARCHITECTURES, Family, default_num_groups, norm_channels, num_stages
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
    stages: tuple[int, ...] | None = Field(
        None, description="of a ResNet: the stages whose blocks have a BFN, such as [3, 4]; null: all"
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
        if isinstance(norm, XbnSpec) and norm.stages is not None:
            update["stages"] = self._check_stages(norm.stages)
        norm = norm.model_copy(update=update)
        if bfn in ("gn", "gw"):
            self._check_groups(norm)
        object.__setattr__(self, "norm", norm)
        return self

    def _check_stages(self, stages: tuple[int, ...]) -> tuple[int, ...] | None:
        """None where they are all. Raises ValueError for one that the network does not have."""
        if (count := num_stages(self.arch)) is None:
            raise ValueError(f"norm.stages is for ResNets; {self.arch} has no stages: remove it")
        every = tuple(range(1, count + 1))
        if unknown := set(stages) - set(every):
            raise ValueError(f"norm.stages: {self.arch} has stages 1 to {count}, there is no {min(unknown)}")
        return None if stages == every else stages

    def _check_groups(self, norm: XbnSpec | BatchFreeSpec) -> None:
        """Raise ValueError for groups that do not divide the channels somewhere."""
        roles, stages = None, None
        if isinstance(norm, XbnSpec):
            extras = {"stem": norm.stem, "downsample": norm.downsample}
            roles, stages = [norm.position, *(role for role, wanted in extras.items() if wanted)], norm.stages
        channels = norm_channels(self.arch, roles, stages)

        def fits(groups: int) -> bool:
            return not any(c % min(groups, c) for c in channels)  # clipped, as released

        assert norm.num_groups is not None
        if not fits(norm.num_groups):
            valid = ", ".join(str(groups) for groups in range(1, channels[-1] + 1) if fits(groups))
            raise ValueError(
                f"norm.num_groups {norm.num_groups} does not divide the {_listed(channels)} channels of "
                f"{self.arch}'s norms there; valid: {valid}"
            )

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


def _listed(numbers: list[int]) -> str:
    *most, last = map(str, numbers)
    return f"{', '.join(most)} and {last}" if most else last
