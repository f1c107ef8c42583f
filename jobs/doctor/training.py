"""What training does on each node, in small: compute on the GPUs, decode a picture, sum over all nodes."""

import contextlib
import os
from collections.abc import Callable, Iterator, Mapping
from functools import partial

from jobs.doctor.finding import Answer, Case, Request, Topic, Verdict, by_text
from jobs.doctor.network import ONE_NODE
from jobs.doctor.software import unusable

# For the slowest node: it may import torch from a cold file system, or share its cores.
TIMEOUT_S = 240.0


def probe_gpus(request: Request, earlier: Mapping[str, Answer]) -> Answer | None:
    """The GPUs that a job's process sees, whether they compute, and the versions of driver and libraries."""
    if "torch" in unusable(earlier):
        return None
    import torch

    count = torch.cuda.device_count()
    answer: Answer = {"driver": _driver(), "count": count}
    if not count:
        fault = _fault(torch.cuda.init)
        return answer | ({"error": fault} if fault else {})

    def compute(index: int) -> None:
        if float(torch.ones(1000, device=f"cuda:{index}").sum()) != 1000:
            raise ArithmeticError("the sum of a thousand ones is wrong")

    faults = {str(index): _fault(partial(compute, index)) for index in range(count)}
    answer["faults"] = {index: text for index, text in faults.items() if text}
    answer["names"] = sorted({torch.cuda.get_device_name(index) for index in range(count)})
    with contextlib.suppress(Exception):  # a build without NCCL
        version = torch.cuda.nccl.version()  # type: ignore[no-untyped-call]
        answer["nccl"] = ".".join(map(str, version))
    return answer


def _fault(action: Callable[[], object]) -> str | None:
    """Return the first line of the error that `action` raises, or None."""
    try:
        action()
    except Exception as error:
        return f"{type(error).__name__}: {error}".split("\n")[0][:200]
    return None


def _driver() -> str:
    """The driver's version; empty where NVML or its Python package is missing, which `packages` reports."""
    try:
        import pynvml

        pynvml.nvmlInit()
        return str(pynvml.nvmlSystemGetDriverVersion())
    except Exception:  # ImportError, or any of NVML's errors
        return ""


def probe_decode(request: Request, earlier: Mapping[str, Answer]) -> Answer | None:
    """Read a photograph by the loader that trains, on the CPU and, where there is one, on the GPU."""
    if unusable(earlier) & {"torch", "torchvision", "nvidia-dali-cuda130"}:
        return None
    import torch

    from jobs.doctor.decoding import check_decoding

    devices = {"cpu": torch.device("cpu")}
    if torch.cuda.is_available():
        devices["mixed"] = torch.device("cuda", 0)
    return {name: _fault(partial(check_decoding, device)) for name, device in devices.items()}


def probe_group(request: Request, earlier: Mapping[str, Answer]) -> Answer | None:
    """Sum over all nodes in the process group that training would form, if all of them are reachable."""
    if unusable(earlier) or not earlier["connection"].get("complete"):
        return None
    import torch

    from suite.launch import launch_variables
    from suite.specs.process import SystemSpec
    from suite.train.distributed import joined

    if not launch_variables(os.environ):
        return {}
    with joined(SystemSpec(collective_timeout_s=TIMEOUT_S)) as ranks:
        expected = ranks.world_size * (ranks.world_size - 1) / 2
        sums = [float(ranks.sum(torch.tensor(float(ranks.rank))))]
        if ranks.device.type == "cuda":
            sums.append(float(ranks.sum(torch.tensor(float(ranks.rank), device=ranks.device))))
    answer: Answer = {"backend": "gloo and NCCL" if len(sums) == 2 else "gloo"}
    if any(one != expected for one in sums):
        answer["error"] = f"the ranks' numbers sum to {sums} instead of {expected}"
    return answer


def _gpus(case: Case) -> Iterator[Verdict]:
    answers = case.answers("gpus")
    wanted = case.slurm.num_gpus if case.cluster.scheduler == "slurm" else None
    if wanted and not answers:
        yield "unknown", "not checked: torch could not be imported", "see `packages`"
        return
    if not wanted and not any(answer.get("count") for answer in answers.values()):
        yield "ok", "none visible, and none asked for"
        return
    if errors := case.faults("gpus"):
        fix = "install a driver that supports this build of torch (`nvidia-smi` shows its newest CUDA), "
        yield "problem", errors, f"{fix}and name the GPUs' device files in gres.conf (administrator)"
        return
    counts = by_text(
        (node, f"{answer.get('count', 0)} GPUs instead of {wanted}")
        for node, answer in answers.items()
        if wanted not in (None, answer.get("count", 0))
    )
    if counts:
        fix = "set gpus_per_node: in the cluster's file to what is there; or gres.conf (administrator)"
        yield "problem", counts, fix
    if faults := case.faults("gpus", lambda answer: _listed(answer.get("faults", {}), "GPU {}: {}")):
        names = ",".join(node for node, answer in answers.items() if answer.get("faults"))
        fix = f"set exclude: {names} in the cluster's file, and tell the administrator (`dmesg | grep Xid`)"
        yield "problem", faults, fix
    kinds = {name: _described(answer) for name, answer in answers.items()}
    if len(set(kinds.values())) > 1:
        fix = "set constraint: in the cluster's file to nodes of one kind; speeds of others do not compare"
        yield "warning", by_text(kinds.items()), fix
    elif not counts and not faults:
        yield "ok", "; ".join(dict.fromkeys(kinds.values()))


def _listed(faults: Mapping[str, str | None], form: str) -> str:
    return "; ".join(form.format(device, text) for device, text in faults.items() if text)


def _described(answer: Answer) -> str:
    models = ", ".join(answer.get("names", [])) or "none"
    return f"{models}, driver {answer.get('driver') or 'unknown'}, NCCL {answer.get('nccl') or 'unknown'}"


def _decoding(case: Case) -> Iterator[Verdict]:
    answers = case.answers("decode").values()
    if faults := case.faults("decode", lambda answer: _listed(answer, "{}: {}")):
        fix = "set data: {loader: torchvision} in the experiment until DALI's wheel supports the driver"
        yield "problem", faults, fix
    elif not answers:
        yield "unknown", "not checked: it could not be imported", "see `packages`"
    elif devices := sorted({device for answer in answers for device in answer}):
        where = " and ".join({"cpu": "CPUs", "mixed": "GPUs"}[device] for device in devices)
        yield "ok", f"decodes a photograph on the {where} of every node"


def _group(case: Case) -> Iterator[Verdict]:
    answers, faults = [one for one in case.answers("group").values() if one], case.faults("group")
    if len(case.nodes) < 2:
        yield "ok", f"{ONE_NODE}, and runs ask for no more"
    elif not answers:
        yield "unknown", "not tried", "see `first node's port` and `packages`"
    elif not faults:
        yield "ok", f"{len(case.nodes)} nodes sum over {answers[0].get('backend', 'gloo')}"
    elif "EADDRINUSE" in faults:
        yield "problem", faults, "another program listens on that port (see `ss -ltnp`); run the doctor again"
    else:
        fix = "set environment: {GLOO_SOCKET_IFNAME: eth0, NCCL_SOCKET_IFNAME: eth0} in the cluster's file,"
        fix += " or the nodes' own interfaces (`ip route`); all their ports must be open"
        yield "problem", faults, fix


PROBES = {"gpus": probe_gpus, "decode": probe_decode, "group": probe_group}
TOPIC = Topic({"GPUs": _gpus, "DALI": _decoding, "process group": _group}, on_nodes=PROBES)
