"""The stage of `make gpu-check` about fused norms: their errors, and their bandwidth beside a copy's."""

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor, nn

from benchmarks.gpu.measuring import Sizes, leave_out, median_ms, part, tell


def _norms() -> dict[str, Callable[[int], nn.Module]]:
    from suite.models.batch_norm import GhostBatchNorm2d

    return {
        "BN": nn.BatchNorm2d,
        "GN32": lambda channels: nn.GroupNorm(32, channels),
        "GN64": lambda channels: nn.GroupNorm(64, channels),
        "ghost BN 2": lambda channels: GhostBatchNorm2d(channels, 2),
    }


def norms(sizes: Sizes) -> None:
    """Compare each fused norm + ReLU with torch's: differences, and bandwidth as a share of a copy's."""
    for images, channels, side in sizes.norm_shapes:
        shape = f"{images} × {channels} × {side}²"
        x = torch.randn(images, channels, side, side, device=sizes.device).to(
            dtype=torch.bfloat16, memory_format=torch.channels_last
        )
        copy_ms = median_ms(x.clone, sizes)
        tell(f"copy, {shape}", 2 * x.numel() * x.element_size() / copy_ms / 1e6, "GB/s")
        for name, make in _norms().items():
            with part(f"{name}, {shape}"):
                _norm(f"{name}, {shape}", partial(make, channels), x, copy_ms, sizes)


def _norm(what: str, make: Callable[[], nn.Module], x: Tensor, copy_ms: float, sizes: Sizes) -> None:
    from suite.kernels import fuse_norms

    native, fused, exact = (nn.Sequential(make(), nn.ReLU()).to(sizes.device) for _ in range(3))
    done = fuse_norms(fused)
    if done.skipped:
        leave_out(f"{what}: {done}")
        return
    found, given = _with_gradient(fused, x), _with_gradient(exact.double(), x.double())
    for of, one, other in zip(("result", "gradient"), found, given, strict=True):
        far = (one.double() - other).abs().max() / other.abs().max()
        tell(f"{what}: {of}, largest difference from float64", float(far), "of the largest")
    for how, module in (("native", native), ("fused", fused)):
        forward_ms = median_ms(partial(module, x), sizes)
        both_ms = median_ms(partial(_with_gradient, module, x), sizes)
        # A copy reads and writes x. Forward: x is read twice, y written. Backward: x and dy are read twice,
        # y once, dx written.
        tell(f"{what}, {how}: forward", 1.5 * copy_ms / forward_ms, "of a copy's bandwidth")
        tell(f"{what}, {how}: with backward", 4.5 * copy_ms / both_ms, "of a copy's bandwidth")


def _with_gradient(module: nn.Module, x: Tensor) -> tuple[Tensor, Tensor]:
    x = x.detach().requires_grad_()
    with torch.autocast(x.device.type, torch.bfloat16, enabled=x.dtype is torch.bfloat16):
        y: Tensor = module(x)
    (dx,) = torch.autograd.grad(y, x, grad_outputs=x.detach().to(y.dtype))
    return y.detach(), dx
