"""Containers in which a Slurm cluster's jobs run: the keys of `container:`, and the table of runtimes."""

import re
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from pydantic import Field, field_validator, model_validator

from jobs.cluster.in_image import IMAGE_FAULT
from jobs.cluster.shell import shell_word
from suite.errors import UserError
from suite.specs.base import Spec
from suite.specs.choice import described
from suite.user import expand_home, expand_path
from suite.wording import shown

IS_LOCAL = re.compile(r"[/~$]")
OWN_FILES = "containers/shiftbench.def or containers/Dockerfile"


@dataclass(frozen=True)
class Mount:
    """A folder or file that a container sees. `source` and `target` are quoted for a shell."""

    source: str
    target: str
    is_read_only: bool = False

    def __str__(self) -> str:
        return f"{self.source}:{self.target}{':ro' if self.is_read_only else ''}"


@dataclass(frozen=True)
class Runtime:
    """A program that starts containers.

    `options`: the words before the command, in which the names in braces are replaced by texts that are
    quoted for a shell. `forbidden`: characters that no mounted path may have. `registry`: how an image of a
    registry is named; `example`: one such name. `program`: what must be on a node's PATH. `srun_option`: one
    that srun must know, if the words are options of srun.
    """

    meaning: str
    options: tuple[str, ...]
    forbidden: str
    registry: re.Pattern[str]
    example: str
    program: str | None = None
    srun_option: str | None = None


RUNTIMES = {
    "pyxis": Runtime(
        "NVIDIA's plugin of srun",
        (
            "--container-image={image}",
            "--container-mounts={mounts}",
            "--container-workdir={workdir}",
            # Home may hold another Python's packages; the image's user and entry point are for other uses.
            "--no-container-mount-home",
            "--no-container-remap-root",
            "--no-container-entrypoint",
        ),
        forbidden=" \t:,",
        registry=re.compile(r"(?!\.)(?!.*\.(sqsh|squashfs)$).+"),
        example="nvcr.io#nvidia/pytorch:26.10-py3",
        srun_option="--container-image",
    ),
    "apptainer": Runtime(
        "Apptainer, which was Singularity",
        ("apptainer", "exec", "{gpus}", "--bind", "{mounts}", "--pwd", "{workdir}", "{image}"),
        forbidden=":,",
        registry=re.compile(r"[a-z]+://.+"),
        example="docker://pytorch/pytorch:2.11.0-cuda13.0-cudnn9-runtime",
        program="apptainer",
    ),
}
GPUS = {"nvidia": "--nv", "amd": "--rocm"}
"""By which option Apptainer shows a maker's GPUs. Under Pyxis the image's own variables decide."""
if TYPE_CHECKING:
    RuntimeName = str
    GpuMaker = str
else:
    RuntimeName = Literal[tuple(RUNTIMES)]
    GpuMaker = Literal[tuple(GPUS)]


class ContainerSpec(Spec):
    """The image that a cluster's jobs run in. Their sources are those of the job's snapshot."""

    image: str = Field(
        description="a file or folder by a path that begins with /, ~ or $NAME, or a registry's image"
    )
    runtime: RuntimeName = Field(description=described(RUNTIMES))
    mounts: tuple[str, ...] = Field(
        (), description="SRC:DST or SRC:DST:ro, beside those of the runs, their data and the jobs' files"
    )
    python: str = Field(
        "python3", min_length=1, description="the image's interpreter, with shiftbench's packages"
    )
    gpus: GpuMaker = Field(
        "nvidia", description="whose GPUs apptainer shows, where the cluster's file asks for some"
    )

    @field_validator("mounts")
    @classmethod
    def _mounts_of_paths(cls, mounts: tuple[str, ...]) -> tuple[str, ...]:
        for mount in mounts:
            paths = mount.removesuffix(":ro").split(":")
            if len(paths) != 2 or not all(re.match(r"/|\$\w|\$\{\w+\}", path) for path in paths):
                form = "SRC:DST or SRC:DST:ro with paths that begin with / or $NAME"
                raise ValueError(f"expected {form}, got {shown(mount)}")
        return mounts

    @model_validator(mode="after")
    def _check(self) -> "ContainerSpec":
        for text in (self.image, self.python, *self.mounts):
            if "\n" in text or "\0" in text:
                raise ValueError(f"{text!r:.60} must be one line")
        runtime = RUNTIMES[self.runtime]
        if not self.is_local and runtime.registry.fullmatch(self.image) is None:
            wanted = f"a path that begins with /, ~ or $NAME, or a registry's image such as {runtime.example}"
            raise ValueError(f"image: expected {wanted}, got {shown(self.image)}")
        for mount in self.mounts:
            for path in mount.removesuffix(":ro").split(":"):
                self.check_mountable(path)
        return self

    @property
    def is_local(self) -> bool:
        """Whether the image is a file or folder, and not a registry's."""
        return IS_LOCAL.match(self.image) is not None

    def check_mountable(self, path: str) -> None:
        """Raise ValueError for a path that the runtime cannot be told."""
        if wrong := set(RUNTIMES[self.runtime].forbidden) & set(path):
            character = "a blank" if " " in wrong else repr(min(wrong))
            raise ValueError(
                f"mounts: {self.runtime} cannot mount a path with {character}, got {shown(path)}"
            )

    @property
    def unchecked(self) -> str | None:
        """Why this machine cannot tell whether there is such an image; None if it can."""
        if not self.is_local:
            return "a registry's image"
        try:
            expand_path(self.image, "container.image")
        except UserError as error:  # a variable that the job's own shell may have
            return str(error)
        return None

    def missing(self) -> str | None:
        """Return where the image should be, if this machine can tell that it is not there."""
        if self.unchecked is not None or (path := expand_path(self.image, "container.image")).exists():
            return None
        return f"container.image: {path} does not exist"

    def image_word(self) -> str:
        """Return the image, quoted for a shell. Raises UserError for a home that is not known here."""
        if not self.is_local:
            return shlex.quote(self.image)
        return shell_word(expand_home(self.image, "container.image"))

    def mount(self, text: str) -> Mount:
        """Return a mount of the cluster's file."""
        source, target = map(shell_word, text.removesuffix(":ro").split(":"))
        return Mount(source, target, text.endswith(":ro"))

    def words(self, mounts: Sequence[Mount], workdir: Path, has_gpus: bool) -> list[str]:
        """Return what stands between srun's options and the command inside, quoted for a shell.

        `mounts` are sorted, so that no mount hides one that lies in it. How deep a target lies that begins
        with a variable only the job knows; those come last, because data are staged there.
        """
        values = {
            "image": self.image_word(),
            "mounts": ",".join(map(str, sorted(mounts, key=_depth))),
            "workdir": shlex.quote(str(workdir)),
            "gpus": GPUS[self.gpus] if has_gpus else "",
        }
        return list(filter(None, (option.format_map(values) for option in RUNTIMES[self.runtime].options)))


def _depth(mount: Mount) -> tuple[bool, int]:
    return mount.target.startswith('"$'), mount.target.count("/")


_FAULT = re.compile(rf"{IMAGE_FAULT}|FATAL: |srun: unrecognized option")
_OF_PYXIS = re.compile(r"slurmstepd(?:-\S+)?: error: pyxis: (?P<said>.*)")
_NO_CAUSE = re.compile(r"(child \d+|container start) failed with |printing |\s*(\[(INFO|WARN)\]|$)")


def why_not_started(errors: Sequence[str]) -> str | None:
    """Return why a container did not start, by lines of its job's errors; None if they do not say it.

    Pyxis has the cause in the log of Enroot, which it indents, amid sentences that fit any fault.
    """
    if (own := next(filter(_FAULT.match, errors), None)) is not None:
        return own
    said = [match["said"] for line in errors if (match := _OF_PYXIS.match(line))]
    causes = [text for text in said if not _NO_CAUSE.match(text)]
    # A hook's own message comes before that of its failure; each rank says the same.
    logged = list(dict.fromkeys(text.strip() for text in causes if text.startswith((" ", "["))))[-2:]
    shown = logged or causes[:1] or said[:1]
    return f"pyxis: {'; '.join(shown)}" if shown else None
