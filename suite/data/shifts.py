"""Shifts, which are data sets that differ from training's: those of a plan, and their streams. No torch."""

from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Literal

from suite.data.corruptions import check_corruption
from suite.data.index import class_names
from suite.errors import UserError
from suite.record.robustness import StreamKey
from suite.specs.corruption_table import CORRUPTIONS, RELEASED, SEVERITIES
from suite.specs.robustness import Order, RobustnessPlan

Kind = Literal["clean", "corruption", "folder", "array"]
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

    def __post_init__(self) -> None:
        if self.kind == "corruption":
            check_corruption(self.name, 0 if self.severity is None else self.severity)

    @property
    def source(self) -> str:
        """The place, as a record has it."""
        return "" if self.place is None else str(self.place.absolute())


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
    """Images in an order, in batches; of one shift, or of several of which each batch has as many."""

    shifts: tuple[Shift, ...]
    order: Order
    images_per_batch: int

    @property
    def images_of_each(self) -> int:
        return self.images_per_batch // len(self.shifts)

    def key(self, max_images: int | None) -> StreamKey:
        """Return the key of its records, when it has so many images of each shift."""
        names = tuple((one.name, one.severity) for one in self.shifts)
        return names, tuple(one.source for one in self.shifts), max_images, self.order, self.images_per_batch


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


def planned_streams(plan: RobustnessPlan) -> list[Stream]:
    """Return the clean images, every shift at its highest severity, and all that have one in each batch.

    A batch of all has as many images of each shift, one at least.
    """
    highest: dict[str, Shift] = {}
    for shift in planned_shifts(plan):
        kept = highest.get(shift.name)
        if kept is None or (shift.severity or 0) > (kept.severity or 0):
            highest[shift.name] = shift
    mixed = tuple(shift for shift in highest.values() if shift.severity is not None)
    groups = [(shift,) for shift in highest.values()] + ([mixed] if len(mixed) > 1 else [])
    streams = {}
    for shifts, order, per_batch in product(groups, plan.orders, plan.images_per_batch):
        whole = max(1, per_batch // len(shifts)) * len(shifts)
        streams[shifts, order, whole] = Stream(tuple(shifts), order, whole)
    return list(streams.values())
