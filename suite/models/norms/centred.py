"""Layers whose weights are centred, for a norm that does not subtract a mean."""

from torch import Tensor, nn
from torch.nn import functional as F

from suite.errors import UserError


def centred(weight: Tensor) -> Tensor:
    """Return W − mean(W), with a mean for each output (the first dimension)."""
    return weight - weight.mean(dim=tuple(range(1, weight.dim())), keepdim=True)


class CentredConv2d(nn.Conv2d):
    """A convolution with centred weights (Yan et al., ICLR 2020), of the convolution's own parameters."""

    def forward(self, input: Tensor) -> Tensor:
        out: Tensor = self._conv_forward(input, centred(self.weight), self.bias)
        return out


class CentredLinear(nn.Linear):
    """A linear layer with centred weights, of the linear layer's own parameters."""

    def forward(self, input: Tensor) -> Tensor:
        return F.linear(input, centred(self.weight), self.bias)


_CENTRED: dict[type[nn.Module], type[nn.Module]] = {nn.Conv2d: CentredConv2d, nn.Linear: CentredLinear}


def layer_before(model: nn.Module, norm: str) -> str:
    """Return the name of the convolution or linear layer whose outputs a norm normalises.

    It is the last one that is defined before the norm. Raises UserError if that one has another number of
    outputs, or is of a class that is not known.
    """
    weighted = (nn.modules.conv._ConvNd, nn.Linear)
    before = ""
    for name, module in model.named_modules():
        if name == norm:
            break
        before = name if isinstance(module, weighted) else before
    layer = model.get_submodule(before)
    outputs = getattr(layer, "out_channels", getattr(layer, "out_features", None))
    if (
        type(layer) not in {*_CENTRED, *_CENTRED.values()}
        or outputs != model.get_submodule(norm).num_features
    ):
        why = "no Conv2d or Linear with as many outputs is defined before it, whose weights could be centred"
        raise UserError(f"{norm}: {why}")
    return before


def centre_weights(model: nn.Module, layers: list[str]) -> None:
    """Let these layers use centred weights. Their parameters, and the names of these, stay."""
    for layer in map(model.get_submodule, layers):
        layer.__class__ = _CENTRED.get(type(layer), type(layer))
