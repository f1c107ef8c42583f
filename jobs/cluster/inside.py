"""What a job's tasks see inside their container: folders at the same paths, and variables."""

import os
import shlex
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from jobs.cluster.container import ContainerSpec, Mount
from jobs.cluster.shell import shell_word
from jobs.cluster.slurm_cluster import SlurmCluster
from suite.errors import UserError
from suite.experiment import DetectionSpec, Run
from suite.paths import cache_home, data_home, index_home
from suite.provenance import IMAGE_VARIABLE
from suite.specs.loader_table import LOADERS
from suite.specs.source_table import SOURCES
from suite.specs.task import TORCHVISION
from suite.user import expand_home


@dataclass(frozen=True)
class Inside:
    """The inside of a job's container.

    `snapshot`: the sources that its tasks import. `variables`: further ones, with paths. `folders`: those
    that are mounted and may not exist yet.
    """

    container: ContainerSpec
    workdir: Path
    snapshot: Path
    mounts: tuple[Mount, ...] = ()
    variables: dict[str, str] = field(default_factory=dict)
    folders: tuple[Path, ...] = ()

    def command(self, cluster: SlurmCluster, module: str, *arguments: str) -> str:
        """Return the end of srun's command line: what starts the container, and a module that runs inside."""
        words = [*self.options(cluster), self.python(cluster), "-u", "-m", module]
        return " ".join([*words, *map(shlex.quote, arguments)])

    def options(self, cluster: SlurmCluster) -> list[str]:
        """Return what stands between srun's options and the command inside, quoted for a shell."""
        return self.container.words(self.mounts, self.workdir, cluster.has_gpus)

    def python(self, cluster: SlurmCluster) -> str:
        """Return the image's interpreter, for a shell, with variables that neither image nor host decides.

        An image's value would precede that of the cluster's file; and a module's PYTHONPATH, or the packages
        in home, are for another Python. `env` has an absolute path, because srun looks for it outside.
        """
        paths = [str(self.snapshot), cluster.environment.get("PYTHONPATH", "")]
        variables = {
            "PYTHONNOUSERSITE": "1",
            **{name: f'"${name}"' for name in cluster.variables},
            "PYTHONPATH": shlex.quote(os.pathsep.join(filter(None, paths))),
            "PYTHONSAFEPATH": "1",
            IMAGE_VARIABLE: self.container.image_word(),
            **{name: shlex.quote(value) for name, value in self.variables.items()},
        }
        words = [
            "/usr/bin/env",
            "-u",
            "PYTHONHOME",
            *(f"{name}={value}" for name, value in variables.items()),
        ]
        return " ".join([*words, shlex.quote(self.container.python)])


def inside_of(
    cluster: SlurmCluster, runs: Iterable[Run], folders: Sequence[Path], workdir: Path, snapshot: Path
) -> Inside | None:
    """Return the inside of a job's container; None for a cluster without one.

    It has the mounts of the cluster's file, `folders`, `snapshot`, what the runs read, and where they stage
    data. `workdir` is the folder to start in, unless a path of the runs is relative to this process's.
    Raises UserError for an image that is missing, as far as this machine can tell, and for a path that cannot
    be mounted.
    """
    container = cluster.container
    if container is None:
        return None
    wanted = _Wanted(cluster.environment)
    for path in (*folders, snapshot):
        wanted.places.append(_Place(str(path), is_literal=True))
    for run in runs:
        wanted.add(run)
    cluster.check_image()
    try:
        mounts = (*map(container.mount, container.mounts), *_mounts(container, wanted.places))
    except ValueError as error:
        raise UserError(f"cluster {cluster.name}: container.{error}") from None
    start = Path.cwd() if wanted.has_relative else workdir
    return Inside(container, start, snapshot, mounts, wanted.variables, tuple(wanted.folders))


@dataclass(frozen=True)
class _Place:
    """An absolute path to mount. `is_literal`: a `$` in it is no variable's."""

    text: str
    is_read_only: bool = False
    is_literal: bool = False


class _Wanted:
    """The paths that runs need, and variables with some of them. `given`: those of the cluster's file."""

    def __init__(self, given: Mapping[str, str]) -> None:
        self._given = given
        self.places: list[_Place] = []
        self.variables: dict[str, str] = {}
        self.folders: list[Path] = []
        self.has_relative = False

    def add(self, run: Run) -> None:
        """Add what a run reads, and where it stages a pack."""
        if run.data.path is not None:
            self.places.append(_Place(self._absolute(run.data.path, "data.path"), is_read_only=True))
        elif not SOURCES[run.data.name].generator and (prepared := data_home()) is not None:
            self._add_cache(prepared, "SHIFTBENCH_DATA_DIR")
        if run.data.path is not None and run.task.entry.layout == "folders":
            self._add_lists(run)
        if run.data.stage is not None:
            self.places.append(_Place(self._absolute(run.data.stage, "data.stage")))
        weights = run.task.backbone_from if isinstance(run.task, DetectionSpec) else None
        if weights is not None and not weights.startswith(TORCHVISION):
            self.places.append(_Place(self._absolute(weights, "task.backbone_from"), is_read_only=True))
        elif weights is not None and (cache := cache_home()) is not None:
            self._add_cache(Path(os.environ.get("TORCH_HOME", cache / "torch")), "TORCH_HOME")

    def _add_lists(self, run: Run) -> None:
        """Add where the list of a folder's files is kept, or each container lists them anew."""
        home, lists = data_home(), index_home()
        is_given = "SHIFTBENCH_DATA_DIR" in self._given
        if home is not None and lists is not None and LOADERS[run.data.loader].lists_files and not is_given:
            self._add_cache(lists, "SHIFTBENCH_DATA_DIR", home)

    def _add_cache(self, folder: Path, variable: str, named: Path | None = None) -> None:
        """Add a folder that is in home, which a container may not have, and the variable that names it.

        `named`: what the variable names instead, a folder above.
        """
        self.variables[variable] = str((named or folder).absolute())
        self.folders.append(folder.absolute())
        self.places.append(_Place(str(folder.absolute()), is_literal=True))

    def _absolute(self, text: str, key: str) -> str:
        if text.startswith(("/", "~", "$")):
            return expand_home(text, key)
        self.has_relative = True
        return str(Path.cwd() / text)


def _mounts(container: ContainerSpec, places: Iterable[_Place]) -> Iterator[Mount]:
    """Yield a mount for each place that no other one contains. Raises ValueError for an impossible one."""
    seen: dict[str, bool] = {}  # whether a path is read-only that is the same inside and outside
    for text in container.mounts:
        source, target = text.removesuffix(":ro").split(":")
        if source == target:
            seen[source] = text.endswith(":ro")
    for place in places:
        above = [str(path) for path in (Path(place.text), *Path(place.text).parents)]
        if any(path in seen and (place.is_read_only or not seen[path]) for path in above):
            continue
        container.check_mountable(place.text)
        seen[place.text] = place.is_read_only
        word = shlex.quote(place.text) if place.is_literal else shell_word(place.text)
        yield Mount(word, word, place.is_read_only)
