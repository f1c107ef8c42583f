"""The energy that a rank's GPU has used, by its counter, which NVML reads."""

import ctypes
import os
from typing import Any

import torch

_LIBRARY = "libnvidia-ml.so.1"  # part of the driver


class EnergyCounter:
    """Reads the energy counter of one device; None when it has none of its own.

    A CPU's counter covers everything that runs on the machine, a GPU's all of its MIG instances. GPUs older
    than Volta have none.
    """

    def __init__(self, device: torch.device, nvml: Any = None) -> None:
        self._nvml, self._handle = nvml, ctypes.c_void_p()
        if device.type != "cuda" or "MIG-" in os.environ.get("CUDA_VISIBLE_DEVICES", ""):
            return
        try:
            self._nvml = nvml or ctypes.CDLL(_LIBRARY)
            # By UUID: CUDA_VISIBLE_DEVICES gives the same index to different devices.
            name = f"GPU-{torch.cuda.get_device_properties(device).uuid}".encode()
            failed = self._nvml.nvmlInit_v2() or self._nvml.nvmlDeviceGetHandleByUUID(
                name, ctypes.byref(self._handle)
            )
        except (OSError, AttributeError):
            failed = True
        if failed:
            self._handle = ctypes.c_void_p()

    def read_j(self) -> float | None:
        """Return the energy in joules since the driver was loaded, to a millijoule; None if not counted."""
        total_mj = ctypes.c_ulonglong()
        if not self._handle:
            return None
        if self._nvml.nvmlDeviceGetTotalEnergyConsumption(self._handle, ctypes.byref(total_mj)):
            return None
        return total_mj.value / 1e3
