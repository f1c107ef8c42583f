"""What training does on each node, in small: compute on the GPUs, decode a picture, sum over all nodes."""

import contextlib
import io
import os
from collections.abc import Iterator, Mapping

from jobs.doctor.finding import Answer, Case, Request, Topic, Verdict, by_text
from jobs.doctor.network import ONE_NODE
from jobs.doctor.software import unusable

COLOUR = (200, 120, 40)
TOLERANCE = 6.0
# For the slowest node: it may import torch from a cold file system, or share its cores.
TIMEOUT_S = 240.0


def probe_gpus(request: Request, earlier: Mapping[str, Answer]) -> Answer | None:
    """The GPUs that a job's process sees, whether they compute, and the versions of driver and libraries."""
    if "torch" in unusable(earlier):
        return None
    import torch

    answer: Answer = {
        "visible": os.environ.get("CUDA_VISIBLE_DEVICES"),
        "driver": _driver(),
        "cuda": torch.version.cuda,
        "count": torch.cuda.device_count(),
    }
    if not answer["count"]:
        try:
            torch.cuda.init()  # type: ignore[no-untyped-call]
        except Exception as error:
            answer["error"] = str(error).split("\n")[0][:200]
        return answer
    answer["names"] = sorted({torch.cuda.get_device_name(i) for i in range(answer["count"])})
    faults = {}
    for index in range(answer["count"]):
        try:
            if float(torch.ones(1000, device=f"cuda:{index}").sum()) != 1000:
                faults[str(index)] = "the sum of a thousand ones is wrong"
        except Exception as error:
            faults[str(index)] = str(error).split("\n")[0][:200]
    answer["faults"] = faults
    with contextlib.suppress(Exception):  # a build without NCCL
        version = torch.cuda.nccl.version()  # type: ignore[no-untyped-call]
        answer["nccl"] = ".".join(map(str, version))
    return answer


def _driver() -> str:
    """The driver's version; empty where NVML or its Python package is missing, which `packages` reports."""
    try:
        import pynvml

        pynvml.nvmlInit()
        return str(pynvml.nvmlSystemGetDriverVersion())
    except Exception:  # ImportError, or any of NVML's errors
        return ""


def probe_decode(request: Request, earlier: Mapping[str, Answer]) -> Answer | None:
    """Decodes a JPEG of one colour with DALI, on the CPU and, where there is one, on the GPU."""
    if unusable(earlier) & {"torch", "nvidia-dali-cuda130"}:
        return None
    import torch
    from PIL import Image

    file = io.BytesIO()
    Image.new("RGB", (64, 48), COLOUR).save(file, "JPEG", quality=95)
    devices = ["cpu", *(["mixed"] if torch.cuda.is_available() else [])]
    return {device: _decode(file.getvalue(), device) for device in devices}


def _decode(jpeg: bytes, device: str) -> str | None:
    """Returns why the decoded picture is wrong, or None."""
    import numpy as np
    from nvidia.dali import Pipeline, fn, types

    try:
        pipeline = Pipeline(batch_size=1, num_threads=1, device_id=0 if device == "mixed" else None)
        with pipeline:
            encoded = fn.external_source(source=[[np.frombuffer(jpeg, np.uint8)]], cycle=True)
            pipeline.set_outputs(fn.decoders.image(encoded, device=device, output_type=types.RGB))
        pipeline.build()
        (images,) = pipeline.run()
        if device == "mixed":
            images = images.as_cpu()
        colour = np.asarray(images.at(0)).reshape(-1, 3).mean(axis=0)
    except Exception as error:
        return f"{type(error).__name__}: {error}".split("\n")[0][:200]
    if np.abs(colour - COLOUR).max() > TOLERANCE:
        return f"the colour is {colour.round().tolist()} instead of {list(COLOUR)}"
    return None


def probe_group(request: Request, earlier: Mapping[str, Answer]) -> Answer | None:
    """Sums over all nodes in the process group that training would form, if all of them are reachable."""
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
    backend = "gloo and NCCL" if len(sums) == 2 else "gloo"
    if any(one != expected for one in sums):
        return {"backend": backend, "error": f"the ranks' numbers sum to {sums} instead of {expected}"}
    return {"backend": backend}


def _gpus(case: Case) -> Iterator[Verdict]:
    answers = case.answers("gpus")
    wanted = case.slurm.gpus_per_node if case.cluster.scheduler == "slurm" else None
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
    if counts := case.faults("gpus", lambda answer: _miscount(answer, wanted)):
        fix = "set gpus_per_node: in the cluster's file to what is there; or gres.conf (administrator)"
        yield "problem", counts, fix
    if faults := case.faults("gpus", _miscalculation):
        names = ",".join(node for node, answer in answers.items() if answer.get("faults"))
        fix = f"set exclude: {names} in the cluster's file, and tell the administrator (`dmesg | grep Xid`)"
        yield "problem", faults, fix
    kinds = {name: _described(answer) for name, answer in answers.items()}
    if len(set(kinds.values())) > 1:
        fix = "set constraint: in the cluster's file to nodes of one kind; speeds of others do not compare"
        yield "warning", by_text(kinds.items()), fix
    elif not counts and not faults:
        yield "ok", "; ".join(dict.fromkeys(kinds.values()))


def _miscount(answer: Answer, wanted: int | None) -> str:
    count = answer.get("count", 0)
    return "" if wanted in (None, count) else f"{count} GPUs instead of {wanted}"


def _miscalculation(answer: Answer) -> str:
    return "; ".join(f"GPU {index}: {text}" for index, text in answer.get("faults", {}).items())


def _described(answer: Answer) -> str:
    models = ", ".join(answer.get("names", [])) or "none"
    return f"{models}, driver {answer.get('driver') or 'unknown'}, NCCL {answer.get('nccl') or 'unknown'}"


def _decoding(case: Case) -> Iterator[Verdict]:
    answers = case.answers("decode").values()
    if faults := case.faults("decode", _undecoded):
        fix = "set data: {loader: torchvision} in the experiment until DALI's wheel supports the driver"
        yield "problem", faults, fix
    elif not answers:
        yield "unknown", "not checked: it could not be imported", "see `packages`"
    elif devices := sorted({device for answer in answers for device in answer}):
        where = " and ".join({"cpu": "CPUs", "mixed": "GPUs"}[device] for device in devices)
        yield "ok", f"decodes a JPEG on the {where} of every node"


def _undecoded(answer: Answer) -> str:
    return "; ".join(f"{device}: {text}" for device, text in answer.items() if text)


def _group(case: Case) -> Iterator[Verdict]:
    answers, faults = [one for one in case.answers("group").values() if one], case.faults("group")
    if len(case.nodes) < 2:
        yield "ok", f"{ONE_NODE}, and runs ask for no more"
    elif not answers:
        yield "unknown", "not tried", "see `first node's port` and `packages`"
    elif not faults:
        yield "ok", f"{len(case.nodes)} nodes sum over {answers[0].get('backend', 'gloo')}"
    elif "EADDRINUSE" in faults:
        fix = "another program listens on that port of the first node (see `ss -ltnp`); run the doctor again"
        yield "problem", faults, fix
    else:
        fix = (
            "set environment: {GLOO_SOCKET_IFNAME: eth0, NCCL_SOCKET_IFNAME: eth0} in the cluster's file, or"
        )
        fix += " the nodes' own interfaces (`ip route`); all its ports must be open"
        yield "problem", faults, fix


TOPIC = Topic(
    {"GPUs": _gpus, "DALI": _decoding, "process group": _group},
    on_nodes={"gpus": probe_gpus, "decode": probe_decode, "group": probe_group},
)
