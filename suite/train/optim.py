"""What a training step is made of: the optimizer and its parameter groups, precision, seeds, and mixup."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from suite.data.loader import to_device
from suite.experiment import RecipeSpec
from suite.models.batch_free import NORM_MODULES
from suite.specs.choice import resolve
from suite.specs.recipe import OPTIMIZERS, PRECISIONS


class Optimizer:
    """SGD or LARS with the precision's scaling of the loss and clipping, none of which waits for a GPU.

    On a GPU it is one kernel for all parameters. `is_recorded`: `step` is recorded once and then replayed, so
    that the learning rate is read from the device's memory.
    """

    def __init__(
        self, model: nn.Module, recipe: RecipeSpec, device: torch.device, *, is_recorded: bool = False
    ) -> None:
        self._model, self._max_norm = model, recipe.clip_grad_norm
        self._adapts = OPTIMIZERS[recipe.optimizer].adapts
        self._is_fused = device.type == "cuda" or is_recorded
        self.sgd = build_optimizer(model, recipe, fused=self._is_fused)
        self.lr = recipe.lr
        self._lr_in_memory = torch.zeros((), device=device) if is_recorded else None
        self._put_lr()
        is_scaled = PRECISIONS[recipe.precision].is_scaled
        self._scaler = torch.amp.GradScaler(device.type) if is_scaled else None

    def backward(self, loss: Tensor) -> None:
        """Add a loss's gradients."""
        torch.autograd.backward(loss if self._scaler is None else self._scaler.scale(loss))

    def set_lr(self, lr: float) -> None:
        """Set the learning rate of the steps to come."""
        self.lr = lr
        self._put_lr()

    def _put_lr(self) -> None:
        if self._lr_in_memory is not None:
            self._lr_in_memory.fill_(self.lr)
        for group in self.sgd.param_groups:
            group["lr"] = self.lr if self._lr_in_memory is None else self._lr_in_memory

    def step(self) -> None:
        """Update the weights, and forget the gradients."""
        if self._scaler is None:
            clip_gradients(self._model, self._max_norm)
            self.sgd.step()
        else:
            self._begin_with_zeros()
            if self._max_norm is not None or self._adapts:
                self._scaler.unscale_(self.sgd)
                clip_gradients(self._model, self._max_norm)
            self._scaler.step(self.sgd)
            self._scaler.update()
        self.sgd.zero_grad(set_to_none=True)

    def _begin_with_zeros(self) -> None:
        """Set the first momenta to 0: a first step that overflows leaves the fused kernel's unset."""
        for group in self.sgd.param_groups:
            for weight in group["params"] if group["momentum"] else ():
                if not self.sgd.state[weight]:
                    self.sgd.state[weight]["momentum_buffer"] = torch.zeros_like(weight)

    def state(self) -> dict[str, Any]:
        """Return the state for a checkpoint."""
        scaler = None if self._scaler is None else self._scaler.state_dict()
        optimizer = self.sgd.state_dict()
        groups = [{**group, "lr": self.lr} for group in optimizer["param_groups"]]
        return {"optimizer": {**optimizer, "param_groups": groups}, "scaler": scaler}

    def load(self, state: Mapping[str, Any]) -> None:
        """Continue from what `state` returned, among other keys."""
        self.sgd.load_state_dict(state["optimizer"])
        for group in self.sgd.param_groups:  # the checkpoint may be another device's
            group["fused"] = self._is_fused or None
        self.set_lr(self.sgd.param_groups[0]["lr"])
        if self._scaler is not None and (scaler := state.get("scaler")) is not None:
            self._scaler.load_state_dict(scaler)


def build_optimizer(model: nn.Module, recipe: RecipeSpec, *, fused: bool = False) -> torch.optim.SGD:
    """Return the recipe's optimizer with two groups: weights of layers; parameters of norms and all vectors.

    A parameter belongs to the second group if a norm module owns it or if it has one axis or none, such as
    a bias. That group's decay is `norm_weight_decay`, by default that of the first, and it keeps the recipe's
    learning rate.
    """
    norms = (module for module in model.modules() if isinstance(module, NORM_MODULES))
    of_norms = {id(parameter) for norm in norms for parameter in norm.parameters()}
    layers, others = list[nn.Parameter](), list[nn.Parameter]()
    for parameter in (one for one in model.parameters() if one.requires_grad):
        (others if parameter.ndim <= 1 or id(parameter) in of_norms else layers).append(parameter)
    decay, norm_decay = recipe.weight_decay, recipe.norm_weight_decay
    entry = OPTIMIZERS[recipe.optimizer]
    of_layers: dict[str, Any] = {"weight_decay": decay}
    if entry.adapts:  # the decay is then part of what is adapted
        of_layers = {"weight_decay": 0.0, "layer_weight_decay": decay}
        of_layers["trust_coefficient"] = recipe.trust_coefficient
    of_others = {"weight_decay": decay if norm_decay is None else norm_decay}
    optimizer: torch.optim.SGD = resolve(entry.optimizer)(
        [{"params": layers, **of_layers}, {"params": others, **of_others}],
        lr=recipe.lr,
        momentum=recipe.momentum,
        nesterov=recipe.nesterov,
        fused=fused or None,
    )
    return optimizer


def autocast(device: torch.device, precision: str) -> torch.autocast:
    """Return the context in which a forward pass has this precision. Raises KeyError for an unknown one."""
    name = PRECISIONS[precision].autocast
    return torch.autocast(device.type, getattr(torch, name or "bfloat16"), enabled=name is not None)


def clip_gradients(model: nn.Module, max_norm: float | None) -> None:
    """Scale all gradients so that their joint L2 norm is at most `max_norm`; None: leave them."""
    if max_norm is not None:
        nn.utils.clip_grad_norm_(model.parameters(), max_norm)


def seed_for(*key: int) -> int:
    """Return a seed that depends on the key alone, so that every process and every restart has the same."""
    return int(np.random.SeedSequence(key).generate_state(1, np.uint64)[0])


def seed_device(device: torch.device, seed: int) -> None:
    """Seed the generators that operations on this device use.

    `torch.manual_seed` seeds all devices, and where CUDA is not in use keeps a note of every call.
    """
    torch.default_generator.manual_seed(seed)
    if device.type == "cuda":
        torch.cuda.default_generators[device.index or 0].manual_seed(seed)


def mixup(
    images_NCHW: Tensor, labels_N: Tensor, alpha: float, key: tuple[int, ...]
) -> tuple[Tensor, Tensor, float]:
    """Mix each image with another of the batch (Zhang et al. 2018).

    Returns the mixed images, the other labels, and the weight λ ~ Beta(α, α) of `labels_N`. `key` decides λ
    and the pairs, so that a resumed run draws the same ones.
    """
    rng = np.random.default_rng(key)
    weight = float(rng.beta(alpha, alpha))
    order_N = to_device(torch.from_numpy(rng.permutation(len(labels_N))), labels_N.device)
    return images_NCHW.lerp(images_NCHW[order_N], 1 - weight), labels_N[order_N], weight
