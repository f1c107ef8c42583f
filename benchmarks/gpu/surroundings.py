"""Stages of `make gpu-check` about the machine and its loaders."""

import importlib
import platform
import subprocess
import tempfile
from functools import partial
from pathlib import Path

import torch
from torch import nn

from benchmarks.gpu.measuring import Sizes, median_ms, part, tell


def machine(sizes: Sizes) -> None:
    """Tell the hardware and the versions. What the other stages cannot do without comes first."""
    on_gpu = sizes.device.type == "cuda"
    tell("device", torch.cuda.get_device_name() if on_gpu else "CPU")
    tell("python", platform.python_version())
    tell("torch", torch.__version__)
    tell("platform", platform.platform())
    if on_gpu:
        properties = torch.cuda.get_device_properties(0)
        tell("compute capability", f"{properties.major}.{properties.minor}")
        tell("multiprocessors", properties.multi_processor_count)
        tell("GPU memory", properties.total_memory / 2**30, "GiB")
        tell("CUDA", str(torch.version.cuda))
        tell("cuDNN", str(torch.backends.cudnn.version()))  # type: ignore[no-untyped-call]
        with part("driver"):
            query = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
            tell("driver", subprocess.run(query, capture_output=True, text=True, check=True).stdout.strip())
    with part("Triton"):
        tell("triton", importlib.import_module("triton").__version__)
    with part("the suite"):
        from suite.provenance import cpu_name, provenance

        tell("CPU", cpu_name())
        origin = provenance("", [])
        for name in ("cpu_count", "git_sha"):
            tell(name, str(origin[name]))
        for package, version in origin["versions"].items():
            if package not in ("python", "torch"):
                tell(package, version)


def loader(sizes: Sizes) -> None:
    """Time the loaders of training images on photograph-like JPEGs, 4:2:0."""
    from torchvision.io import write_jpeg

    from suite.config import expand
    from suite.data import train_loader

    images, count = sizes.batches[0], max(8, 2 * sizes.batches[0])
    with tempfile.TemporaryDirectory() as folder:
        generator = torch.Generator().manual_seed(0)
        for number in range(count):
            rough = torch.rand(1, 3, 48, 64, generator=generator)
            image = nn.functional.interpolate(rough, size=(375, 500), mode="bicubic").clamp(0, 1)
            image = (image + 0.08 * torch.randn(image.shape, generator=generator)).clamp(0, 1)
            path = Path(folder, "train", str(number % 2), f"{number}.jpg")
            path.parent.mkdir(parents=True, exist_ok=True)
            write_jpeg((255 * image[0]).byte(), str(path), quality=92)
        for name in ("dali", "torchvision"):
            with part(name):
                content = {
                    "model": {"arch": sizes.arch},
                    "data": {"name": "photographs", "path": folder, "num_classes": 2, "loader": name},
                    "batch": {"global_batch_size": images},
                    "system": {"data_threads": 8 if sizes.device.type == "cuda" else 1},
                }
                run = expand(content, "gpu-check").runs[0]
                batches = train_loader(run, start_step=0, rank=0, world_size=1, device=sizes.device)
                each = iter(batches)
                ms = median_ms(partial(next, each), sizes)
                tell(f"{name}, {run.system.data_threads} threads", 1e3 * images / ms, "img/s")
                batches.close()
