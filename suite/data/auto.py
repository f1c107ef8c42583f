"""The loader `auto`: DALI where it can serve, else torchvision, with a word in the log."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
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
            why = str(error).removesuffix(f": {LOADERS['dali'].install}")
    return Serving("dali") if why is None else Serving("torchvision", why)


def installed(loader: str) -> str:
    """As `serving`, on this machine and as far as its packages tell; imports neither torch nor DALI."""
    if loader != "auto":
        return loader
    has_dali = find_spec("nvidia") is not None and find_spec("nvidia.dali") is not None
    try:
        is_for_amd = "rocm" in version("torch")
    except PackageNotFoundError:
        is_for_amd = False
    return "dali" if has_dali and not is_for_amd else "torchvision"


def check_same(ranks: Sequence[str], nodes: Sequence[str], former: str | None, why: str) -> None:
    """Raise UserError where `auto` would change a run's images: decoders differ in some pixels.

    `ranks`, `nodes`: the loader that serves on each rank, and its node. `former`: that of the training which
    is resumed, or None. `why`: why this rank's is not the usual one.
    """
    remedy = "set data.loader to one of them, which makes a run of its own"
    if len(set(ranks)) > 1:
        where = {loader: nodes[ranks.index(loader)] for loader in sorted(set(ranks))}
        each = " and ".join(f"{loader} on {node}" for loader, node in where.items())
        raise UserError(
            f"data.loader: auto: {each} would serve one run: install the same on all, or {remedy}"
        )
    if former not in (None, ranks[0]):
        here = f"{ranks[0]} would serve{f' ({why})' if why else ''}"
        raise UserError(
            f"data.loader: auto: {former} has served this run so far, and here {here}: resume it where "
            f"{former} serves, or {remedy}"
        )


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
