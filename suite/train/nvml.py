"""A GPU as its driver's library, NVML, sees it. AMD's GPUs have none."""

import logging
import os
from functools import cache
from typing import Any

import torch

log = logging.getLogger("shiftbench")


class Nvml:
    """NVML's view of one device; it answers None for a CPU, part of a GPU (MIG), or without the library."""

    def __init__(self, device: torch.device) -> None:
        self._nvml: Any = None
        self._handle: Any = None
        if device.type == "cuda" and torch.version.hip is not None:
            _say_what_is_missing()
            return
        if device.type != "cuda" or "MIG-" in os.environ.get("CUDA_VISIBLE_DEVICES", ""):
            return
        try:
            import pynvml
        except ImportError:
            log.warning("nvidia-ml-py is not installed: the GPU's energy and memory are not measured by it")
            return
        self._nvml = pynvml
        try:
            pynvml.nvmlInit()
            # By UUID: CUDA_VISIBLE_DEVICES gives the same index to different devices.
            uuid = torch.cuda.get_device_properties(device).uuid
            self._handle = pynvml.nvmlDeviceGetHandleByUUID(f"GPU-{uuid}")
        except (pynvml.NVMLError, AttributeError):  # no driver, or a torch without UUIDs
            return

    def energy_j(self) -> float | None:
        """Return joules since the driver was loaded, in steps of a millijoule; None without a counter.

        A GPU's counter covers all of its MIG parts; GPUs older than Volta have none.
        """
        if self._handle is None:
            return None
        try:
            return float(self._nvml.nvmlDeviceGetTotalEnergyConsumption(self._handle)) / 1e3
        except self._nvml.NVMLError:
            return None

    def process_bytes(self) -> int | None:
        """Return the device's memory that this process holds, of all libraries; None where it is not known.

        A container may number processes differently. The only process on the device is then this one.
        """
        if self._handle is None:
            return None
        try:
            found = self._nvml.nvmlDeviceGetComputeRunningProcesses(self._handle)
        except self._nvml.NVMLError:
            return None
        own = [one for one in found if one.pid == os.getpid()] or (found if len(found) == 1 else [])
        used = own[0].usedGpuMemory if own else None
        return None if used is None else int(used)


@cache
def _say_what_is_missing() -> None:
    log.info("AMD's GPUs have no NVML: energy, and memory that other libraries hold, are not measured")


class PeakMemory:
    """The highest memory that this process held on a GPU: torch's peak, and what it holds beside torch.

    CUDA itself, NCCL and DALI allocate past torch. They keep what they have, so that looking now and then
    is enough. Without NVML it is torch's alone.
    """

    def __init__(self, device: torch.device, nvml: Nvml) -> None:
        self._device, self._nvml = device, nvml
        self._beside_torch_bytes = 0
        torch.cuda.reset_peak_memory_stats(device)  # an earlier run of this process may have used more

    def look(self) -> int:
        """Return the peak so far, in bytes."""
        if (held := self._nvml.process_bytes()) is not None:
            beside = held - torch.cuda.memory_reserved(self._device)
            self._beside_torch_bytes = max(self._beside_torch_bytes, beside)
        return torch.cuda.max_memory_reserved(self._device) + self._beside_torch_bytes
