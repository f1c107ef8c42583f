"""The energy that a rank's GPU has used, from the counter that NVML reads."""

import logging
import os
from typing import Any

import torch

log = logging.getLogger("shiftbench")


class EnergyCounter:
    """Reads the energy counter of one device, or nothing where the device has no counter of its own.

    A CPU's counter covers everything on the machine, and a GPU's all of its MIG parts; GPUs older than Volta
    have none.
    """

    def __init__(self, device: torch.device) -> None:
        self._nvml: Any = None
        self._handle: Any = None
        if device.type != "cuda" or "MIG-" in os.environ.get("CUDA_VISIBLE_DEVICES", ""):
            return
        try:
            import pynvml
        except ImportError:
            log.warning("nvidia-ml-py is not installed, so the GPU's energy is not measured")
            return
        self._nvml = pynvml
        try:
            pynvml.nvmlInit()
            # By UUID: CUDA_VISIBLE_DEVICES gives the same index to different devices.
            uuid = torch.cuda.get_device_properties(device).uuid
            self._handle = pynvml.nvmlDeviceGetHandleByUUID(f"GPU-{uuid}")
        except (pynvml.NVMLError, AttributeError):  # no driver, or a torch without UUIDs
            return

    def read_j(self) -> float | None:
        """Return joules since the driver was loaded, in steps of a millijoule; None without a counter."""
        if self._handle is None:
            return None
        try:
            return float(self._nvml.nvmlDeviceGetTotalEnergyConsumption(self._handle)) / 1e3
        except self._nvml.NVMLError:
            return None
