"""What is looked at on a node with torch and DALI: versions, GPUs, a picture, a sum over the nodes."""

import contextlib
import importlib
import io
import os
import subprocess
from pathlib import Path
from typing import Any

# Import name and what pip calls it.
PACKAGES = {
    "torch": "torch",
    "torchvision": "torchvision",
    "nvidia.dali": "nvidia-dali-cuda130",
    "numpy": "numpy",
    "pydantic": "pydantic",
    "omegaconf": "omegaconf",
    "submitit": "submitit",
}
DRIVER = Path("/proc/driver/nvidia/version")
COLOUR = (200, 120, 40)
TOLERANCE = 6.0
# For the slowest node to come: it may import torch from a cold file system, or share its cores.
TIMEOUT_S = 240.0

Answer = dict[str, Any]


def packages() -> Answer:
    """The version of each package, as imported, or why it cannot be imported."""
    versions, errors, absent = {}, {}, list[str]()
    for name, package in PACKAGES.items():
        try:
            versions[package] = str(getattr(importlib.import_module(name), "__version__", "unknown"))
        except Exception as error:  # a broken library can raise anything on import
            if isinstance(error, ModuleNotFoundError) and name.startswith(str(error.name)):
                absent.append(package)
                continue
            errors[package] = f"{type(error).__name__}: {error}"[:200]
    return {"versions": versions, "errors": errors, "absent": absent}


def gpus() -> Answer:
    """The GPUs that a job's process sees, whether they compute, and the versions behind them."""
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
                faults[str(index)] = "it sums a thousand ones to something else"
        except Exception as error:
            faults[str(index)] = str(error).split("\n")[0][:200]
    answer["faults"] = faults
    with contextlib.suppress(Exception):  # a build without NCCL
        version = torch.cuda.nccl.version()  # type: ignore[no-untyped-call]
        answer["nccl"] = ".".join(map(str, version))
    return answer


def _driver() -> str:
    """The driver's version; empty where there is none."""
    command = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=30, check=True)
        return done.stdout.split()[0] if done.stdout.split() else ""
    except (OSError, subprocess.SubprocessError):
        return DRIVER.read_text().split("\n")[0] if DRIVER.exists() else ""


def decode() -> Answer:
    """A JPEG of one colour through DALI, on the CPU and, where there is a GPU, on that."""
    import torch
    from PIL import Image

    file = io.BytesIO()
    Image.new("RGB", (64, 48), COLOUR).save(file, "JPEG", quality=95)
    devices = ["cpu", *(["mixed"] if torch.cuda.is_available() else [])]
    return {device: _decode(file.getvalue(), device) for device in devices}


def _decode(jpeg: bytes, device: str) -> str | None:
    """Why it is not the picture that it should be."""
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


def together() -> Answer:
    """A sum over all nodes, by the very group that training joins."""
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
