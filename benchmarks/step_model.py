"""A roofline model of a training step on a GPU: what norms, fused or not, cost by bytes, FLOPs and launches.

It measures nothing. The operations are those that the network really calls, forward and backward, found by
running it on the meta device; the kernels of `suite.kernels` are the launches that they would make there.
An operation takes the longer of moving its bytes and computing its FLOPs, and no less than a smallest time;
a step takes the longer of that sum and of the host's launches. What it assumes is in `Gpu` and in `PASSES`.
"""

from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map
from torch.utils.flop_counter import flop_registry

from suite.architectures import ARCHITECTURES
from suite.experiment import ModelSpec
from suite.kernels import fuse_norms
from suite.kernels.launch import recorded
from suite.models import build_model, set_norm_batch_size
from suite.models.norms.group_norm import GroupNorm
from suite.shift.recorder import recording

META = torch.device("meta")
aten = torch.ops.aten


@dataclass(frozen=True)
class Gpu:
    """An H100 SXM by its data sheet, and the shares of it that well-written code reaches."""

    bytes_per_s: float = 3.35e12 * 0.80
    flops_per_s: float = 989e12 * 0.50
    """Of convolutions in bfloat16; float32 is computed as TF32, at half of it."""
    smallest_s: float = 2.5e-6
    """Of any kernel on the device."""
    host_s: float = 5e-6
    """Of the host, for an operation of torch."""
    triton_host_s: float = 15e-6
    """Of the host, for a launch through Triton."""


@dataclass(frozen=True)
class Passes:
    """How often torch's norm reads its large inputs, and in how many kernels."""

    reads: int
    kernels: int


# Statistics, or sums, over an input larger than the caches are a pass of their own. Group norm is that of
# torch ≥ 2.15, which takes channels-last; before, its input and output are copied as well.
PASSES = {
    aten.native_batch_norm: Passes(reads=2, kernels=1),
    aten.native_batch_norm_backward: Passes(reads=2, kernels=1),
    aten.cudnn_batch_norm: Passes(reads=2, kernels=1),
    aten.native_group_norm: Passes(reads=2, kernels=3),
    aten.native_group_norm_backward: Passes(reads=2, kernels=4),
}
CONVOLUTIONS = {aten.convolution, aten.convolution_backward}
UNWRITTEN = {aten.empty, aten.empty_like, aten.new_empty, aten.empty_strided, aten.new_empty_strided}
PRECISIONS = {"bf16": torch.bfloat16, "fp32": torch.float32}
BF16 = torch.bfloat16


@dataclass
class Work:
    """The sum over some operations. `launches`: by who makes them, "torch" or "triton"."""

    gpu: Gpu
    peak: float
    device_s: float = 0.0
    norm_bytes: float = 0.0
    launches: Counter[str] = field(default_factory=Counter)

    def add(self, moved_bytes: float, flops: float, kernels: int, by: str, is_norm: bool) -> None:
        """Add an operation of one or several kernels."""
        roof_s = max(moved_bytes / self.gpu.bytes_per_s, flops / self.peak)
        self.device_s += max(roof_s, kernels * self.gpu.smallest_s)
        self.norm_bytes += moved_bytes * is_norm
        self.launches[by] += kernels

    @property
    def host_s(self) -> float:
        return self.launches["torch"] * self.gpu.host_s + self.launches["triton"] * self.gpu.triton_host_s

    @property
    def time_s(self) -> float:
        """Device and host run at the same time, so the slower decides."""
        return max(self.device_s, self.host_s)


class _Operations(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Adds every operation of torch that is not free to the work."""

    def __init__(self, work: Work) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.work = work

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        out = func(*args, **(kwargs or {}))
        packet = func.overloadpacket
        if packet in CONVOLUTIONS:  # which on the meta device return NCHW, as on no GPU
            out = tree_map(_channels_last, out)
        if packet not in UNWRITTEN and not func.is_view:
            passes = PASSES.get(packet, Passes(reads=1, kernels=1))
            read = sum(map(_bytes, tree_leaves((args, kwargs or {}))))
            written = sum(map(_bytes, tree_leaves(out)))
            flops = 0
            if packet in flop_registry:
                flops = flop_registry[packet](*args, **(kwargs or {}), out_val=out)
            is_norm = "norm" in str(packet) or "threshold" in str(packet) or "relu" in str(packet)
            self.work.add(passes.reads * read + written, flops, passes.kernels, "torch", is_norm)
        return out


def _channels_last(value: Any) -> Any:
    is_image = isinstance(value, Tensor) and value.dim() == 4
    return value.contiguous(memory_format=torch.channels_last) if is_image else value


def _bytes(value: object) -> int:
    return value.numel() * value.element_size() if isinstance(value, Tensor) else 0


@contextmanager
def counted(gpu: Gpu, precision: torch.dtype) -> Iterator[Work]:
    """Count what runs on the meta device meanwhile."""
    work = Work(gpu, gpu.flops_per_s if precision is BF16 else gpu.flops_per_s / 2)
    with recorded() as launches, _Operations(work):
        yield work
    for launch in launches:
        # Each tensor is read or written once: tests/kernels/test_compiled.py counts it in the machine code.
        work.add(sum(map(_bytes, launch.arguments.values())), 0, 1, "triton", is_norm=True)


@dataclass(frozen=True)
class Setting:
    """A network, what computes its norms, and how large a step is."""

    arch: str
    norm: str = "bn"
    norm_batch_size: int | None = None
    precision: torch.dtype = BF16
    is_fused: bool = True
    images: int = 128

    def network(self) -> nn.Module:
        """Return the network as training prepares it, on the meta device."""
        spec = ModelSpec(arch=self.arch, num_classes=1000, norm={"kind": self.norm})
        with META:
            model = build_model(spec)
            set_norm_batch_size(model, self.norm_batch_size or self.images, self.images, META)
        model = model.to(memory_format=torch.channels_last)
        if self.is_fused:
            fuse_norms(model)
        return self._cast(model)

    def _cast(self, model: nn.Module) -> nn.Module:
        """Let layers have the precision's type, as autocast does; weights in float32 cost it a copy."""
        for module in model.modules():
            # GN, where it is torch's, casts its parameters too; BN and the fused kernels mix types.
            if isinstance(module, nn.Conv2d | nn.Linear) or type(module) is GroupNorm:
                module.to(self.precision)
        return model

    def batch(self) -> Tensor:
        size = ARCHITECTURES[self.arch].family.image_size or 224
        return torch.empty(
            self.images, 3, size, size, dtype=self.precision, device=META, memory_format=torch.channels_last
        )


def training_step(setting: Setting, gpu: Gpu | None = None) -> Work:
    """Return the work of a forward and backward pass and of SGD's update."""
    model, images = setting.network().train(), setting.batch()
    with counted(gpu or Gpu(), setting.precision) as work:
        torch.autograd.backward(model(images).float().sum())
    # SGD reads weight, gradient and momentum, and writes two of them; layers cast their weights.
    weights = sum(parameter.numel() for parameter in model.parameters())
    work.add(weights * (5 * 4 + 4 + 2), 0, 10, "torch", is_norm=False)
    return work


def inference(setting: Setting, *, with_probe: bool, gpu: Gpu | None = None) -> Work:
    """Return the work of evaluating a batch, with or without the probe's moments.

    It is the second batch: at the first one the probe allocates.
    """
    model, images = setting.network().eval(), setting.batch()
    with torch.no_grad():
        if not with_probe:
            with counted(gpu or Gpu(), setting.precision) as work:
                model(images)
            return work
        with recording(model, "probe") as recorder:
            batches = recorder.watched([images, images])
            with counted(gpu or Gpu(), setting.precision):
                model(next(batches))
                next(batches)
            with counted(gpu or Gpu(), setting.precision) as work:
                model(images)
                next(batches, None)  # what is done behind a batch
    return work


@dataclass(frozen=True)
class Predicted:
    """A ratio of times, with its bound: at most, or for "≥" at least."""

    name: str
    ratio: float
    bound: str = ""

    @property
    def holds(self) -> bool:
        if not self.bound:
            return True
        limit = float(self.bound.split()[1])
        return self.ratio >= limit if self.bound.startswith("≥") else self.ratio <= limit


NORM_BATCHES = (2, 8, 32)


def predicted(
    arch: str,
    precision: torch.dtype,
    images: int,
    gpu: Gpu | None = None,
    report: Callable[[str], object] = str,
) -> tuple[list[Predicted], dict[str, Work]]:
    """Return the ratios of one network, and the work that each is of, by name. `report` gets what is next."""

    def step(label: str, **options: Any) -> Work:
        report(f"{arch}: {label}")
        return training_step(Setting(arch, precision=precision, images=images, **options), gpu)

    works: dict[str, Work] = {}
    for kind, is_fused in (("fused", True), ("native", False)):
        for norm in ("bn", "xbn", "gn"):
            works[f"{norm} {kind}"] = step(f"{norm} {kind}", norm=norm, is_fused=is_fused)
        for size in NORM_BATCHES:
            label = f"ghost {size} {kind}"
            works[label] = step(label, norm_batch_size=size, is_fused=is_fused)
    setting = Setting(arch, precision=precision, images=images)
    works["evaluation"] = inference(setting, with_probe=False, gpu=gpu)
    works["evaluation with probe"] = inference(setting, with_probe=True, gpu=gpu)

    def speed(one: str, other: str) -> float:
        return works[other].time_s / works[one].time_s

    found = [Predicted("fused BN ÷ torch's BN (speed)", speed("bn fused", "bn native"), "≥ 1.00")]
    for kind in ("fused", "native"):
        bound = "≥ 1.00" if kind == "fused" else ""
        found.append(Predicted(f"XBN ÷ BN, {kind} (speed)", speed(f"xbn {kind}", f"bn {kind}"), bound))
        found.append(Predicted(f"GN ÷ BN, {kind} (speed)", speed(f"gn {kind}", f"bn {kind}")))
        for size in NORM_BATCHES:
            bound = "≤ 1.10" if kind == "fused" else ""
            time = 1 / speed(f"ghost {size} {kind}", f"bn {kind}")
            found.append(Predicted(f"ghost BN of {size} ÷ BN, {kind} (time)", time, bound))
    probe = 1 / speed("evaluation with probe", "evaluation")
    found.append(Predicted("probe ÷ evaluation (time)", probe, "≤ 1.10"))
    return found, works
