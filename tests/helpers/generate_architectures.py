"""Writes suite/architectures.json from the families and their networks: `make architectures`."""

import importlib
import json
import pkgutil
import re
from collections import defaultdict
from dataclasses import asdict

import torch

import suite.models.families
from suite.architectures import FILE, Channels, Family
from suite.models.norm_sites import norm_sites
from suite.specs.choice import resolve


def declared_families() -> list[Family]:
    """Return the families of all modules in `suite.models.families`, torchvision's first.

    Raises AttributeError for a module that declares no `FAMILIES`.
    """
    package = suite.models.families
    modules = sorted((found.name for found in pkgutil.iter_modules(package.__path__)), reverse=True)
    names = (f"{package.__name__}.{module}" for module in modules)
    return [family for name in names for family in importlib.import_module(name).FAMILIES]


def measured_channels(family: Family, arch: str) -> Channels:
    """Build a network on the meta device and return the channels of its norm sites by role.

    With stages: one number for each stage, 0 where the stage has no such site. Otherwise each number once.
    """
    with torch.device("meta"):
        model = resolve(family.builder)(arch, 10)
    found: dict[str, dict[int, set[int]]] = defaultdict(lambda: defaultdict(set))
    for site in norm_sites(model):
        stage = re.match(r"layer(\d+)\.", site.name) if family.has_stages else None
        for role in site.roles:
            found[role][int(stage[1]) if stage else 0].add(site.num_channels)
    last = max(stage for stages in found.values() for stage in stages)
    return {role: _by_stage(arch, role, stages, last) for role, stages in sorted(found.items())}


def _by_stage(arch: str, role: str, stages: dict[int, set[int]], last: int) -> tuple[int, ...]:
    if 0 in stages:
        return tuple(sorted(stages[0]))
    if uneven := [stage for stage, counts in stages.items() if len(counts) > 1]:
        raise ValueError(f"{arch}: the {role} sites of stage {uneven[0]} have different channel counts")
    return tuple(min(stages.get(stage, {0})) for stage in range(1, last + 1))


def generate() -> str:
    """Return the content of the file, with a line for each family's fields and one for each network."""
    families = []
    for family in declared_families():
        channels = {arch: measured_channels(family, arch) for arch in family.groups}
        networks = ",\n".join(f"  {json.dumps(a)}: {json.dumps(roles)}" for a, roles in channels.items())
        fields = json.dumps(asdict(family))[1:-1]
        families.append(f'{{\n {fields},\n "channels": {{\n{networks}\n }}\n}}')
    return f"[{', '.join(families)}]\n"


if __name__ == "__main__":
    FILE.write_text(generate())
