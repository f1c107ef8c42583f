"""The classes of validation images that lie in no class folders, from the lists in which people have them."""

import csv
import io
import re
import tarfile
from collections.abc import Sequence
from pathlib import Path

from suite.errors import UserError

DEVKIT = "ILSVRC2012_devkit_t12"
GROUND_TRUTH, META, MAP = "ILSVRC2012_validation_ground_truth.txt", "meta.mat", "map_clsloc.txt"
KAGGLE = "LOC_val_solution.csv"
SYNSETS = "imagenet_2012_validation_synset_labels.txt"
CANDIDATES = (
    *(KAGGLE, SYNSETS, GROUND_TRUTH, f"data/{GROUND_TRUTH}", f"{DEVKIT}/data/{GROUND_TRUTH}"),
    f"{DEVKIT}.tar.gz",
)
EXPECTED = (
    f"{DEVKIT}.tar.gz or what is in it, Kaggle's {KAGGLE}, or a list of synsets ({SYNSETS}), there or by "
    "--val-labels"
)


def val_classes(folder: Path, files: Sequence[str], given: Path | None) -> list[str]:
    """Return the class of each validation image, of these file names, from the list `given` or in `folder`.

    Lists without file names are in the order of the names. Raises UserError for a list that is missing,
    broken, or not of these images.
    """
    path = given or next((folder / name for name in CANDIDATES if (folder / name).exists()), None)
    if path is None:
        raise UserError(f"{folder}: the labels of the validation images are missing: {EXPECTED}")
    try:
        lines, ids = _read(path)
    except (OSError, tarfile.TarError, UnicodeDecodeError, EOFError) as error:
        raise UserError(f"{path}: cannot be read: {getattr(error, 'strerror', None) or error}") from None
    by_name = _named(lines)
    if by_name is not None:
        if missing := [name for name in files if Path(name).stem not in by_name]:
            raise UserError(f"{path}: has no label of {missing[0]}")
        if surplus := min(by_name.keys() - {Path(name).stem for name in files}, default=None):
            raise UserError(f"{path}: has a label of {surplus}, but there is no such validation image")
        return [by_name[Path(name).stem] for name in files]
    if len(lines) != len(files):
        raise UserError(f"{path}: has {len(lines)} labels, but there are {len(files)} validation images")
    if ids:
        if unknown := next((line for line in lines if line not in ids), None):
            raise UserError(f"{path}: has the label {unknown}, which the devkit's {META} does not name")
        lines = [ids[line] for line in lines]
    in_order = dict(zip(sorted(files), lines, strict=True))
    return [in_order[name] for name in files]


def _read(path: Path) -> tuple[list[str], dict[str, str]]:
    """Return a list's lines, and the synsets of the numbers if they are numbers."""
    if path.name.endswith(".tar.gz"):
        with tarfile.open(path) as tar:
            parts = {Path(one.name).name: tar.extractfile(one) for one in tar if one.isfile()}
            text, meta = parts.get(GROUND_TRUTH), parts.get(META)
            if text is None or meta is None:
                raise UserError(f"{path}: has no {GROUND_TRUTH} or no {META}")
            return _lines(text.read().decode()), _ids_of_meta(meta.read())
    lines = _lines(path.read_text())
    if not all(line.isdecimal() for line in lines):
        return lines, {}
    for place in (path.parent / META, path.parent.parent / META):
        if place.exists():
            return lines, _ids_of_meta(place.read_bytes())
    if (path.parent / MAP).exists():  # n02119789 1 kit_fox
        rows = [line.split() for line in (path.parent / MAP).read_text().splitlines() if line.strip()]
        return lines, {row[1]: row[0] for row in rows}
    raise UserError(f"{path}: its numbers are the devkit's, whose {META} is missing beside it")


def _lines(text: str) -> list[str]:
    if lines := [line.strip() for line in text.splitlines() if line.strip()]:
        return lines
    raise UserError("the list of validation labels is empty")


def _ids_of_meta(content: bytes) -> dict[str, str]:
    from scipy.io import loadmat

    try:
        synsets = loadmat(io.BytesIO(content), squeeze_me=True)["synsets"]
        return {str(int(one["ILSVRC2012_ID"])): str(one["WNID"]) for one in synsets}
    except (ValueError, KeyError, TypeError, IndexError):
        raise UserError(f"the devkit's {META} is broken, or of another year than 2012") from None


def _named(lines: Sequence[str]) -> dict[str, str] | None:
    """Return the classes by the names of images, without suffix; None for lines that are classes alone."""
    rows = list(csv.reader(lines)) if "," in lines[0] else [line.split(maxsplit=1) for line in lines]
    if any(len(row) < 2 or not row[1].strip() for row in rows):
        return None
    if rows[0][0] == "ImageId":
        rows = rows[1:]
    return {re.sub(r"\.\w+$", "", row[0].rpartition("/")[2]): row[1].split()[0] for row in rows}
