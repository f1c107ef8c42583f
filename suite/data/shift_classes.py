"""Matches the classes of a shifted data set to the outputs of a network, by name. No torch.

ImageNet-R and -A have 200 of the 1,000 classes. ImageNet-V2 has the numbers 0 to 999 as folders, which sort
wrongly as strings. Positions in a sorted list therefore say nothing.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from suite.errors import UserError

SHOWN = 3


@dataclass(frozen=True)
class ClassMatch:
    """For each class of a shift, in the order of its folders, the network's output.

    `is_subset`: whether some outputs belong to none of the shift's classes.
    """

    output_of_class_K: NDArray[np.int64]
    is_subset: bool


def match_classes(shift: Sequence[str], network: Sequence[str], where: Path) -> ClassMatch:
    """Return the output of a network that belongs to each class folder of a shift.

    `shift`: names of the folders at `where`. `network`: the names of its outputs, in their order. Folders
    that are numbers, where the network's names are not, are the outputs themselves. Raises UserError for
    classes that the network lacks, and when none is in common.
    """
    places = {name: place for place, name in enumerate(network)}
    if all(name.isdecimal() for name in shift) and not any(name in places for name in shift):
        places = {str(place): place for place in range(len(network))}
        shift = [str(int(name)) for name in shift]
    lacking = [name for name in shift if name not in places]
    if len(lacking) == len(shift):
        raise UserError(
            f"{where}: none of its {len(shift)} classes ({_some(shift)}) is among the network's "
            f"{len(network)} ({_some(network)})"
        )
    if lacking:
        raise UserError(f"{where}: the network lacks {len(lacking)} of its classes: {_some(lacking)}")
    found_K = np.array([places[name] for name in shift], dtype=np.int64)
    if len(set(found_K.tolist())) < len(found_K):
        raise UserError(f"{where}: two of its folders are the same class of the network")
    return ClassMatch(found_K, len(found_K) < len(network))


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:SHOWN]) + (", …" if len(names) > SHOWN else "")
