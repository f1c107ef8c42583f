"""`shiftbench init`: commented files to start from."""

import json
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer
from rich.console import Console

from suite.errors import UserError
from suite.files import write_atomically


@dataclass(frozen=True)
class Kit:
    """Files to start from: their names, with those of their templates in the shipped configs.

    `next`: the commands to type then.
    """

    meaning: str
    files: Mapping[str, str]
    next: tuple[str, ...]


_NEXT = (
    "shiftbench config show experiment.yaml",
    "shiftbench doctor --cluster cluster.yaml --config experiment.yaml",
)
KITS = {
    "imagenet": Kit(
        "ResNet-50 on ImageNet",
        {"experiment.yaml": "templates/imagenet.yaml", "cluster.yaml": "clusters/gpu.yaml"},
        ("export IMAGENET=/path/to/imagenet", *_NEXT),
    ),
    "folder": Kit(
        "your own images",
        {"experiment.yaml": "templates/folder.yaml", "cluster.yaml": "templates/one_gpu.yaml"},
        _NEXT,
    ),
    "own-model": Kit(
        "your own network", {"own_model.py": "templates/own_model.py"}, ("python own_model.py",)
    ),
}
if TYPE_CHECKING:
    KitName = str
else:
    KitName = Literal[tuple(KITS)]


def init(
    kind: Annotated[
        KitName, typer.Argument(help="; ".join(f"{name}: {kit.meaning}" for name, kit in KITS.items()) + ".")
    ] = "folder",
    into: Annotated[Path, typer.Option("--into", help="Folder for the files; made if missing.")] = Path(),
    data: Annotated[
        Path | None,
        typer.Option(
            help="Your images, as train/CLASS/*.jpg and val/CLASS/*.jpg, or a pack: entered, with classes."
        ),
    ] = None,
) -> None:
    """Write a commented experiment and a cluster's file to start from, or a script for your own network."""
    from suite.shipped import CONFIGS

    if data is not None and kind != "folder":
        raise UserError(f"--data: is for `shiftbench init folder`; leave it out for {kind}")
    kit = KITS[kind]
    for name in kit.files:
        if (into / name).exists():
            raise UserError(f"{into / name}: exists already; remove it, or name another folder with --into")
    texts = {name: (CONFIGS / template).read_text() for name, template in kit.files.items()}
    if data is not None:
        texts["experiment.yaml"] = _filled(texts["experiment.yaml"], data)
    console = Console(soft_wrap=True, highlight=False)
    into.mkdir(parents=True, exist_ok=True)
    for name, text in texts.items():
        write_atomically(into / name, text)
        console.print(f"written: {into / name}", markup=False)
    steps = [] if into == Path() else [shlex.join(["cd", str(into)])]
    if kind == "folder" and data is None:
        console.print("Fill in data.path and data.num_classes of experiment.yaml first.")
    for command in (*steps, *kit.next):
        console.print(f"next: {command}", markup=False)


def _classes(data: Path) -> Sequence[str]:
    from suite.data.index import class_names
    from suite.data.packs import SPLITS, is_pack, open_pack

    if is_pack(data):
        pack = open_pack(data)
        if missing := [split for split in SPLITS if split not in pack.splits]:
            raise UserError(f"--data {data}: is a pack without {missing[0]}")
        return pack.classes
    for split in SPLITS:
        if not (data / split).is_dir():
            raise UserError(
                f"--data {data}: has no folder {split}/; expected train/CLASS/*.jpg and val/CLASS/*.jpg, or "
                "a pack"
            )
    return class_names(data / "train")


def _filled(text: str, data: Path) -> str:
    """Enter a folder of images or a pack, with its name and number of classes. Raises UserError."""
    from suite.specs.source_table import SOURCES

    classes = _classes(data)
    if len(classes) < 2:
        raise UserError(f"--data {data}: has {len(classes)} classes; expected two or more")
    name = data.resolve().name
    values = {
        "name: my-images": f"name: {json.dumps(f'{name} (folder)' if name in SOURCES else name)}",
        "path: ???": f"path: {json.dumps(str(data.resolve()))}",
        "num_classes: ???": f"num_classes: {len(classes)}",
    }
    for placeholder, value in values.items():
        text = text.replace(placeholder, value)
    return text
