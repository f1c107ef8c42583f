"""A network and the norms at its sites."""

from typing import Any

from pydantic import Field, field_validator, model_validator

from suite.architectures import ARCHITECTURES
from suite.specs.base import Spec
from suite.specs.choice import listed
from suite.specs.norm import BatchFreeSpec, BatchNormSpec, NormSpec, VariantSpec, XbnSpec
from suite.specs.norm_table import BATCH_FREE_NORMS, BATCH_NORM_VARIANTS, GROUPED


class ModelSpec(Spec):
    """A network and the norms at its sites."""

    arch: str = Field(description=f"one of {', '.join(ARCHITECTURES)}")
    norm: NormSpec = Field(
        BatchNormSpec(),
        description=f"kind: {' | '.join(('bn', 'xbn', *BATCH_FREE_NORMS, *BATCH_NORM_VARIANTS))}",
    )
    num_classes: int | None = Field(None, ge=2, description="number of classes; null: that of the data set")
    bn_momentum: float = Field(
        0.1, gt=0, le=1, description="weight of the newest batch in BN's running statistics"
    )

    @field_validator("arch")
    @classmethod
    def _known_arch(cls, arch: str) -> str:
        if arch not in ARCHITECTURES:
            raise ValueError(f"unknown arch {arch!r}; valid: {', '.join(ARCHITECTURES)}")
        return arch

    @model_validator(mode="after")
    def _as_released(self) -> "ModelSpec":
        """Fill the defaults that depend on the architecture, so that the hash covers what is built."""
        norm = self.norm
        if isinstance(norm, BatchNormSpec | VariantSpec):
            return self
        bfn = norm.bfn if isinstance(norm, XbnSpec) else norm.kind
        if bfn not in GROUPED and norm.num_groups is not None:
            grouped = listed(GROUPED, "or")
            raise ValueError(f"norm.num_groups has no meaning for {bfn}; remove it, or use {grouped}")
        architecture = ARCHITECTURES[self.arch]
        if architecture.family.takes_vectors and (reason := BATCH_FREE_NORMS[bfn].not_for_vectors):
            raise ValueError(f"norm: {bfn} has no meaning for {self.arch}: {reason}")
        update: dict[str, Any] = {}
        if norm.num_groups is None and bfn in GROUPED:
            update["num_groups"] = architecture.default_num_groups(not isinstance(norm, XbnSpec))
        if isinstance(norm, XbnSpec):
            self._check_positions(norm)
            if norm.stem is None:
                update["stem"] = architecture.family.is_stem_converted
            if norm.stages is not None:
                update["stages"] = self._check_stages(norm.stages)
        norm = norm.model_copy(update=update)
        if bfn in GROUPED:
            self._check_groups(norm)
        object.__setattr__(self, "norm", norm)
        return self

    def _check_stages(self, stages: tuple[int, ...]) -> tuple[int, ...] | None:
        """Return the stages, or None if they are all. Raises ValueError for one that the network lacks."""
        if (count := ARCHITECTURES[self.arch].num_stages) is None:
            raise ValueError(f"norm.stages is for ResNets; {self.arch} has no stages: remove it")
        every = tuple(range(1, count + 1))
        if unknown := set(stages) - set(every):
            raise ValueError(f"norm.stages: {self.arch} has stages 1 to {count}, there is no {min(unknown)}")
        return None if stages == every else stages

    def _check_groups(self, norm: XbnSpec | BatchFreeSpec) -> None:
        """Raise ValueError for groups that do not divide the channels at some site."""
        roles, stages = None, None
        if isinstance(norm, XbnSpec):
            extras = {"stem": norm.stem, "downsample": norm.downsample}
            roles, stages = [norm.position, *(role for role, wanted in extras.items() if wanted)], norm.stages
        channels = ARCHITECTURES[self.arch].norm_channels(roles, stages)

        def fits(groups: int) -> bool:
            return not any(c % min(groups, c) for c in channels)  # clipped, as released

        assert norm.num_groups is not None
        if not fits(norm.num_groups):
            valid = ", ".join(str(groups) for groups in range(1, channels[-1] + 1) if fits(groups))
            raise ValueError(
                f"norm.num_groups {norm.num_groups} does not divide the {listed(channels)} channels of "
                f"{self.arch}'s norms there; valid: {valid}"
            )

    def _check_positions(self, norm: XbnSpec) -> None:
        """Raise ValueError for a position, or an option, that the network has no norm site for."""
        architecture = ARCHITECTURES[self.arch]
        present = architecture.channels.keys()
        lacks_stem = norm.stem is not None and architecture.family.is_stem_converted is None
        lacks_shortcut = norm.downsample and architecture.family.takes_vectors
        if norm.position not in present or lacks_stem or lacks_shortcut:
            roles = ("p1", "p2", "p3", "stem", "downsample")
            note = architecture.family.positions_note
            raise ValueError(
                f"norm: {self.arch} has positions {listed(r for r in roles if r in present)}"
                f"{note and f', {note}'}; there is no {listed((r for r in roles if r not in present), 'or')}"
            )
