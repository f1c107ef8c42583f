"""The kernels as machine code for GPUs: how they access memory, and that they fit."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from suite.kernels.launch import H100, NUM_WARPS, Launch, recorded
from suite.kernels.segment_norm import normalise_and_measure, segment_norm, update_estimates
from suite.kernels.segments import Rule
from tests.helpers.gpu_code import ARCHS, SHARED_BYTES, Code, compiled

DTYPES = (torch.float32, torch.bfloat16, torch.float16)
READ = {"x_ptr", "residual_ptr", "dy_ptr"}  # and y_ptr, where it is not written
WIDE = 16


def launches(channels: int, dtype: torch.dtype, samples: int, groups: int) -> dict[str, Launch]:
    """The launches of a norm with ReLU, with and without residual, both ways; and of BN in inference."""
    shape, layout = (64, channels, 14, 14), torch.channels_last
    x, residual = (
        torch.empty(shape, dtype=dtype, device="meta", memory_format=layout).requires_grad_() for _ in "xr"
    )
    affine = [torch.empty(channels, device="meta", requires_grad=True) for _ in range(2)]
    options = {"weight_C": affine[0], "bias_C": affine[1], "rule": Rule(1e-5, "relu")}
    with recorded() as found:
        y, *statistics = segment_norm(x, samples=samples, groups=groups, residual=residual, **options)
        torch.autograd.backward(y, torch.empty_like(y))
        without, _, _ = segment_norm(x, samples=samples, groups=groups, **options)
        torch.autograd.backward(without, torch.empty_like(y))
        estimates = (torch.empty(channels, device="meta"), torch.empty(channels, device="meta"))
        normalise_and_measure(x.detach(), estimates, (affine[0], affine[1]), None, options["rule"])
        if groups == channels:
            count = torch.zeros((), dtype=torch.int64, device="meta")
            update_estimates(estimates, (statistics[0], statistics[1]), samples * 196, 0.1, count)
    named: dict[str, Launch] = {}
    for one in found:
        extra = [
            name
            for name in ("residual_ptr", "y_ptr", "partial_mean_ptr", "offset_ptr")
            if one.arguments.get(name) is not None and (name != "y_ptr" or one.name == "gradient_sums")
        ]
        named["+".join([one.name, *(name.removesuffix("_ptr") for name in extra)])] = one
    return named


def whole(launch: Launch) -> tuple[list[str], list[str]]:
    """Return the names of the tensors of the input's size that a launch reads, and that it writes."""
    x = launch.arguments["x_ptr"]
    large = [n for n, t in launch.arguments.items() if isinstance(t, Tensor) and t.shape == x.shape]
    read = READ | ({"y_ptr"} if launch.name == "gradient_sums" else set())
    return [n for n in large if n in read], [n for n in large if n not in read]


def check_fits(code: Code, name: str) -> None:
    """Also that sums are in a fixed order: the same input gives the same bits."""
    assert code.spilled_bytes == 0, name
    assert code.shared_bytes <= SHARED_BYTES, name
    assert code.atomics == [], name


# Of 64 samples: how many a segment has, and the groups of so many channels.
NORMS: dict[str, tuple[int, Callable[[int], int]]] = {
    "bn": (64, lambda channels: channels),
    "ghost bn": (2, lambda channels: channels),
    "in": (1, lambda channels: channels),
    "ln": (1, lambda _: 1),
    "gn": (1, lambda _: 32),
}
# Each width with each type and each arch.
CHANNELS = {
    (dtype, arch): (64, 256, 320)[(i + j) % 3]
    for i, dtype in enumerate(DTYPES)
    for j, arch in enumerate(ARCHS)
}
# The tensors of the input's size that a kernel reads, and that it writes.
LARGE = {
    "moments": (1, 0),
    "normalise": (1, 1),
    "normalise+residual": (2, 1),
    "normalise+partial_mean": (1, 1),
    "gradient_sums": (2, 0),
    "gradient_sums+y": (3, 1),
    "input_gradient": (2, 1),
}
STEP = ("moments", "normalise", "gradient_sums", "input_gradient")  # of a norm with ReLU


@pytest.mark.parametrize("arch", ARCHS)
@pytest.mark.parametrize("dtype", DTYPES, ids=lambda dtype: str(dtype)[6:])
@pytest.mark.parametrize("norm", NORMS)
def test_each_tensor_is_read_and_written_once_in_accesses_of_16_bytes(
    norm: str, dtype: torch.dtype, arch: int
) -> None:
    """So the bytes of a launch are those of its tensors, as the model of the step counts them."""
    channels, (samples, groups_of) = CHANNELS[dtype, arch], NORMS[norm]
    found = launches(channels, dtype, samples, groups_of(channels))
    accesses = H100.tile_bytes // (WIDE * 32 * NUM_WARPS)  # of a thread, for each tensor in each tile
    bytes_an_element: dict[str, float] = {}
    for name, (reads, writes) in LARGE.items():
        launch = found[name]
        assert [len(names) for names in whole(launch)] == [reads, writes], name
        code = compiled(launch, arch)
        wanted = {("ld", WIDE): reads * accesses, ("st", WIDE): writes * accesses}
        assert code.in_loop == {kind: count for kind, count in wanted.items() if count}, name
        check_fits(code, name)
        tile = launch.constants["BLOCK_R"] * launch.constants["BLOCK_C"]
        bytes_an_element[name] = code.bytes_in_loop * 32 * NUM_WARPS / tile
    # Forward x is read twice and y written; backward x and dy are read twice and dx written.
    assert sum(bytes_an_element[name] for name in STEP) == 8 * dtype.itemsize


@pytest.mark.parametrize("arch", ARCHS)
@pytest.mark.parametrize("norm", NORMS)
def test_the_kernels_that_merge_fit(norm: str, arch: int) -> None:
    samples, groups_of = NORMS[norm]
    found = launches(128, torch.bfloat16, samples, groups_of(128))
    small = set(found) - set(LARGE)
    by_channel = groups_of(128) == 128
    merging = {"merge_moments", "merge_moments+offset", "merge_sums"}
    assert small == merging | ({"update_estimates"} if by_channel else set())
    for name in small:
        code = compiled(found[name], arch)
        check_fits(code, name)


@pytest.mark.parametrize(("channels", "width"), [(24, 16), (58, 4), (116, 8), (61, 2)])
def test_rows_that_are_no_multiple_of_16_bytes_have_narrower_accesses(channels: int, width: int) -> None:
    """Of ShuffleNet's 58 channels in bfloat16 a row has 116 bytes, which 4 divides and 8 does not."""
    code = compiled(launches(channels, torch.bfloat16, samples=64, groups=channels)["normalise"], 90)
    assert {bytes_ for _, bytes_ in code.in_loop} == {width}
    check_fits(code, "normalise")
