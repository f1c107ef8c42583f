"""Stages of `make gpu-check` about training steps, and what is measured beside them."""

from dataclasses import replace
from typing import Any

import torch

from benchmarks.gpu.measuring import Sizes, leave_out, median_ms, part, tell


def _kernels(sizes: Sizes) -> list[str]:
    """Return which norms' kernels there are, and say why the fused ones are not."""
    from suite.kernels import kernels_missing

    if sizes.device.type == "cuda" and (why := kernels_missing()):
        leave_out(f"fused kernels: {why}")
        return ["native"]
    return ["native", "fused"]


def _step(sizes: Sizes, **options: Any) -> Any:
    from benchmarks.train import Step

    common = {"arch": sizes.arch, "image_size": sizes.image_size, "precision": sizes.precision}
    return Step(**{**common, "channels_last": True, **options})


def _steps_ms(step: Any, sizes: Sizes) -> float:
    """Return the median time of a step as a run does it."""
    from benchmarks.train import suite_steps
    from suite.train.arithmetic import arithmetic

    with arithmetic(step.precision, cudnn_benchmark=True):
        steps = suite_steps(step, _alone(sizes), 1)
        return median_ms(steps, sizes)


def _alone(sizes: Sizes) -> Any:
    from suite.train.distributed import Ranks

    return Ranks(0, 0, 1, sizes.device)


def steps(sizes: Sizes) -> None:
    """Time steps of BN, XBN and GN, native and fused, and a tuned bare loop."""
    from benchmarks.train import RIVALS, bare_steps
    from suite.train.arithmetic import arithmetic

    kernels = _kernels(sizes)
    for images in sizes.batches:
        bare = _step(sizes, images_per_step=images)
        with part(f"bare loop, batch {images}"), arithmetic(bare.precision, cudnn_benchmark=True):
            work = bare_steps(bare, RIVALS["tuned"], _alone(sizes), 1)
            tell(
                f"{sizes.arch} BN, batch {images}, bare loop", 1e3 * images / median_ms(work, sizes), "img/s"
            )
        for norm in ("bn", "xbn", "gn"):
            for kernel in kernels:
                what = f"{sizes.arch} {norm.upper()}, batch {images}, {kernel}"
                with part(what):
                    step = _step(sizes, images_per_step=images, norm=norm, kernels=kernel)
                    tell(what, 1e3 * images / _steps_ms(step, sizes), "img/s")
                    if sizes.device.type == "cuda":
                        tell(f"{what}: memory", torch.cuda.max_memory_allocated() / 2**30, "GiB")
                        torch.cuda.reset_peak_memory_stats()


def ghost(sizes: Sizes) -> None:
    """Time ghost BN's steps, as a ratio to BN's."""
    images = sizes.batches[0]
    for kernel in _kernels(sizes):
        with part(f"BN, {kernel}"):
            bn_ms = _steps_ms(_step(sizes, images_per_step=images, kernels=kernel), sizes)
            tell(f"BN, batch {images}, {kernel}", bn_ms, "ms a step")
            for size in sizes.norm_batches:
                with part(f"norm batch {size}, {kernel}"):
                    step = _step(sizes, images_per_step=images, norm_batch_size=size, kernels=kernel)
                    tell(f"norm batch {size} / BN, {kernel}", _steps_ms(step, sizes) / bn_ms, "time")


def shares(sizes: Sizes) -> None:
    """Time the probe beside bare evaluation, and TID beside a step."""
    from benchmarks.probe import bench_probe
    from benchmarks.train import tid_time_s

    images = sizes.batches[0]
    for kernel in _kernels(sizes):
        with part(f"probe, {kernel}"):
            step = _step(sizes, images_per_step=images, kernels=kernel)
            for name, one in bench_probe(step, 5, 4, sizes.device).items():
                what = f"{name}, {sizes.arch}, batch {images}, {sizes.precision}, {kernel}"
                tell(what, one.median, f"[{one.low:.3f}, {one.high:.3f}]")
    with part("TID"):
        step = _step(sizes, images_per_step=images)
        tid_s = tid_time_s(step, _alone(sizes))
        assert tid_s is not None
        tid_s()  # warms up
        tell(f"TID / step, batch {images}", 1e3 * tid_s() / _steps_ms(step, sizes), "of a step's time")


def graphs(sizes: Sizes) -> None:
    """Time steps of small batches and of ghost BN, launched as they are and as a CUDA graph."""
    if sizes.device.type != "cuda":
        leave_out("CUDA graphs: they need a GPU")
        return
    images, smallest = sizes.norm_batches[-1], sizes.norm_batches[0]
    for kernel in _kernels(sizes):
        for norm_batch_size in (images, smallest):
            what = f"batch {images}, norm batch {norm_batch_size}, {kernel}"
            with part(what):
                options = {"norm_batch_size": norm_batch_size, "kernels": kernel}
                step = _step(sizes, images_per_step=images, **options)
                plain_ms = _steps_ms(step, sizes)
                tell(f"{what}: launched one by one", plain_ms, "ms a step")
                ratio = plain_ms / _steps_ms(replace(step, cuda_graphs=True), sizes)
                tell(f"{what}: one by one / as a graph", ratio, "time")
