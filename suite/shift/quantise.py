"""int8 networks by torch's own post-training quantisation on CPUs (FX graph mode, static)."""

import copy
import warnings
from collections.abc import Iterable
from typing import Any

import torch
from torch import nn
from torch.fx import GraphModule

from suite.errors import UserError
from suite.shift.batches import images_of
from suite.shift.layers import preserved

PURPOSE = "int8"
NO_ENGINE = "none"


def quantised(network: nn.Module, calibration_batches: Iterable[Any]) -> nn.Module:
    """Return an int8 copy of `network`, for inference on a CPU.

    Weights are quantised by channel and activations by tensor, with torch's default observers of this
    machine's engine over `calibration_batches`: images (N, C, *) or (images, labels) pairs, about a hundred
    images or more. `network` stays as it is. BN layers that still follow a convolution are folded by torch.
    Source: Jacob et al., CVPR 2018, as torch.ao.quantization implements it. Raises UserError without an
    engine for int8, for a network that is not on a CPU or that torch.fx cannot trace, and without images.
    """
    if engine() == NO_ENGINE:
        raise UserError(f"{PURPOSE}: this build of torch has no engine for int8 on this processor")
    device = next((p.device for p in network.parameters()), torch.device("cpu"))
    if device.type != "cpu":
        raise UserError(f"{PURPOSE}: runs on CPUs only, and the network is on {device}: move it with .cpu()")
    prepared: GraphModule | None = None
    with torch.no_grad(), preserved(network), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch announces its successor, torchao
        for batch in calibration_batches:
            images = images_of(batch, PURPOSE)
            if isinstance(images, list):
                raise UserError(
                    f"{PURPOSE}: takes images in one tensor, and these are a list, as a detector's"
                )
            if len(images) == 0:
                continue
            if prepared is None:
                prepared = _prepared(network, images)
            prepared(images.to("cpu"))
        if prepared is None:
            raise UserError(f"{PURPOSE}: no images; the calibration batches are empty")
        from torch.ao.quantization.quantize_fx import convert_fx

        converted: nn.Module = convert_fx(prepared)
    return converted.eval()


def engine() -> str:
    """Return torch's engine for int8 on this processor, such as x86 or qnnpack; "none" without one."""
    return str(torch.backends.quantized.engine)


def _prepared(network: nn.Module, images_NC: torch.Tensor) -> GraphModule:
    from torch.ao.quantization import get_default_qconfig_mapping  # half a second
    from torch.ao.quantization.quantize_fx import prepare_fx

    model = copy.deepcopy(getattr(network, "_orig_mod", network)).eval()
    try:
        return prepare_fx(model, get_default_qconfig_mapping(engine()), (images_NC,))
    except Exception as error:  # of any kind: code whose path depends on the data
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise UserError(f"{PURPOSE}: torch.fx cannot trace {type(model).__name__}: {reason}") from error
