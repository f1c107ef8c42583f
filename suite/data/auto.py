"""The loader `auto`: DALI where it can serve, else torchvision, with a word in the log."""

import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from suite.data.loader import loader_class
from suite.errors import UserError
from suite.specs.loader_table import LOADERS

if TYPE_CHECKING:
    import torch

log = logging.getLogger("shiftbench")


@dataclass(frozen=True)
class Serving:
    """The loader that serves, by its name in the table; `why` it is not the usual one."""

    ran: str
    why: str = ""


def serving(loader: str, device: "torch.device") -> Serving:
    """Return which loader serves batches on `device` where the config says `loader`."""
    if loader != "auto":
        return Serving(loader)
    why = no_nvidia_gpu(device)
    if why is None:
        try:
            loader_class("dali", LOADERS["dali"].loader)
        except UserError as error:
            why = str(error)
    return Serving("dali") if why is None else Serving("torchvision", why)


def no_nvidia_gpu(device: "torch.device") -> str | None:
    """Return why DALI cannot compute on a device, or None."""
    import torch

    if device.type == "cuda" and torch.version.hip is not None:
        return "DALI computes on NVIDIA's GPUs, and this one is AMD's"
    return None


def auto_loader(share: Any, data: Any, *, device: "torch.device", **settings: Any) -> Any:
    """Return the loader that serves. `settings`: those that either of them takes, by the settings' names."""
    return _chosen("loader", share, data, device, settings)


def auto_boxes(share: Any, resize: Any, *, device: "torch.device", **settings: Any) -> Any:
    """As `auto_loader`, for images with boxes."""
    return _chosen("boxes", share, resize, device, settings)


def _chosen(kind: str, share: Any, images: Any, device: "torch.device", settings: dict[str, Any]) -> Any:
    found = serving("auto", device)
    if found.why:
        log.info("data.loader: auto: torchvision serves: %s", found.why)
    entry = LOADERS[found.ran]
    options = {key: settings[name] for key, name in entry.options.items() if name in settings}
    return loader_class(found.ran, getattr(entry, kind))(share, images, device=device, **options)
