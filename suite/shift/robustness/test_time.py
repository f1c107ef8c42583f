"""Statistics chosen at test time, in place of a BN layer's estimates.

A method sees a layer's input, batch by batch in the order of the stream, and says what each image of it is
normalised with. `adapting` applies it in inference mode without a change of the network: the input is
standardised with the chosen statistics and brought back to the estimates, with which the layer then works.

The methods are those of `suite.specs.test_time_table`.
"""

import math
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from suite.errors import UserError
from suite.models.batch_free import at_least_float
from suite.shift.layers import centres, estimates, estimating_layers
from suite.specs.choice import resolve
from suite.specs.test_time_table import METHODS

# Mean and variance, each (1, C) for all images of a batch, or (N, C).
Chosen = tuple[Tensor, Tensor]


class Chooser(Protocol):
    """Chooses the statistics of one layer. It may remember what it saw."""

    def __call__(self, x_NC: Tensor) -> Chosen:
        """Return the statistics for an input (N, C, *), in float32 or more."""


class PredictionTime:
    """Those of the batch itself (Nado et al. 2020)."""

    def __init__(self, mean_C: Tensor, var_C: Tensor) -> None:
        """The estimates are not used."""

    def __call__(self, x_NC: Tensor) -> Chosen:
        var_C, mean_C = torch.var_mean(x_NC, dim=_over_batch(x_NC), unbiased=False)
        return mean_C[None], var_C[None]


class AlphaBatchNorm:
    """N/(N + n) estimates + n/(N + n) of a batch of n images (Schneider et al. 2020)."""

    def __init__(self, mean_C: Tensor, var_C: Tensor, source_images: int) -> None:
        self.estimates = mean_C, var_C
        self.source_images = source_images

    def __call__(self, x_NC: Tensor) -> Chosen:
        var_C, mean_C = torch.var_mean(x_NC, dim=_over_batch(x_NC), unbiased=False)
        weight = len(x_NC) / (self.source_images + len(x_NC))
        mean_1C, var_1C = (
            source_C.lerp(batch_C, weight)[None]
            for source_C, batch_C in zip(self.estimates, (mean_C, var_C), strict=True)
        )
        return mean_1C, var_1C


class UnMix:
    """UnMix-TNS (Tomar et al., ICLR 2024): K sets of statistics that follow the stream.

    They begin at the estimates, spread so that their mixture has the estimates' mean and variance. An image's
    own statistics are mixed into each set by how similar it is, and the image is normalised with the mixture
    of all sets. Each set then moves towards the images that are similar to it. K = 16, the temperature of the
    similarity 0.07 and the share of the variance that is between the sets, 0.5, are the authors'. Inputs
    (N, C) keep the estimates.
    """

    SETS, TEMPERATURE, BETWEEN, BATCH = 16, 0.07, 0.5, 64

    def __init__(self, mean_C: Tensor, var_C: Tensor, momentum: float = 0.1, seed: int = 0) -> None:
        generator = torch.Generator().manual_seed(seed)
        noise_KC = torch.randn(self.SETS, len(mean_C), generator=generator).to(mean_C)
        spread = math.sqrt(self.BETWEEN * self.SETS / (self.SETS - 1))
        self.mean_KC = mean_C + spread * var_C.sqrt() * noise_KC
        self.var_KC = (1 - self.BETWEEN) * var_C.expand_as(self.mean_KC)
        self.source, self.momentum = (mean_C[None], var_C[None]), momentum

    def __call__(self, x_NC: Tensor) -> Chosen:
        if x_NC.dim() == 2:  # a vector has no statistics of its own
            return self.source
        x_NCP = x_NC.flatten(2)
        var_N1C, mean_N1C = (value_NC[:, None] for value_NC in torch.var_mean(x_NCP, dim=2, unbiased=False))
        cosine_NK = F.normalize(mean_N1C[:, 0], dim=1) @ F.normalize(self.mean_KC, dim=1).mT
        weight_NK1 = torch.softmax(cosine_NK / self.TEMPERATURE, dim=1)[..., None]
        mean_NKC, var_NKC = (
            set_KC + weight_NK1 * (image_N1C - set_KC)
            for set_KC, image_N1C in ((self.mean_KC, mean_N1C), (self.var_KC, var_N1C))
        )
        mean_NC = mean_NKC.mean(dim=1)
        var_NC = var_NKC.mean(dim=1) + mean_NKC.var(dim=1, unbiased=False)
        # The step of a batch of 64 images; smaller batches take smaller ones.
        step = 1 - (1 - self.momentum) ** (len(x_NC) / self.BATCH)
        self.mean_KC, self.var_KC = (
            set_KC + step * (set_NKC - set_KC).mean(dim=0)
            for set_KC, set_NKC in ((self.mean_KC, mean_NKC), (self.var_KC, var_NKC))
        )
        return mean_NC, var_NC


@contextmanager
def adapting(model: nn.Module, name: str) -> Iterator[None]:
    """Let each BN layer of `model`, in inference mode, normalise as a method of `METHODS` says.

    The model itself does not change. Raises UserError for an unknown method and a network without estimates;
    and, when a layer is called, for one value per channel where the method needs a batch.
    """
    if name not in METHODS:
        raise UserError(f"method {name!r} is unknown; expected one of {', '.join(METHODS)}")
    method = METHODS[name]
    with ExitStack() as hooks:
        for layer_name, layer in estimating_layers(model, name).items() if method.chooser else ():
            pair = (at_least_float(one).clone() for one in estimates(layer))
            chooser: Chooser = resolve(method.chooser)(*pair, **method.options)
            hook = _hook(name, layer_name, chooser, method.needs_batch)
            hooks.callback(layer.register_forward_pre_hook(hook, with_kwargs=True).remove)
        yield


def _hook(method: str, layer_name: str, choose: Chooser, needs_batch: bool) -> Callable[..., Any]:
    def hook(layer: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        x_NC: Tensor = args[0] if args else next(iter(kwargs.values()))
        if needs_batch and x_NC.numel() // x_NC.shape[1] == 1:
            raise UserError(
                f"{method}: {layer_name} gets one value per channel (a single image) and so no variance; "
                "use larger batches"
            )
        mean_NC, var_NC = choose(at_least_float(x_NC))
        if not centres(layer):  # then the layer estimates E[x²], and subtracts no mean
            mean_NC, var_NC = torch.zeros_like(mean_NC), var_NC + mean_NC.square()
        standardised_NC = _brought_back(layer, at_least_float(x_NC), mean_NC, var_NC)
        return (standardised_NC.to(x_NC.dtype), *args[1:]), {} if not args else kwargs

    return hook


def _brought_back(layer: nn.Module, x_NC: Tensor, mean_NC: Tensor, var_NC: Tensor) -> Tensor:
    """Return what the layer normalises to (x − mean) / √(var + ε)."""
    mean_C, var_C = (at_least_float(one) for one in estimates(layer))
    eps = float(getattr(layer, "eps", 1e-5))
    shape = (-1, x_NC.shape[1], *[1] * (x_NC.dim() - 2))
    scale_NC = ((var_C + eps) / (var_NC + eps)).sqrt()
    return (x_NC - mean_NC.view(shape)) * scale_NC.view(shape) + mean_C.view(shape[1:])


def _over_batch(x_NC: Tensor) -> tuple[int, ...]:
    return (0, *range(2, x_NC.dim()))
