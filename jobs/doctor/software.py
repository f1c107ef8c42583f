"""The sources, the interpreter and the packages of the jobs, on each node."""

import importlib
from collections.abc import Iterator, Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version

from jobs.doctor.finding import (
    Answer,
    Case,
    Finding,
    Request,
    Topic,
    by_text,
    error_of,
    ok,
    problem,
    warning,
)

# Import name, and the name for pip.
PACKAGES = {
    "torch": "torch",
    "torchvision": "torchvision",
    "nvidia.dali": "nvidia-dali-cuda130",
    "pynvml": "nvidia-ml-py",
    "psutil": "psutil",
    "numpy": "numpy",
    "pydantic": "pydantic",
    "omegaconf": "omegaconf",
    "submitit": "submitit",
}
COMPARED = ("torch", "torchvision", "nvidia-dali-cuda130")
JOBS_FOLDER = "set jobs_folder: in the cluster's file to a folder that this machine and all nodes share"


def judge_start(case: Case) -> Iterator[Finding]:
    """Whether every node has the sources and the interpreter, and finished its probes.

    The nodes' shell gives the answer `start` before any Python runs; see `jobs.doctor.nodes.program`.
    """
    python, snapshot = case.request.python, case.request.snapshot
    blind = case.faults("start", lambda a: "" if a.get("code") else f"{snapshot} does not exist there")
    if blind:
        yield problem("jobs folder", by_text(blind), JOBS_FOLDER)
    else:
        yield ok("jobs folder", "every node reads it")
    bare = case.faults("start", lambda a: "" if a.get("python") else f"there is no {python}")
    if bare:
        yield problem(
            "python",
            by_text(bare),
            "set python: in the cluster's file to an interpreter that the nodes have, or load it by setup:",
        )
    excused = {name for name, _ in [*blind, *bare]}
    cut = [node for node in case.nodes if "end" not in node.answers and node.name not in excused]
    if cut:
        reached = by_text((node.name, f"its checks ended after `{list(node.answers)[-1]}`") for node in cut)
        yield problem(
            "python",
            f"{reached}: {case.message or 'no error message'}",
            "set python: in the cluster's file to Python 3.11 or newer with shiftbench's packages; see its "
            "message",
        )


def probe_packages(request: Request, earlier: Mapping[str, Answer]) -> Answer:
    """The version of each package once imported, or why it cannot be imported."""
    versions, errors, absent = {}, {}, list[str]()
    for name, package in PACKAGES.items():
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
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def judge_packages(case: Case) -> Iterator[Finding]:
    """Whether all packages are installed, and the same everywhere."""
    python = case.request.python
    install = f"`{python} -m pip install -r requirements.txt`"
    if missing := case.faults("packages", _missing):
        fix = f"{install}, or set python: in the cluster's file to an interpreter that has them"
        yield problem("packages", by_text(missing), fix)
        return
    found = {name: answer["versions"] for name, answer in case.answers("packages").items()}
    if not found:
        return
    differing = [name for name in COMPARED if len({one.get(name) for one in found.values()}) > 1]
    if differing:
        text = by_text((node, _listed(one, differing)) for node, one in found.items())
        fix = f"set python: in the cluster's file to one on a shared folder; or {install} on each node"
        yield problem("packages", text, fix)
        return
    there: dict[str, str] = next(iter(found.values()))
    here = case.here["versions here"]
    others = [name for name in here if name in there and _release(there[name]) != _release(here[name])]
    if others:
        yield warning(
            "packages",
            f"{_listed(there, others)} on the nodes, but {_listed(here, others)} here",
            "use the same versions, so that what you try here is what runs there: remove python: from the "
            "cluster's file, or upgrade the older ones",
        )
    else:
        yield ok("packages", f"{_listed(there, COMPARED)}, the same on every node")


def _missing(answer: Answer) -> str:
    absent = ", ".join(answer.get("absent", []))
    broken = [f"{name}: {text}" for name, text in answer.get("errors", {}).items()]
    return error_of(answer) or "; ".join([*([f"{absent} not installed"] if absent else []), *broken])


def _listed(versions: Mapping[str, str], names: Sequence[str]) -> str:
    return ", ".join(f"{name} {versions[name]}" for name in names if name in versions)


def _release(text: str) -> str:
    return text.partition("+")[0]  # `2.15.0+cu130` names the build after the plus


START = Topic("nodes", judge_start)
TOPIC = Topic(
    "nodes",
    judge_packages,
    here={"versions here": probe_versions_here},
    on_nodes={"packages": probe_packages},
)
