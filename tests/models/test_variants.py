"""BN's variants against their formulas written out in float64: training, gradient, estimates, inference."""

import copy
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from suite.errors import UserError
from suite.models import build_model, convert, set_norm_batch_size
from suite.models.norms import mabn
from suite.models.norms.bcbn import BiasCorrectedBatchNorm
from suite.models.norms.brn import BatchRenorm
from suite.models.norms.centred import CentredConv2d, CentredLinear
from suite.models.norms.mabn import MovingAverageBatchNorm
from suite.models.norms.variant import BatchNormVariant
from suite.shift.precise import bias_corrected_statistics
from tests.helpers.specs import spec

KINDS = {"brn": BatchRenorm, "mabn": MovingAverageBatchNorm, "bcbn": BiasCorrectedBatchNorm}
CPU = torch.device("cpu")
DIMS = (0, 2, 3)


def batches(count: int, num_samples: int = 4, seed: int = 0) -> list[Tensor]:
    """(N, 3, 2, 2) in float64; each channel, and each batch, has another mean and scale."""
    generator = torch.Generator().manual_seed(seed)
    scale = torch.tensor([0.5, 1.0, 3.0], dtype=torch.float64)[:, None, None]
    shapes = (num_samples, 3, 2, 2)
    return [
        (torch.randn(shapes, generator=generator, dtype=torch.float64) + 0.3 * i) * scale
        for i in range(count)
    ]


def with_affine(norm: nn.Module) -> Any:
    norm.weight.data = torch.tensor([1.0, -2.0, 0.5])
    norm.bias.data = torch.tensor([0.1, 0.0, -3.0])
    return norm.double()


def channels(value_C: Tensor) -> Tensor:
    return value_C[:, None, None]


def inference_by_hand(norm: nn.Module, x: Tensor) -> Tensor:
    y = (x - channels(norm.running_mean)) / channels(norm.running_var + norm.eps).sqrt()
    return y * channels(norm.weight) + channels(norm.bias)


# ------------------------------------------------------------------ bias-corrected estimates


def test_corrected_averages_by_hand() -> None:
    """Two values a channel in each batch: means 2, 6 and 4; unbiased variances 2, 8 and 0; momentum ½."""
    norm = BiasCorrectedBatchNorm(1, momentum=0.5).double()
    found = []
    for values in ([1, 3], [4, 8], [4, 4]):
        norm(torch.tensor(values, dtype=torch.float64).reshape(2, 1))
        found.append((norm.running_mean.item(), norm.running_var.item()))
    # Weights 1; 1/3, 2/3; 1/7, 2/7, 4/7.
    expected = [(2, 2), (14 / 3, 6), ((2 + 12 + 16) / 7, (2 + 16) / 7)]
    assert found == [pytest.approx(pair) for pair in expected]


def test_corrected_estimates_are_those_of_bn_divided_by_what_the_batches_weigh() -> None:
    plain, corrected = nn.BatchNorm2d(3, momentum=0.2), BiasCorrectedBatchNorm(3, momentum=0.2)
    plain, corrected = with_affine(plain), with_affine(corrected)
    for t, x in enumerate(batches(5), start=1):
        torch.testing.assert_close(corrected(x), plain(x))  # training is BN's
        remedy = bias_corrected_statistics(nn.Sequential(plain))["0"]
        torch.testing.assert_close((corrected.running_mean, corrected.running_var), remedy)
        assert corrected.num_batches_tracked == t
    x = batches(1, seed=1)[0]
    torch.testing.assert_close(corrected.eval()(x), inference_by_hand(corrected, x))


# ------------------------------------------------------------------ batch renormalisation


def test_the_bounds_are_relaxed_linearly_over_the_batches() -> None:
    norm = BatchRenorm(1, relax_batches=(2, 6, 4))
    found = []
    for batch in range(8):
        norm.num_batches_tracked.fill_(batch)
        found.append(tuple(bound.item() for bound in norm.bounds()))
    r_max = [1, 1, 1, 1.5, 2, 2.5, 3, 3]
    d_max = [0, 0, 0, 2.5, 5, 5, 5, 5]
    assert found == list(zip(r_max, d_max, strict=True))
    papers = BatchRenorm(1)
    for batch, bounds in ((5_000, (1, 0)), (15_000, (1 + 2 * 10 / 35, 2.5)), (25_000, (1 + 2 * 20 / 35, 5))):
        papers.num_batches_tracked.fill_(batch)
        assert [bound.item() for bound in papers.bounds()] == pytest.approx(bounds)


def test_at_first_it_is_bn() -> None:
    plain, renormed = with_affine(nn.BatchNorm2d(3)), with_affine(BatchRenorm(3))
    for x in batches(3):
        torch.testing.assert_close(renormed(x), plain(x))
        torch.testing.assert_close(renormed.running_mean, plain.running_mean)
        torch.testing.assert_close(renormed.running_var, plain.running_var)
    assert renormed.num_batches_tracked == 3


def test_a_renormed_batch_by_hand() -> None:
    """Mean 4, σ_B = 2 of the values 2 and 6; estimates 1 and 4, so that r = 1 and d = 1.5."""
    norm = BatchRenorm(1, eps=1e-15, momentum=0.25, relax_batches=(0, 1, 1)).double()
    norm.num_batches_tracked.fill_(1)
    norm.running_mean.fill_(1)
    norm.running_var.fill_(4)
    out = norm(torch.tensor([[2.0], [6.0]], dtype=torch.float64))
    assert out.flatten().tolist() == pytest.approx([0.5, 2.5])  # (x − 1) / 2, as in inference
    assert norm.running_mean.item() == 1.75
    assert norm.running_var.item() == 4 + 0.25 * (8 - 4)  # the unbiased variance is 8
    # Estimates 100 and 1/100 are far: r = 3 instead of 20, d = −5.
    norm.running_mean.fill_(100)
    norm.running_var.fill_(0.01)
    out = norm(torch.tensor([[2.0], [6.0]], dtype=torch.float64))
    assert out.flatten().tolist() == pytest.approx([-3 - 5, 3 - 5])


def test_corrections_are_constants_for_the_gradient() -> None:
    torch.manual_seed(0)
    norm = with_affine(BatchRenorm(3, relax_batches=(0, 1, 1)))
    norm.num_batches_tracked.fill_(1)
    norm.running_mean.normal_()
    norm.running_var.uniform_(0.5, 4)
    x, by_hand = (batches(1)[0].requires_grad_() for _ in range(2))
    mean, var = by_hand.mean(DIMS), by_hand.var(DIMS, correction=0)
    sigma = (norm.running_var + norm.eps).sqrt()
    r = ((var + norm.eps).sqrt() / sigma).clamp(1 / 3, 3).detach()
    d = ((mean - norm.running_mean) / sigma).clamp(-5, 5).detach()
    y = (by_hand - channels(mean)) / channels(var + norm.eps).sqrt() * channels(r) + channels(d)
    y = y * channels(norm.weight) + channels(norm.bias)
    out = norm(x)
    torch.testing.assert_close(out, y)
    loss = torch.randn_like(out)
    (out * loss).sum().backward()
    (y * loss).sum().backward()
    torch.testing.assert_close(x.grad, by_hand.grad)


# ------------------------------------------------------------------ moving averages


def test_single_batches_have_the_gradient_of_what_is_computed() -> None:
    """Before the averages begin, the backward pass is that of x / √(mean(x²) + ε)."""
    norm = with_affine(MovingAverageBatchNorm(3))
    x, by_hand = (batches(1)[0].requires_grad_() for _ in range(2))
    y = by_hand / channels(by_hand.square().mean(DIMS) + norm.eps).sqrt()
    y = y * channels(norm.weight) + channels(norm.bias)
    out = norm(x)
    torch.testing.assert_close(out, y)
    loss = torch.randn_like(out)
    (out * loss).sum().backward()
    grads = norm.weight.grad.clone(), norm.bias.grad.clone()
    norm.zero_grad()
    (y * loss).sum().backward()
    torch.testing.assert_close(x.grad, by_hand.grad)
    torch.testing.assert_close(grads, (norm.weight.grad, norm.bias.grad))


@pytest.fixture
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    """Averages from the fourth batch on, corrections r from the sixth."""
    monkeypatch.setattr(mabn, "AVERAGING_FROM_BATCH", 4)
    monkeypatch.setattr(mabn, "CLIPPING_FROM_BATCH", 6)


def in_turn(norm: Any, xs: list[Tensor], losses: list[Tensor], window: int) -> list[tuple[Tensor, ...]]:
    """MABN as its formulas say, one batch after the other: output, the input's gradient, the estimate."""
    recent_squares: list[Tensor] = []
    recent_products: list[Tensor] = []
    estimate, found = torch.ones(3, dtype=torch.float64), []
    weight, bias = channels(norm.weight.detach()), channels(norm.bias.detach())
    for t, (x, loss) in enumerate(zip(xs, losses, strict=True), start=1):
        recent_squares.append(x.square().mean(DIMS))
        is_averaged = t >= 4 and t > window
        last = recent_squares[-window:] if is_averaged else recent_squares[-1:]
        square = torch.stack(last).mean(0)
        r = ((square + norm.eps) / (estimate + norm.eps)).sqrt().clamp(0.2, 5) if t >= 6 else torch.ones(3)
        z = x / channels(square + norm.eps).sqrt()
        g = weight * channels(r) * loss
        recent_products.append((g * z).mean(DIMS))
        last = recent_products[-window:] if is_averaged else recent_products[-1:]
        product = torch.stack(last).mean(0)
        gradient = (g - z * channels(product)) / channels(square + norm.eps).sqrt()
        estimate = (1 - norm.momentum) * estimate + norm.momentum * square
        found.append((weight * channels(r) * z + bias, gradient, estimate))
    return found


@pytest.mark.usefixtures("soon")
@pytest.mark.parametrize("window", [1, 3, 5])
def test_moving_averages_by_hand(window: int) -> None:
    norm = with_affine(MovingAverageBatchNorm(3, momentum=0.3, window=window))
    xs, losses = batches(9), batches(9, seed=1)
    for x, loss, expected in zip(xs, losses, in_turn(norm, xs, losses, window), strict=True):
        x.requires_grad_()
        out = norm(x)
        (out * loss).sum().backward()
        torch.testing.assert_close((out.detach(), x.grad, norm.running_var), expected)
    assert norm.num_batches_tracked == 9
    assert not norm.running_mean.any()
    x = batches(1, seed=2)[0]
    y = x / channels(norm.running_var + norm.eps).sqrt() * channels(norm.weight) + channels(norm.bias)
    torch.testing.assert_close(norm.eval()(x), y)


def test_corrections_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mabn, "CLIPPING_FROM_BATCH", 1)
    norm = MovingAverageBatchNorm(1, eps=0.0).double()
    norm.running_var.fill_(1e-4)  # r would be 100
    assert norm(torch.tensor([[1.0], [-1.0]], dtype=torch.float64)).flatten().tolist() == [5, -5]


@pytest.mark.usefixtures("soon")
@pytest.mark.parametrize("kind", KINDS)
def test_ghost_groups_equal_separate_batches(kind: str) -> None:
    """In output, gradient and every buffer; also where the last group is smaller, but for MABN's gradient."""
    num_samples = 6 if kind == "mabn" else 7
    options = {"brn": {"relax_batches": (1, 8, 6)}, "mabn": {"window": 3}}.get(kind, {})
    plain = with_affine(KINDS[kind](3, **options))
    ghost = set_norm_batch_size(nn.Sequential(copy.deepcopy(plain)), 2, 8, CPU)[0]
    assert ghost.norm_batch_size == 2
    for x, loss in zip(batches(4, num_samples), batches(4, num_samples, seed=1), strict=True):
        whole, parts = x.clone().requires_grad_(), x.clone().requires_grad_()
        out = ghost(whole)
        (out * loss).sum().backward()
        for part, part_loss, expected in zip(parts.split(2), loss.split(2), out.split(2), strict=True):
            y = plain(part)
            torch.testing.assert_close(y, expected)
            (y * part_loss).sum().backward()
        torch.testing.assert_close(whole.grad, parts.grad)
        torch.testing.assert_close(dict(ghost.named_buffers()), dict(plain.named_buffers()))
    assert ghost.num_batches_tracked == 4 * -(-num_samples // 2)


def test_weights_before_it_are_centred() -> None:
    torch.manual_seed(0)
    images = torch.randn(2, 3, 32, 32)
    model = build_model(spec("resnet18", kind="mabn"))
    names = {name for name, _ in build_model(spec("resnet18")).named_parameters()}
    assert {name for name, _ in model.named_parameters()} == names
    convolutions = [m for m in model.modules() if isinstance(m, nn.Conv2d)]
    assert {type(m) for m in convolutions} == {CentredConv2d}
    weight = model.conv1.weight
    expected = F.conv2d(images, weight - weight.mean((1, 2, 3), keepdim=True), stride=2, padding=3)
    torch.testing.assert_close(model.conv1(images), expected)
    assert model.layer1[0].conv1(torch.ones(1, 64, 4, 4))[..., 1:-1, 1:-1].abs().max() < 1e-5
    network = build_model(spec("mlp10", kind="mabn"))
    linear = network.pairs[0].linear2
    assert {type(m) for m in network.pairs.modules() if isinstance(m, nn.Linear)} == {CentredLinear}
    assert type(network.fc) is nn.Linear, "no norm is behind it"
    torch.testing.assert_close(linear(torch.ones(1, 100))[0], linear.bias, atol=1e-6, rtol=0)


# ------------------------------------------------------------------ all of them


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("arch", ["small_resnet11", "mobilenet_v2", "mlp10"])
def test_they_replace_bn_everywhere_and_train(arch: str, kind: str) -> None:
    model = build_model(spec(arch, kind=kind).model_copy(update={"bn_momentum": 0.3}))
    norms = [m for m in model.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
    assert {type(m) for m in norms} == {KINDS[kind]}
    assert {m.momentum for m in norms} == {0.3}
    model(torch.randn(4, 3, 28, 28)).square().sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())
    assert {int(m.num_batches_tracked) for m in norms} == {1}


@pytest.mark.parametrize("kind", KINDS)
def test_compiled_training_is_the_same(kind: str) -> None:
    options = {"brn": {"relax_batches": (0, 1, 1)}}.get(kind, {})
    plain = with_affine(KINDS[kind](3, **options))
    plain.num_batches_tracked.fill_(1)
    plain.running_var.fill_(2)
    compiled = copy.deepcopy(plain)
    call = torch.compile(compiled, backend="aot_eager")
    for x, loss in zip(batches(2), batches(2, seed=1), strict=True):
        same = [x.clone().requires_grad_() for _ in range(2)]
        for norm, one in zip((plain, call), same, strict=True):
            (norm(one) * loss).sum().backward()
        torch.testing.assert_close(same[1].grad, same[0].grad)
    torch.testing.assert_close(compiled.weight.grad, plain.weight.grad)
    torch.testing.assert_close(dict(compiled.named_buffers()), dict(plain.named_buffers()))


@pytest.mark.parametrize("kind", KINDS)
def test_half_precision_inputs(kind: str) -> None:
    norm = KINDS[kind](3)
    x = batches(1)[0].bfloat16()
    with torch.autocast("cpu", torch.bfloat16):
        out = norm(x)
    assert out.dtype is torch.bfloat16
    expected = KINDS[kind](3)(x.float())
    torch.testing.assert_close(out.float(), expected, atol=0.05, rtol=0.02)
    assert norm.running_var.dtype is torch.float32


@pytest.mark.parametrize("kind", KINDS)
def test_what_they_cannot_do_is_refused(kind: str) -> None:
    model = convert(nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4)), kind)
    assert isinstance(model[1], BatchNormVariant)
    with pytest.raises(UserError, match=r"norm_batch_size: 1 is a \w+, whose statistics cannot span several"):
        set_norm_batch_size(model, 16, 8, CPU)
    with (
        pytest.raises(ValueError, match=r"one value per channel|more than 1 value per channel")
        if (kind != "mabn")
        else pytest.raises(ValueError, match="got 1 dimensions")
    ):
        KINDS[kind](4)(torch.randn(1, 4) if kind != "mabn" else torch.randn(4))
    cumulative = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4, momentum=None))
    with pytest.raises(UserError, match=r"1: \w+ needs a momentum in \(0, 1\], got None"):
        convert(cumulative, kind)
    assert type(cumulative[1]) is nn.BatchNorm2d


def test_a_norm_without_a_layer_whose_weights_can_be_centred_is_refused() -> None:
    for model in (
        nn.Sequential(nn.BatchNorm2d(3)),
        nn.Sequential(nn.Conv2d(3, 8, 1), nn.PixelShuffle(2), nn.BatchNorm2d(2)),
        nn.Sequential(nn.Conv3d(3, 4, 1), nn.BatchNorm3d(4)),
    ):
        with pytest.raises(UserError, match="no Conv2d or Linear with as many outputs is defined before it"):
            convert(model, "mabn")
        convert(model, "brn")
