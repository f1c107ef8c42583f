"""Shifts, which are data sets that differ from training's: those of a plan, and their streams. No torch."""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Literal

from suite.data.corruptions import check_corruption
from suite.data.index import class_names
from suite.errors import UserError
from suite.specs.corruption_table import CORRUPTIONS, RELEASED, SEVERITIES
from suite.specs.robustness import Order, RobustnessPlan

Kind = Literal["clean", "corruption", "folder", "array"]
ALL = "all"  # the name of a stream that mixes shifts
LABELS = "labels.npy"  # beside the images of CIFAR-10-C


@dataclass(frozen=True)
class Shift:
    """A shift. `severity`: of a corruption.

    `place`: the folder that holds the class folders of a `folder`, or the file of an `array`; `block`: the
    part of this file, counted from 0, of `num_blocks` equal ones.
    """

    name: str
    kind: Kind
    severity: int | None = None
    place: Path | None = None
    block: int = 0
    num_blocks: int = 1

    @property
    def label(self) -> str:
        """`fog, severity 3`."""
        return self.name if self.severity is None else f"{self.name}, severity {self.severity}"


CLEAN = Shift("clean", "clean")


def folder_shifts(name: str, folder: Path) -> list[Shift]:
    """Return the shift of a folder; of ImageNet-C and CIFAR-10-C, one for each corruption and severity.

    Raises UserError for a folder without class folders or arrays, and for one of another number of classes
    than a released data set has.
    """
    if not folder.is_dir():
        raise UserError(f"--shift {name}: {folder} is not a folder")
    if (folder / LABELS).exists():
        return _array_shifts(folder)
    if name != "imagenet-c":
        return [_checked(Shift(name, "folder", place=folder), name)]
    found = []
    for corruption in class_names(folder):
        for severity in class_names(folder / corruption):
            if not severity.isdecimal() or int(severity) not in SEVERITIES:
                raise UserError(f"{folder / corruption / severity}: expected a severity, 1 to 5")
            check_corruption(corruption, int(severity))
            shift = Shift(corruption, "folder", int(severity), folder / corruption / severity)
            found.append(_checked(shift, name))
    if not found:
        raise UserError(f"{folder}: has no folders CORRUPTION/SEVERITY/CLASS")
    return found


def _checked(shift: Shift, name: str) -> Shift:
    assert shift.place is not None
    count, known = len(class_names(shift.place)), RELEASED.get(name)
    if not count:
        raise UserError(f"{shift.place}: has no class folders with images")
    if known is not None and count != known.num_classes:
        raise UserError(f"{shift.place}: {name} has {known.num_classes} class folders, not {count}")
    return shift


def _array_shifts(folder: Path) -> list[Shift]:
    """Return the shifts of CIFAR-10-C's files: of a corruption, one for each fifth of its images."""
    files = sorted(path for path in folder.glob("*.npy") if path.name != LABELS)
    if not files:
        raise UserError(f"{folder}: has {LABELS} and no other NumPy file")
    found = []
    for path in files:
        if path.stem in CORRUPTIONS:
            blocks = enumerate(SEVERITIES)
            found += [Shift(path.stem, "array", level, path, i, len(SEVERITIES)) for i, level in blocks]
        else:
            found.append(Shift(path.stem, "array", place=path))
    return found


@dataclass(frozen=True)
class Stream:
    """Images in an order, in batches; of one shift, or of several that each batch mixes, called `all`."""

    shifts: tuple[Shift, ...]
    order: Order
    images_per_batch: int

    @property
    def name(self) -> str:
        return self.shifts[0].name if len(self.shifts) == 1 else ALL

    @property
    def severity(self) -> int | None:
        return self.shifts[0].severity if len(self.shifts) == 1 else None


def planned_shifts(plan: RobustnessPlan) -> list[Shift]:
    """Return the clean images and all shifts of a plan. Raises UserError for a folder that holds none."""
    corruptions = [
        Shift(name, "corruption", severity) for name, severity in product(plan.corruptions, plan.severities)
    ]
    folders = [one for name, folder in plan.folder_paths().items() for one in folder_shifts(name, folder)]
    found = [CLEAN, *corruptions, *folders]
    if len({(one.name, one.severity) for one in found}) < len(found):
        raise UserError("two shifts have the same name: name one of the folders differently")
    return found


def planned_streams(plan: RobustnessPlan) -> Iterator[Stream]:
    """Yield the clean images, every shift at its highest severity, and all corruptions mixed."""
    highest: dict[str, Shift] = {}
    for shift in planned_shifts(plan):
        kept = highest.get(shift.name)
        if kept is None or (shift.severity or 0) > (kept.severity or 0):
            highest[shift.name] = shift
    mixed = tuple(shift for shift in highest.values() if shift.kind == "corruption")
    streams = [(shift,) for shift in highest.values()] + ([mixed] if len(mixed) > 1 else [])
    for shifts, order, per_batch in product(streams, plan.orders, plan.images_per_batch):
        yield Stream(tuple(shifts), order, max(per_batch, len(shifts)))
