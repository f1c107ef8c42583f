"""Segment norm beside torch's own norms in float64: the cases, and what a case compares."""

import zlib
from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from suite.kernels.segment_norm import segment_norm
from suite.kernels.segments import Rule

EPS = 1e-3
# Largest error beside the largest value: rounding of the results; half an ulp of the half precisions.
TOLERANCE = {torch.float64: 1e-12, torch.float32: 2e-6, torch.bfloat16: 2**-8, torch.float16: 2**-11}
ACTIVATE: dict[str, Callable[[Tensor], Tensor]] = {"identity": lambda z: z, "relu": F.relu, "relu6": F.relu6}


@dataclass(frozen=True)
class Case:
    """`samples` 0: all of them. `mean`: of the input, whose standard deviation is 1."""

    shape: tuple[int, ...]
    samples: int = 1
    groups: int = 1
    dtype: torch.dtype = torch.float32
    activation: str = "identity"
    with_residual: bool = False
    with_affine: bool = True
    mean: float = 0.0

    def __str__(self) -> str:
        shape = "x".join(map(str, self.shape))
        parts = [f"{shape}-samples{self.samples}-groups{self.groups}", str(self.dtype)[6:], self.activation]
        parts += [
            word
            for word, is_said in (("residual", self.with_residual), ("bare", not self.with_affine))
            if is_said
        ]
        return "-".join(parts + ([f"mean{self.mean:g}"] if self.mean else []))


def by_torch(
    x: Tensor, weight: Tensor | None, bias: Tensor | None, residual: Tensor | None, case: Case
) -> Tensor:
    """The same by torch's functions, segment by segment."""
    outs = []
    for part in x.split(case.samples or len(x)):
        if case.groups == x.shape[1] and case.samples != 1:
            outs.append(F.batch_norm(part, None, None, weight, bias, True, 0.1, EPS))
        else:
            outs.append(F.group_norm(part, case.groups, weight, bias, EPS))
    out = torch.cat(outs)
    return ACTIVATE[case.activation](out if residual is None else out + residual)


def inputs(case: Case) -> tuple[list[Tensor | None], Tensor]:
    """x, weight, bias, residual, and the gradient of the output: random, always the same for a case."""
    draw = torch.Generator().manual_seed(zlib.crc32(str(case).encode()))

    def normal(*shape: int, dtype: torch.dtype) -> Tensor:
        value = torch.randn(*shape, generator=draw, dtype=torch.float64).to(dtype)
        return value.contiguous(memory_format=torch.channels_last) if len(shape) == 4 else value

    x = normal(*case.shape, dtype=case.dtype) + case.mean
    dy = normal(*case.shape, dtype=case.dtype)
    of_affine = torch.float64 if case.dtype is torch.float64 else torch.float32
    channels = case.shape[1]
    affine = [1 + 0.5 * normal(channels, dtype=of_affine), normal(channels, dtype=of_affine)]
    residual = normal(*case.shape, dtype=case.dtype) if case.with_residual else None
    return [x, *(affine if case.with_affine else [None, None]), residual], dy


def compare(case: Case, x_of: Callable[[Tensor], Tensor] = lambda x: x, device: str = "cpu") -> None:
    """Output, statistics and all gradients. `x_of` lays the input out in another way."""
    values, dy = inputs(case)
    values, dy = [None if one is None else one.to(device) for one in values], dy.to(device)
    ours = [None if one is None else one.clone().requires_grad_() for one in values]
    exact = [None if one is None else one.double().clone().requires_grad_() for one in values]
    x, weight, bias, residual = ours
    assert x is not None
    rule = Rule(EPS, case.activation)
    y, mean_SG, var_SG = segment_norm(
        x_of(x),
        samples=case.samples or len(x),
        groups=case.groups,
        weight_C=weight,
        bias_C=bias,
        residual=residual,
        rule=rule,
    )
    assert y.dtype is case.dtype
    assert mean_SG.dtype is (torch.float64 if case.dtype is torch.float64 else torch.float32)
    expected = by_torch(*exact, case)
    torch.autograd.backward(y, dy)
    torch.autograd.backward(expected, dy.double())
    tolerance = TOLERANCE[case.dtype] * max(1, abs(case.mean) / 16)
    units = exact[0].detach().reshape(mean_SG.shape[0], -1, *case.shape[1:]).unflatten(2, (case.groups, -1))
    var, mean = torch.var_mean(units, dim=[d for d in range(units.dim()) if d not in (0, 2)], correction=0)
    statistics = TOLERANCE[mean_SG.dtype]
    near(mean_SG, mean, statistics, "mean")
    near(var_SG, var, statistics * max(1, abs(case.mean)), "variance")
    near(y, expected, tolerance, "output")
    for name, one, other in zip(("x", "weight", "bias", "residual"), ours, exact, strict=True):
        if one is not None:
            assert one.grad is not None
            assert other is not None
            assert one.grad.dtype is one.dtype
            # Gradients of weight and bias are sums in float32 of as many terms as a channel has values.
            is_sum = name in ("weight", "bias")
            allowed = (statistics * 4 * max(1, abs(case.mean) / 16)) if is_sum else tolerance * 4
            near(one.grad, other.grad, allowed, f"gradient of {name}")


def near(found: Tensor, expected: Tensor | None, tolerance: float, what: str) -> None:
    assert expected is not None
    error = (found.double() - expected).abs().max().item()
    scale = max(1.0, expected.abs().max().item())
    assert error <= tolerance * scale, f"{what}: error {error:.3g} of {scale:.3g}, {tolerance:.3g} allowed"


BN, GHOSTS = 0, (1, 2, 4)
SHAPE = (8, 6, 3, 5)
CASES = [
    Case(SHAPE, BN, 6),
    Case(SHAPE, BN, 6, activation="relu", with_residual=True),
    *(Case(SHAPE, samples, 6, activation="relu") for samples in GHOSTS),
    Case(SHAPE, 8, 6, activation="relu6", with_residual=True),
    Case((3, 8, 5, 3), 1, 4, activation="relu", with_residual=True),
    Case((3, 8, 5, 3), 1, 2, activation="relu6"),
    Case((2, 6, 7, 1), 1, 1, activation="relu"),
    Case((2, 6, 4, 3), 1, 6, with_affine=False),
    Case((2, 6, 3, 3), 1, 2, with_affine=False),  # groups of three channels, in lanes for four
    Case((1, 6, 3, 3), 1, 3),
    Case((1, 4, 3, 3), BN, 4, activation="relu"),
    Case((6, 5), BN, 5, activation="relu"),
    Case((4, 6), 2, 6, with_affine=False),
    Case((4, 6), 1, 2, activation="relu"),
    *(
        Case(SHAPE, samples, 6, dtype, "relu", with_residual=residual)
        for dtype in (torch.float64, torch.bfloat16, torch.float16)
        for samples, residual in ((4, True), (1, False))
    ),
    Case((2, 8, 3, 3), 1, 2, torch.float64, "identity", with_residual=True),
    Case((3, 8, 3, 3), 1, 4, torch.bfloat16, "relu6"),
    Case((4, 4, 5, 5), BN, 4, mean=1000.0),
    Case((2, 4, 5, 5), 1, 2, mean=1000.0, activation="relu"),
]
