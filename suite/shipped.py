"""The configs that come with shiftbench: experiments, studies, clusters and the registered claims."""

import difflib
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
# A wheel has them in its package `shiftbench`; in a checkout they are beside the packages.
PACKAGED = ROOT / "shiftbench" / "configs"
CONFIGS = PACKAGED if PACKAGED.is_dir() else ROOT / "configs"
CLUSTERS = CONFIGS / "clusters"
PAPER = CONFIGS / "experiments" / "paper"
CLAIMS = CONFIGS / "claims.yaml"
FOLDERS = {"experiment": (CONFIGS / "experiments", PAPER), "study": (CONFIGS / "studies",)}


def names(*kinds: str) -> list[str]:
    """Return the names of the shipped configs of these kinds, such as `demo`; all if none is given."""
    folders = [folder for kind in kinds or FOLDERS for folder in FOLDERS[kind]]
    return sorted(path.stem for folder in folders for path in folder.glob("*.yaml"))


def find(path: Path) -> Path:
    """Return a file of the user as it is, and for the name of a shipped config the path of its file.

    A name is `demo`, `paper/noise`, or the path that the file has in the repository, such as
    `configs/experiments/demo.yaml`. A file of the user with that path comes first. A path that is neither is
    returned unchanged.
    """
    if path.exists() and not (path.is_dir() and len(path.parts) == 1):
        return path
    if path.parts[:1] == (CONFIGS.name,):
        found = CONFIGS.joinpath(*path.parts[1:])
        return found if found.is_file() else path
    if path.is_absolute() or path.suffix in (".yaml", ".yml") or ".." in path.parts:
        return path
    candidates = (folder / f"{path}.yaml" for folders in FOLDERS.values() for folder in folders)
    return next((found for found in candidates if found.is_file()), path)


def suggestion(path: Path, kinds: Sequence[str] = ()) -> str:
    """Return the end of a sentence about a file that does not exist, if it may be meant as a shipped name."""
    if len(path.parts) != 1 or path.suffix in (".yaml", ".yml"):
        return ""
    known = names(*kinds)
    near = difflib.get_close_matches(path.name, known, n=1, cutoff=0.5)
    return (
        f", and no shipped config; did you mean {near[0]!r}?"
        if near
        else (f", and no shipped config; these are {', '.join(known)}")
    )
