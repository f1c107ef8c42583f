"""Finds norms that people write themselves: statistics that look like BN's estimates, of no known layer."""

import re
from collections.abc import Iterator

from torch import Tensor, nn
from torch.nn.parameter import is_lazy

_WORDS = re.compile(r"[A-Z]?[a-z]+|[A-Z]+(?![a-z])")
_MEANS = frozenset(("mean", "means", "mu"))
_SPREADS = frozenset(("var", "vars", "variance", "std", "sigma"))
_AVERAGED = frozenset(
    ("running", "moving", "population", "pop", "ema", "avg", "average", "estimated", "est", "tracked")
)
MAX_IMAGE_CHANNELS = 4
"""So many numbers called mean and std are usually those by which images are normalised."""


def look_alikes(model: nn.Module) -> dict[str, str]:
    """Return a reason for each module that keeps a mean and a variance of one shape, also for BN layers.

    They are buffers, constant parameters or plain tensors, such as `moving_mean` and `moving_var`. A module
    that computes with them itself shows neither a layer nor a call that could be measured.
    """
    found = {}
    for name, module in model.named_modules():
        for mean, spread in _pairs(module):
            found[name] = (
                f"its {mean} and {spread} look like estimates, but it is not a known norm, and what it "
                "does with them cannot be measured: derive it from nn.BatchNorm2d, or call F.batch_norm in it"
            )
    return found


def _pairs(module: nn.Module) -> Iterator[tuple[str, str]]:
    """Yield the names of a mean and a spread that go together.

    Names such as `mean` alone say less than `moving_mean`: they count for buffers of a module that also
    scales by as many numbers, and not for a variational layer's output or for what standardises an input.
    """
    plain = {name: value for name, value in vars(module).items() if isinstance(value, Tensor)}
    tensors = {
        name: value
        for name, value in {**plain, **module._parameters, **module._buffers}.items()
        if value is not None and not is_lazy(value)
    }
    scales = {tensors[name].shape for name in module._parameters if name in tensors}
    means, spreads = (
        {
            (words - kind, tensor.shape): name
            for name, tensor in tensors.items()
            if not tensor.requires_grad and tensor.is_floating_point()
            if (words := frozenset(word.lower() for word in _WORDS.findall(name))) & kind
            if words & _AVERAGED
            or (
                words <= kind
                and name in module._buffers
                and tensor.numel() > MAX_IMAGE_CHANNELS
                and tensor.shape in scales
            )
        }
        for kind in (_MEANS, _SPREADS)
    )
    for key in means.keys() & spreads.keys():
        yield means[key], spreads[key]
