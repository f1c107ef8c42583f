"""Checks of the Triton kernels in Triton's interpreter, by name; run as a program, all of them.

The interpreter is chosen when Triton is imported, so the checks need a process of their own. It prints one
JSON object: for each check an empty string, or what went wrong.
"""

import json
import sys
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from suite.kernels import launch
from suite.kernels.launch import Machine
from suite.kernels.segment_norm import implementation, normalise_and_measure, segment_norm, update_estimates
from suite.kernels.segments import Rule
from tests.helpers.norm_cases import CASES, EPS, TOLERANCE, Case, compare, near

CHECKS: dict[str, Callable[[], None]] = {
    f"beside torch {case}": lambda case=case: compare(case) for case in CASES
}


def check(function: Callable[[], None]) -> Callable[[], None]:
    CHECKS[function.__name__.replace("_", " ")] = function
    return function


@contextmanager
def divided(programs: int, tile_bytes: int, tile_channels: int) -> Iterator[None]:
    """Divide the work among programs as a small GPU would."""
    former, launch.machine_of = launch.machine_of, lambda _: Machine(programs, tile_bytes, tile_channels)
    try:
        yield
    finally:
        launch.machine_of = former


@check
def several_chunks_and_blocks_of_channels() -> None:
    """Tiles of 2 rows × 4 of 6 channels; 90 rows in chunks of 16, the last of 10; lanes end apart."""
    for case in (
        Case((6, 6, 5, 3), 0, 6, activation="relu", with_residual=True),
        Case((2, 6, 9, 5), 1, 2, torch.float64, "relu"),
    ):
        with divided(8, 2 * 4 * case.dtype.itemsize, 4):
            compare(case)


@check
def chunks_that_are_merged_in_several_steps() -> None:
    former, launch.MERGED_AT_ONCE = launch.MERGED_AT_ONCE, 16  # two parts of a unit at once
    try:
        with divided(6, 16, 4):
            compare(Case((1, 6, 11, 5), 1, 2, activation="relu"))
    finally:
        launch.MERGED_AT_ONCE = former


@check
def inputs_of_other_layouts() -> None:
    case = Case((4, 6, 3, 4), 2, 6, activation="relu", with_residual=True)
    compare(case, lambda x: x.contiguous())
    compare(case, lambda x: torch.stack((x, -x), dim=2).flatten(1, 2)[:, ::2])
    compare(case, lambda x: torch.cat((x, x), dim=3)[..., :4])
    x = torch.randn(4, 6, 3, 4, requires_grad=True)
    y, _, _ = segment_norm(x, samples=4, groups=6)
    torch.autograd.backward(y.mean(dim=(2, 3)).square().sum())  # its gradient is expanded, with strides of 0
    assert x.grad is not None


@check
def gradients_by_differences() -> None:
    torch.manual_seed(0)
    x, residual = (torch.randn(4, 4, 2, 1, dtype=torch.float64, requires_grad=True) for _ in range(2))
    weight, bias = (torch.randn(4, dtype=torch.float64, requires_grad=True) for _ in range(2))
    constants = (torch.randn(1, 4, dtype=torch.float64), torch.rand(1, 4, dtype=torch.float64) + 0.5)

    def normed(samples: int, groups: int, **options: object) -> Callable[..., Tensor]:
        rule = Rule(EPS, "relu")
        return lambda x, w, b, r: segment_norm(
            x, samples=samples, groups=groups, weight_C=w, bias_C=b, residual=r, rule=rule, **options
        )[0]

    for function in (normed(2, 4), normed(1, 2), normed(4, 4, constants=constants)):
        assert torch.autograd.gradcheck(function, (x, weight, bias, residual), fast_mode=True)


@check
def the_closed_form_of_the_estimates() -> None:
    """Beside torch's BN, which sees one batch after another."""
    for momentum in (0.1, 1.0, None):
        torch.manual_seed(1)
        bn = nn.BatchNorm1d(5, momentum=momentum, dtype=torch.float64)
        batches = [torch.randn(7, 5, dtype=torch.float64) * 2 + 3 for _ in range(20)]
        for batch in batches[:2]:
            bn(batch)
        running = (bn.running_mean.clone(), bn.running_var.clone())
        tracked = bn.num_batches_tracked.clone()
        for batch in batches[2:]:
            bn(batch)
        stack_SNC = torch.stack(batches[2:])
        var_SC, mean_SC = torch.var_mean(stack_SNC, dim=1, correction=0)
        update_estimates(running, (mean_SC, var_SC), 7, momentum, tracked)
        near(running[0], bn.running_mean, 1e-12, "mean")
        near(running[1], bn.running_var, 1e-12, "variance")
        assert int(tracked) == 20


@check
def normalising_measures_in_the_same_pass() -> None:
    torch.manual_seed(2)
    x = (torch.randn(4, 6, 5, 3) * 2 + 1000).contiguous(memory_format=torch.channels_last)
    residual = torch.randn_like(x)
    estimates, affine = (torch.full((6,), 1000.5), torch.full((6,), 3.0)), (torch.randn(6), torch.randn(6))
    bn = nn.BatchNorm2d(6, eps=EPS, dtype=torch.float64).eval()
    bn.load_state_dict(
        {
            "weight": affine[0],
            "bias": affine[1],
            "running_mean": estimates[0],
            "running_var": estimates[1],
            "num_batches_tracked": torch.tensor(1),
        }
    )
    expected = torch.relu(bn(x.double()) + residual.double())
    for programs in (1, 9):
        with divided(programs, 64, 4):
            y, mean_C, var_C = normalise_and_measure(x, estimates, affine, residual, Rule(EPS, "relu"))
        near(y, expected, 2e-6, "output")
        exact = x.double()
        near(
            mean_C - 1000, exact.mean(dim=(0, 2, 3)) - 1000, 1e-6, "mean"
        )  # a float32 near 1000 is 6e-5 apart
        near(var_C, exact.var(dim=(0, 2, 3), correction=0), 2e-6, "variance")


@check
def a_value_that_is_not_finite_stays_one() -> None:
    x = torch.randn(2, 4, 3, 3)
    x[0, 1, 0, 0] = float("nan")
    y, _, _ = segment_norm(x, samples=1, groups=4, rule=Rule(EPS, "relu6"))
    assert y[0, 1].isnan().all()
    assert y.isfinite().sum() == y.numel() - 9


@check
def the_kernels_were_used() -> None:
    assert implementation(torch.device("cpu")) is launch


def main() -> None:
    torch.set_num_threads(1)
    TOLERANCE[torch.bfloat16] *= 2  # the interpreter cuts off where a GPU rounds
    found = {}
    for name, run in CHECKS.items():
        try:
            run()
            found[name] = ""
        except Exception:
            found[name] = traceback.format_exc(limit=-4)
    json.dump(found, sys.stdout)


if __name__ == "__main__":
    main()
