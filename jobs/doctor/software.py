"""The nodes' answers about packages, GPUs and decoding, judged."""

from collections.abc import Iterator, Sequence
from importlib.metadata import PackageNotFoundError, version

from jobs.doctor.answers import Answer, by_text, each, error_of
from jobs.doctor.finding import Finding, ok, problem, unknown, warning
from jobs.doctor.nodes import Node

COMPARED = ("torch", "torchvision", "nvidia-dali-cuda130")
ONE_PYTHON = "python: in the cluster's file, one interpreter on a shared folder"


def packages(nodes: Sequence[Node], python: str) -> Iterator[Finding]:
    """Whether all is installed, and the same everywhere."""
    install = f"`{python} -m pip install -r requirements.txt`"
    if missing := each(nodes, "packages", _missing):
        mend = f"{install}, or python: in the cluster's file, an interpreter that has them"
        yield problem("packages", by_text(missing), mend)
        return
    found = {node.name: node.answers["packages"]["versions"] for node in nodes if "packages" in node.answers}
    if not found:
        return
    differing = [name for name in COMPARED if len({one.get(name) for one in found.values()}) > 1]
    if differing:
        text = by_text((node, _listed(one, differing)) for node, one in found.items())
        yield problem("packages", text, f"{ONE_PYTHON}; or {install} on each node")
        return
    there: dict[str, str] = next(iter(found.values()))
    here = {name: one for name in COMPARED if (one := _version_here(name)) is not None}
    others = [name for name in here if name in there and _plain(there[name]) != _plain(here[name])]
    if others:
        yield warning(
            "packages",
            f"{_listed(there, others)} on the nodes, but {_listed(here, others)} here",
            "the same versions for both, so that what is tried here is what runs there: leave python: out of "
            "the cluster's file, or upgrade the older",
        )
    else:
        yield ok("packages", f"{_listed(there, COMPARED)}, the same on every node")


def _missing(answer: Answer) -> str:
    absent = ", ".join(answer.get("absent", []))
    broken = [f"{name}: {text}" for name, text in answer.get("errors", {}).items()]
    return error_of(answer) or "; ".join([*([f"{absent} not installed"] if absent else []), *broken])


def _listed(versions: dict[str, str], names: Sequence[str]) -> str:
    return ", ".join(f"{name} {versions[name]}" for name in names if name in versions)


def _version_here(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def _plain(text: str) -> str:
    return text.partition("+")[0]  # `2.15.0+cu130` is the build's


def gpus(nodes: Sequence[Node], wanted: int | None) -> Iterator[Finding]:
    """Whether a job sees the GPUs that it asks for, and they compute."""
    check = "GPUs"
    answers = {node.name: node.answers["gpus"] for node in nodes if "gpus" in node.answers}
    if wanted and not answers:
        yield unknown(check, "not looked at: torch could not be imported", "see `packages`")
        return
    if not wanted and not any(answer.get("count") for answer in answers.values()):
        yield ok(check, "no GPUs asked for")
        return
    if errors := each(nodes, "gpus", error_of):
        yield problem(
            check,
            by_text(errors),
            "a driver on the nodes that serves this build of torch (`nvidia-smi` there tells up to which "
            "CUDA), and gres.conf with the GPUs' files (the admin's)",
        )
        return
    counts = each(nodes, "gpus", lambda a: _miscount(a, wanted))
    if counts:
        mend = "gpus_per_node: in the cluster's file, what the nodes have; else gres.conf (the admin's)"
        yield problem(check, by_text(counts), mend)
    faults = each(nodes, "gpus", lambda a: "; ".join(f"GPU {i}: {t}" for i, t in a.get("faults", {}).items()))
    if faults:
        names = ",".join(node for node, _ in faults)
        mend = f"exclude: {names} in the cluster's file, and tell the admin (`dmesg | grep Xid` there)"
        yield problem(check, by_text(faults), mend)
    kinds = {name: _described(answer) for name, answer in answers.items()}
    if len(set(kinds.values())) > 1:
        mend = (
            "constraint: in the cluster's file, for nodes of one kind; speeds of unlike ones do not compare"
        )
        yield warning(check, by_text(kinds.items()), mend)
    elif not counts and not faults:
        yield ok(check, "; ".join(dict.fromkeys(kinds.values())))


def _miscount(answer: Answer, wanted: int | None) -> str:
    count = answer.get("count", 0)
    return "" if wanted in (None, count) else f"{count} GPUs instead of {wanted}"


def _described(answer: Answer) -> str:
    models = ", ".join(answer.get("names", [])) or "none"
    return f"{models}, driver {answer.get('driver') or 'unknown'}, NCCL {answer.get('nccl') or 'unknown'}"


def decoding(nodes: Sequence[Node]) -> Iterator[Finding]:
    """Whether DALI decodes."""
    if faults := each(nodes, "decode", _undecoded):
        yield problem(
            "DALI",
            by_text(faults),
            "data: {loader: torchvision} in the experiment until DALI's wheel and the driver fit each other",
        )
    elif not any("decode" in node.answers for node in nodes):
        yield unknown("DALI", "not looked at: it could not be imported", "see `packages`")
    elif devices := sorted({device for node in nodes for device in node.answers.get("decode", {})}):
        where = " and ".join({"cpu": "CPUs", "mixed": "GPUs"}[device] for device in devices)
        yield ok("DALI", f"decodes a JPEG on the {where} of every node")


def _undecoded(answer: Answer) -> str:
    return error_of(answer) or "; ".join(f"{device}: {text}" for device, text in answer.items() if text)
