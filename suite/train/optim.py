"""The optimizer, its parameter groups by module type, and mixup."""

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase

from suite.experiment import RecipeSpec
from suite.models.norms import GroupWhitening

_NORMS = (_NormBase, nn.GroupNorm, nn.LayerNorm, GroupWhitening)


def build_optimizer(model: nn.Module, recipe: RecipeSpec) -> torch.optim.SGD:
    """SGD with two groups: weights of layers, and parameters of norms with all biases.

    The second group's decay is `norm_weight_decay`, which by default is the first's.
    """
    decayed: dict[int, nn.Parameter] = {}
    others: dict[int, nn.Parameter] = {}
    for module in model.modules():
        for name, parameter in module.named_parameters(recurse=False):
            is_other = isinstance(module, _NORMS) or name == "bias"
            (others if is_other else decayed).setdefault(id(parameter), parameter)
    norm_decay = recipe.weight_decay if recipe.norm_weight_decay is None else recipe.norm_weight_decay
    return torch.optim.SGD(
        [
            {"params": list(decayed.values()), "weight_decay": recipe.weight_decay},
            {"params": list(others.values()), "weight_decay": norm_decay},
        ],
        lr=recipe.lr,
        momentum=recipe.momentum,
        nesterov=recipe.nesterov,
    )


def set_learning_rate(optimizer: torch.optim.Optimizer, lr: float) -> None:
    """One learning rate for all groups."""
    for group in optimizer.param_groups:
        group["lr"] = lr


def seed_for(*key: int) -> int:
    """A seed that is a function of the key alone: the same in every process and after every restart."""
    return int(np.random.SeedSequence(key).generate_state(1, np.uint64)[0])


def mixup(
    images_NCHW: Tensor, labels_N: Tensor, alpha: float, key: tuple[int, ...]
) -> tuple[Tensor, Tensor, float]:
    """Mix each image with another of the batch (Zhang et al. 2018).

    Returns the mixed images, the other labels, and the weight λ ~ Beta(α, α) of the first ones. `key`
    decides λ and the pairs, so that a resumed run draws what it would have drawn.
    """
    rng = np.random.default_rng(key)
    weight = float(rng.beta(alpha, alpha))
    order_N = torch.from_numpy(rng.permutation(len(labels_N))).to(labels_N.device)
    return images_NCHW.lerp(images_NCHW[order_N], 1 - weight), labels_N[order_N], weight
