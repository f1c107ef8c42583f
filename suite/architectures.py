"""The architectures by name, read without torch from `architectures.json`.

The families are declared beside their networks in `suite.models.families`; `make architectures` measures
the networks' channels and writes the file.
"""

import json
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path

FILE = Path(__file__).with_suffix(".json")
Channels = dict[str, tuple[int, ...]]


@dataclass(frozen=True)
class Family:
    """What the networks of one layout share.

    `builder`: "module:function" that takes (arch, num_classes); the number has a default. `groups`: for each
    network, the groups of GN in XBN blocks and of GN at every site when the config names none.
    `is_stem_converted`: whether XBN converts the stem's norm by default; None for a network without a stem.
    `has_stages`: whether blocks lie in `layer1`, `layer2`, …, as in a ResNet. `takes_vectors`: the norms'
    inputs are (N, C), without pixels. `image_size`: the only size that the network takes, in pixels; None:
    any. `input_channels`: how many of an image's three channels it reads. `positions_note`: what its
    positions are, for a refusal.
    """

    name: str
    builder: str
    groups: Mapping[str, tuple[int, int]]
    is_stem_converted: bool | None
    has_stages: bool = False
    takes_vectors: bool = False
    image_size: int | None = None
    input_channels: int = 3
    positions_note: str = ""


@dataclass(frozen=True)
class Architecture:
    """A network by name. `channels`: of the norm sites of each role, by stage if the family has stages."""

    name: str
    family: Family
    channels: Channels

    @property
    def num_stages(self) -> int | None:
        """The number of stages of a ResNet; None for a network whose blocks lie in no stages."""
        return len(self.channels["p1"]) if self.family.has_stages else None

    def norm_channels(
        self, roles: Collection[str] | None = None, stages: Collection[int] | None = None
    ) -> list[int]:
        """Return the different channel counts of the norm sites, ascending.

        `roles`, `stages`: only sites of these roles, in these stages of a ResNet; None: all. A stem lies
        in no stage and is never left out by `stages`.
        """
        found: set[int] = set()
        for role in self.channels if roles is None else roles:
            channels = self.channels.get(role, ())
            if stages is None or role == "stem":
                found |= set(channels)
            elif channels:
                found |= {channels[stage - 1] for stage in stages}
        return sorted(found - {0})

    def default_num_groups(self, everywhere: bool) -> int:
        """Return GN's groups in XBN blocks, or at every site, for a config that names none."""
        return self.family.groups[self.name][everywhere]


def _read() -> dict[str, Architecture]:
    found = {}
    for content in json.loads(FILE.read_text()):
        channels = content.pop("channels")
        family = Family(**content)
        for name in family.groups:
            roles = {role: tuple(counts) for role, counts in channels[name].items()}
            found[name] = Architecture(name, family, roles)
    return found


ARCHITECTURES = _read()
