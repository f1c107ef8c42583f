"""How a process computes: float32 products as IEEE or as TF32, and cuDNN's choice of algorithms.

These are settings of the process and of torch, not of a network, so they are restored for the next run.
"""

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager

import torch

from suite.experiment import Run
from suite.specs.recipe import PRECISIONS


@contextmanager
def arithmetic(precision: str, *, cudnn_benchmark: bool = False) -> Iterator[None]:
    """Compute float32 products and convolutions on a GPU as `precision` says.

    Without this, torch's convolutions are TF32 and its products are not. `cudnn_benchmark`: cuDNN measures
    its algorithms for each new shape and keeps the fastest. Raises KeyError for an unknown precision.
    """
    # These set torch's `fp32_precision` too. That alone would leave them behind, and torch's compiler, which
    # reads them, refuses to go on where they differ.
    matmul, cudnn, entry = torch.backends.cuda.matmul, torch.backends.cudnn, PRECISIONS[precision]
    former = matmul.allow_tf32, cudnn.allow_tf32, cudnn.benchmark
    matmul.allow_tf32, cudnn.allow_tf32 = entry.products == "tf32", entry.convolutions == "tf32"
    cudnn.benchmark = cudnn_benchmark
    try:
        yield
    finally:
        matmul.allow_tf32, cudnn.allow_tf32, cudnn.benchmark = former


def measuring(run: Run | None) -> AbstractContextManager[None]:
    """Return the context in which a trained network is measured: with the float32 products of its training.

    Whatever measures a network after its run enters it, so that on a GPU no difference of rounding appears as
    a shift. `run`: the network's; of other networks, None, float32 is IEEE's.
    """
    return arithmetic("fp32" if run is None else run.recipe.precision)


def arithmetic_of(run: Run) -> dict[str, object]:
    """Return what `arithmetic` sets for a run, as its provenance notes it."""
    entry = PRECISIONS[run.recipe.precision]
    return {
        "fp32_convolutions": entry.convolutions,
        "fp32_products": entry.products,
        "cudnn_benchmark": is_benchmarked(run),
    }


def is_benchmarked(run: Run) -> bool:
    """Return whether cuDNN measures its algorithms: where steps have one shape, unless the run says so."""
    asked = run.system.cudnn_benchmark
    return run.task.entry.is_static if asked is None else asked
