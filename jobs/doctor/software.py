"""The sources, the interpreter and the packages of the jobs, on each node."""

import importlib
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, version

from jobs.doctor.finding import Answer, Case, Request, Topic, Verdict, by_text

# By the name for pip; the import name where it is another.
PACKAGES = {"torch": "", "torchvision": "", "nvidia-dali-cuda130": "nvidia.dali", "nvidia-ml-py": "pynvml"}
PACKAGES |= dict.fromkeys(["psutil", "numpy", "pydantic", "omegaconf", "submitit"], "")
COMPARED = ("torch", "torchvision", "nvidia-dali-cuda130")
JOBS_FOLDER = "set jobs_folder: in the cluster's file to a folder that this machine and all nodes share"


def probe_packages(request: Request, earlier: Mapping[str, Answer]) -> Answer:
    """The version of each package once imported, or why it cannot be imported."""
    versions, errors, absent = {}, {}, list[str]()
    for package, name in ((package, name or package) for package, name in PACKAGES.items()):
        try:
            versions[package] = str(getattr(importlib.import_module(name), "__version__", "unknown"))
        except Exception as error:  # a broken library can raise anything on import
            if isinstance(error, ModuleNotFoundError) and name.startswith(str(error.name)):
                absent.append(package)
            else:
                errors[package] = f"{type(error).__name__}: {error}"[:200]
    return {"versions": versions, "errors": errors, "absent": absent}


def unusable(answers: Mapping[str, Answer]) -> set[str]:
    """The packages that a node cannot import."""
    packages = answers["packages"]
    return {*packages.get("errors", {}), *packages.get("absent", [])}


def probe_versions_here(case: Case) -> Answer:
    """The versions that are installed on the login machine."""
    found = {}
    for name in COMPARED:
        with suppress(PackageNotFoundError):
            found[name] = version(name)
    return found


def _jobs_folder(case: Case) -> Iterator[Verdict]:
    snapshot = case.request.snapshot
    if blind := case.faults("start", lambda a: "" if a.get("code") else f"{snapshot} does not exist there"):
        yield "problem", blind, JOBS_FOLDER
    else:
        yield "ok", "every node reads it"


def _python(case: Case) -> Iterator[Verdict]:
    """Whether every node has the interpreter, and finished its probes.

    The nodes' shell gives the answer `start` before any Python runs; see `jobs.doctor.nodes.program`.
    """
    python, key = case.request.python, _key_of_python(case)
    if bare := case.faults("start", lambda answer: "" if answer.get("python") else f"there is no {python}"):
        where = "the nodes have, or load it by setup:"
        if key == "container.python":
            where = "the image has"
        yield "problem", bare, f"set {key}: in the cluster's file to an interpreter that {where}"
    if cut := by_text(
        (node.name, f"its checks ended after `{list(node.answers)[-1]}`")
        for node in case.nodes
        if "end" not in node.answers
        and all(node.answers.get("start", {}).get(key, 1) for key in ("code", "runtime", "python"))
    ):
        fix = f"set {key}: in the cluster's file to Python 3.11 or newer with shiftbench's packages"
        yield "problem", f"{cut}: {case.message or 'no error message'}", fix


def _key_of_python(case: Case) -> str:
    """The key of the cluster's file that chooses the interpreter."""
    in_container = case.cluster.scheduler == "slurm" and case.cluster.container is not None
    return "container.python" if in_container else "python"


def _packages(case: Case) -> Iterator[Verdict]:
    install = f"`{case.request.python} -m pip install -r requirements.txt`"
    if missing := case.faults("packages", _missing):
        fix = f"{install}, or set python: in the cluster's file to an interpreter that has them"
        if _key_of_python(case) == "container.python":
            files = "containers/shiftbench.def or containers/Dockerfile"
            fix = f"install them in the image, or build one from {files}"
        yield "problem", missing, fix
        return
    found = {name: answer["versions"] for name, answer in case.answers("packages").items()}
    if not found:
        return
    there, here = next(iter(found.values())), case.here["versions here"]
    if _key_of_python(case) == "container.python":
        here = {}  # an image's versions are its own
    differing = [name for name in COMPARED if len({one.get(name) for one in found.values()}) > 1]
    others = [name for name in here if name in there and _release(there[name]) != _release(here[name])]
    if differing:
        fix = f"set python: in the cluster's file to one on a shared folder; or {install} on each node"
        yield "problem", by_text((node, _listed(one, differing)) for node, one in found.items()), fix
    elif others:
        fix = "use the same versions: remove python: from the cluster's file, or upgrade the older ones"
        yield "warning", f"{_listed(there, others)} on the nodes, but {_listed(here, others)} here", fix
    else:
        yield "ok", f"{_listed(there, COMPARED)}, the same on every node"


def _missing(answer: Answer) -> str:
    absent = ", ".join(answer.get("absent", []))
    broken = [f"{name}: {text}" for name, text in answer.get("errors", {}).items()]
    return "; ".join([*([f"{absent} not installed"] if absent else []), *broken])


def _listed(versions: Mapping[str, str], names: Iterable[str]) -> str:
    return ", ".join(f"{name} {versions[name]}" for name in names if name in versions)


def _release(text: str) -> str:
    return text.partition("+")[0]  # `2.15.0+cu130` names the build after the plus


START = Topic({"jobs folder": _jobs_folder, "python": _python})
HERE = {"versions here": probe_versions_here}
TOPIC = Topic({"packages": _packages}, HERE, on_nodes={"packages": probe_packages})
