"""The nodes' answers about packages, GPUs and decoding, judged."""

from collections.abc import Iterator, Sequence
from importlib.metadata import PackageNotFoundError, version

from jobs.doctor.finding import Finding, ok, problem, warning
from jobs.doctor.judge import by_text, each, error_of
from jobs.doctor.nodes import Node

COMPARED = ("torch", "torchvision", "nvidia-dali-cuda130")


def packages(nodes: Sequence[Node], python: str) -> Iterator[Finding]:
    """Whether all is installed, and the same everywhere."""
    install = f"{python} -m pip install 'shiftbench[train]'"
    missing = each(
        nodes,
        "packages",
        lambda a: "; ".join(f"{name}: {text}" for name, text in sorted(dict(a.get("errors", {})).items())),  # type: ignore[call-overload]
    )
    if missing:
        mend = f"`{install}` where the nodes see it, or python: in the cluster's file, an interpreter that has them"
        yield problem("packages", by_text(missing), mend)
        return
    found = {n.name: dict(n.answers["packages"]["versions"]) for n in nodes if "packages" in n.answers}
    if not found:
        return
    differing = [name for name in COMPARED if len({one.get(name) for one in found.values()}) > 1]
    if differing:
        text = by_text(
            (node, ", ".join(f"{name} {one.get(name)}" for name in differing)) for node, one in found.items()
        )
        mend = f"one environment for all nodes: python: in the cluster's file on a shared folder, or `{install}` on each"
        yield problem("packages", text, mend)
        return
    first = next(iter(found.values()))
    text = ", ".join(f"{name} {first[name]}" for name in COMPARED if name in first)
    here = {name: one for name in COMPARED if (one := _version_here(name)) is not None}
    other = [name for name in here if name in first and _plain(first[name]) != _plain(here[name])]
    if other:
        yield warning(
            "packages",
            f"{text} on the nodes, but here {', '.join(f'{name} {here[name]}' for name in other)}",
            "python: in the cluster's file names another interpreter than this one: leave it out, or bring both "
            "to the same versions, so that what is tried here is what runs there",
        )
    else:
        yield ok("packages", f"{text}, the same on every node")


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
    if not wanted and not any(n.answers.get("gpus", {}).get("count") for n in nodes):
        yield ok(check, "no GPUs asked for")
        return
    if errors := each(nodes, "gpus", error_of):
        yield problem(
            check,
            by_text(errors),
            "a driver on the nodes that serves this build of torch (`nvidia-smi`), or gres.conf with the GPUs' "
            "files (the admin's)",
        )
        return
    counts = each(
        nodes,
        "gpus",
        lambda a: "" if wanted in (None, a.get("count")) else f"{a.get('count')} instead of {wanted}",
    )
    if counts:
        mend = "gpus_per_node: in the cluster's file, what the nodes have; else GresTypes=gpu and gres.conf (the admin's)"
        yield problem(check, by_text(counts), mend)
    faults = each(
        nodes, "gpus", lambda a: "; ".join(f"GPU {i}: {t}" for i, t in dict(a.get("faults", {})).items())
    )  # type: ignore[call-overload]
    if faults:
        names = ",".join(node for node, _ in faults)
        mend = f"exclude: {names} in the cluster's file, and tell the admin (`nvidia-smi -q`, `dmesg | grep Xid`)"
        yield problem(check, by_text(faults), mend)
    kinds = {
        (n.answers["gpus"].get("driver"), n.answers["gpus"].get("nccl")) for n in nodes if "gpus" in n.answers
    }
    described = ", ".join(
        f"driver {driver or '?'} with NCCL {nccl or '?'}" for driver, nccl in sorted(kinds, key=str)
    )
    models = sorted({name for n in nodes for name in n.answers.get("gpus", {}).get("names", [])})
    if len(kinds) > 1 or len(models) > 1:
        mend = (
            "constraint: in the cluster's file, for nodes of one kind: speeds of unlike ones are not compared"
        )
        yield warning(check, f"nodes differ: {', '.join(models)}; {described}", mend)
    elif not counts and not faults:
        yield ok(check, f"{wanted or 'some'} on every node: {', '.join(models)}; {described}")


def decoding(nodes: Sequence[Node]) -> Iterator[Finding]:
    """Whether DALI decodes."""
    faults = each(
        nodes,
        "decode",
        lambda a: error_of(a) or "; ".join(f"{device}: {text}" for device, text in a.items() if text),
    )
    if faults:
        mend = "system: {device: cpu} or data: {loader: torchvision} in the experiment until DALI's wheel fits the driver"
        yield problem("DALI", by_text(faults), mend)
    elif devices := sorted({device for n in nodes for device in n.answers.get("decode", {})}):
        where = " and ".join({"cpu": "CPUs", "mixed": "GPUs"}.get(d, d) for d in devices)
        yield ok("DALI", f"decodes a JPEG on {where} of every node")


def together(nodes: Sequence[Node]) -> Iterator[Finding]:
    """Whether the ranks' group forms and sums."""
    answered = [n.answers["together"] for n in nodes if n.answers.get("together")]
    if len(nodes) < 2 or not answered:
        return
    if faults := each(nodes, "together", error_of):
        yield problem(
            "process group",
            by_text(faults),
            "environment: {GLOO_SOCKET_IFNAME: eth0, NCCL_SOCKET_IFNAME: eth0} in the cluster's file, with the "
            "interface that joins the nodes (`ip route` there); a firewall must let them talk on all ports",
        )
    else:
        yield ok("process group", f"{len(nodes)} nodes sum over {answered[0].get('backend', 'gloo')}")
