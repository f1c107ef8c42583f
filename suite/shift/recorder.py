"""Records the moments of BN layers' inputs while a network runs over batches."""

import functools
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from dataclasses import dataclass, field, replace
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from suite.errors import UserError
from suite.shift.batches import images_of
from suite.shift.functional import BatchNormCalls
from suite.shift.layers import (
    batch_norm_layers,
    centres,
    frozen_layers,
    is_untrained,
    measures_itself,
    num_channels,
)
from suite.shift.moments import ChannelMoments, batch_moments, merge_each, reduce_over_ranks
from suite.shift.resample import GroupMoments

PAST_HOOKS = "is called by its `forward`, which runs no hook: call the layer itself, as layer(x)"

# Batch i belongs to group i mod this many. The number is even, so that the even groups hold the even batches.
NUM_GROUPS = 20
# Called before a layer runs: its name, and of its input (N, C, *) the N, the number of values of a channel,
# the mean and the biased variance (C,).
Adapt = Callable[[str, int, int, Tensor, Tensor], None]


class LayerInputs:
    """Moments of one BN layer's inputs in a pass, by group of batches, and its calls.

    For a layer that subtracts no mean they are those that it estimates: mean 0, and E[x²] for the variance.
    """

    def __init__(self, num_channels: int, device: torch.device) -> None:
        self.groups = [ChannelMoments(num_channels, device) for _ in range(NUM_GROUPS)]
        self.num_calls = 0
        self.num_batches = 0

    @functools.cached_property
    def whole(self) -> ChannelMoments:
        """The moments over all batches. Read it when the pass is over."""
        whole = ChannelMoments(self.groups[0].mean_C.numel(), self.groups[0].mean_C.device)
        for group in self.groups:
            whole.merge(group.count, group.mean_C, group.squares_C)
        return whole

    def half(self, parity: int) -> ChannelMoments:
        """Return the moments over the even (0) or the odd batches (1). Read them when the pass is over."""
        half = ChannelMoments(self.groups[0].mean_C.numel(), self.groups[0].mean_C.device)
        for group in self.groups[parity::2]:
            half.merge(group.count, group.mean_C, group.squares_C)
        return half

    @functools.cached_property
    def by_group(self) -> GroupMoments:
        """The moments of each group. Read them when the pass is over."""
        return GroupMoments.of(self.groups)


@dataclass(frozen=True)
class Pass:
    """The result of a pass over all batches, also those of other ranks.

    `inputs` is in the order in which the forward pass first calls the layers. `top1_percent` is None where
    the batches have no labels or the network gives no (N, K) logits, nor detections. `right_N` says of each
    of this rank's images, in their order, whether it was right, as `suite.shift.batches.right_of` says; None
    as above. `unhooked` are the layers
    whose `forward` is called directly, which no hook sees. `functional`: statistics with which F.batch_norm
    was called and which belong to no layer; `num_unnamed`: calls with such that are nowhere in the network.
    """

    inputs: Mapping[str, LayerInputs]
    num_images: int
    num_batches: int
    top1_percent: float | None
    unhooked: frozenset[str] = frozenset()
    right_N: Tensor | None = None
    functional: Mapping[str, nn.Module] = field(default_factory=dict)
    num_unnamed: int = 0

    def notes(self, layers: Mapping[str, nn.Module]) -> dict[str, str]:
        """Return a warning for each called layer whose numbers need one, by layer name."""
        found = {}
        for name, layer in layers.items():
            if name not in self.inputs:
                continue
            parts, seen = [], self.inputs[name]
            if is_untrained(layer):
                parts.append("its estimates are the initial 0 and 1: no training batch has updated them")
            if seen.num_batches < self.num_batches:
                parts.append(
                    f"called in {seen.num_batches} of {self.num_batches} batches: its numbers are over those"
                )
            if seen.num_calls > seen.num_batches:
                calls = f"{seen.num_calls} times in {seen.num_batches} batches"
                parts.append(f"called {calls}: its statistics are over all calls")
            if not (seen.whole.mean_C.isfinite().all() and seen.whole.squares_C.isfinite().all()):
                parts.append("its inputs are not finite: they overflowed, or the network has diverged")
            if parts:
                found[name] = "; ".join(parts)
        return found


@contextmanager
def recording(
    model: nn.Module,
    purpose: str,
    *,
    adapt: Adapt | None = None,
    with_frozen: bool = False,
    with_functional: bool = False,
) -> Iterator["Recorder"]:
    """Record the inputs of BN layers while something else runs the model over `Recorder.watched` batches.

    For those that run the model anyway, such as an evaluation. Arguments are those of `run_pass`.
    """
    layers: dict[str, nn.Module] = {**batch_norm_layers(model)}
    layers |= frozen_layers(model) if with_frozen else {}
    recorder = Recorder(model, layers, purpose, adapt, with_functional)
    with ExitStack() as hooks:
        hooks.enter_context(_uncompiled())
        for name, layer in recorder.layers.items():
            hook = functools.partial(recorder.record, name)
            hooks.callback(layer.register_forward_pre_hook(hook, with_kwargs=True).remove)
            if adapt is None and hasattr(layer, "take_moments"):
                fused: Any = layer  # it hands over its moments, and says where it is in the order
                fused.take_moments = functools.partial(recorder.take, name, layer)
                fused.when_reached = functools.partial(recorder.of, name)
                hooks.callback(layer.__dict__.pop, "take_moments")
                hooks.callback(layer.__dict__.pop, "when_reached")
        yield recorder


class Recorder:
    """Records the moments of BN layers' inputs, as a forward pre-hook of each."""

    def __init__(
        self,
        model: nn.Module,
        layers: dict[str, nn.Module],
        purpose: str,
        adapt: Adapt | None,
        with_functional: bool,
    ) -> None:
        self.layers, self.purpose, self.adapt = layers, purpose, adapt
        self.with_functional = with_functional
        self.functions = BatchNormCalls(model, list(layers.values()), self.record_call)
        self.functional: dict[str, nn.Module] = {}
        self.device = next((p.device for p in model.parameters()), torch.device("cpu"))
        self.inputs: dict[str, LayerInputs] = {}
        self.num_images = self.num_batches = 0
        self.unhooked: frozenset[str] = frozenset()
        self._last_batch: dict[str, int] = {}
        self._pending: dict[str, tuple[ChannelMoments, int, Tensor, Tensor]] = {}

    def watched(self, batches: Iterable[Any]) -> Iterator[Any]:
        """Yield the batches that have images. The caller runs each through the model before the next."""
        if not isinstance(batches, Iterable):
            found = type(batches).__name__
            raise UserError(f"{self.purpose}: expected batches, such as a list or a loader, got {found}")
        for batch in batches:
            if (count := len(images_of(batch, self.purpose))) == 0:
                continue
            self.num_images += count
            self.num_batches += 1
            is_watched = self.num_batches == 1 or self.functional
            with self._watching_functions() if is_watched else nullcontext():
                yield batch
            self._merge_pending()

    def result(self, labels: tuple[int, int] = (0, 0), *, over_ranks: bool = True) -> Pass:
        """Return what was recorded, also by other ranks. `labels`: how many images had one, and were right.

        Raises UserError when there were no images.
        """
        self._merge_pending()
        counts = (self.num_images, self.num_batches, *labels)
        return _joined(self, counts, self.purpose, over_ranks and dist.is_initialized())

    def of(self, name: str) -> LayerInputs:
        """Return the layer's inputs so far. The first call determines its place in the order."""
        if name not in self.inputs:
            self.inputs[name] = LayerInputs(num_channels(self.layers[name]), self.device)
        return self.inputs[name]

    @contextmanager
    def _watching_functions(self) -> Iterator[None]:
        """Note which layers normalise without calling their hooks. Raises UserError where it matters."""
        with self.functions:
            yield
        means = self.functions.running_means
        self.unhooked = frozenset(
            name
            for name, layer in self.layers.items()
            if name not in self.inputs and any(layer.running_mean is mean for mean in means)
        )
        if self.unhooked and self.adapt is not None:
            raise UserError(f"{self.purpose}: {min(self.unhooked)} {PAST_HOOKS}")

    def record_call(self, name: str, layer: nn.Module, x_NC: Tensor) -> None:
        """Record what F.batch_norm is given with statistics of no layer, as if it were a layer's input."""
        if self.with_functional:
            self.layers[name] = self.functional[name] = layer
            self.record(name, layer, (x_NC,), {})

    def _near(self, layer: nn.Module) -> Tensor | None:
        """Return numbers near the layer's mean; none where the moments are for the layer itself to use."""
        near_C = layer.running_mean
        return near_C if isinstance(near_C, Tensor) and self.adapt is None else None

    def record(self, name: str, layer: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        if self.adapt is None and measures_itself(layer):
            return  # it calls `take`
        x_NC: Tensor = args[0] if args else next(iter(kwargs.values()))
        if x_NC.is_quantized:
            x_NC = x_NC.dequantize()
        if not (count := x_NC.numel() // x_NC.shape[1]):
            return
        if count == 1 and (layer.training or self.adapt is not None):
            raise UserError(
                f"{self.purpose}: {name} normalises with its batch, which has one value per channel "
                "(a single image) and so no variance; use larger batches, or drop the last one"
            )
        with torch._C.DisableTorchFunction():  # our own operations are not the network's
            mean_C, var_C = batch_moments(x_NC, self._near(layer))
            self._add(name, layer, x_NC, count, mean_C, var_C)

    def take(self, name: str, layer: nn.Module, x_NC: Tensor, measured: tuple[Tensor, Tensor] | None) -> None:
        """Record the moments (C,) of an input that the layer measured itself, or else those of the input."""
        if not (count := x_NC.numel() // x_NC.shape[1]):
            return
        mean_C, var_C = batch_moments(x_NC, self._near(layer)) if measured is None else measured
        self._add(name, layer, x_NC, count, mean_C, var_C)

    def _add(
        self, name: str, layer: nn.Module, x_NC: Tensor, count: int, mean_C: Tensor, var_C: Tensor
    ) -> None:
        if not centres(layer):  # then as the layer estimates them: about 0
            mean_C, var_C = torch.zeros_like(mean_C), var_C + mean_C.square()
        seen = self.of(name)
        batch = self.num_batches - 1
        if name in self._pending:
            self._merge_pending()
        self._pending[name] = (seen.groups[batch % NUM_GROUPS], count, mean_C.double(), var_C.double())
        seen.num_calls += 1
        seen.num_batches += self._last_batch.get(name) != batch
        self._last_batch[name] = batch
        if self.adapt is not None:
            self.adapt(name, len(x_NC), count, mean_C, var_C)

    def _merge_pending(self) -> None:
        """Merge the moments of all layers in the batch that has run; on a GPU in few operations."""
        if self._pending:
            into, counts, means, variances = zip(*self._pending.values(), strict=True)
            merge_each(into, counts, list(means), list(variances))
            self._pending.clear()


def _uncompiled() -> AbstractContextManager[Any]:
    """Let compiled code run as it was written: a hook that is registered after compiling is not called."""
    return torch.compiler.set_stance("force_eager") if "torch._dynamo" in sys.modules else nullcontext()


def _joined(recorder: Recorder, counts: tuple[int, int, int, int], purpose: str, over_ranks: bool) -> Pass:
    calls = {name: (seen.num_calls, seen.num_batches) for name, seen in recorder.inputs.items()}
    everyone: list[Any] = [(counts, calls)]
    if over_ranks:
        everyone = [None] * dist.get_world_size()
        dist.all_gather_object(everyone, (counts, calls))
    num_images, num_batches, num_labelled, num_right = (
        sum(one[0][i] for one in everyone) for i in range(len(counts))
    )
    if num_images == 0:
        raise UserError(f"{purpose}: no images; the batches are empty")
    # A rank without images has called no layer, so the order is that of the other ranks.
    longest = max((one[1] for one in everyone), key=len)
    order = dict.fromkeys([*longest, *(name for one in everyone for name in one[1])])
    inputs = {name: recorder.of(name) for name in order}
    for name, seen in inputs.items():
        seen.num_calls, seen.num_batches = (
            sum(one[1].get(name, (0, 0))[i] for one in everyone) for i in range(2)
        )
    if over_ranks:
        reduce_over_ranks([group for seen in inputs.values() for group in seen.groups])
    top1_percent = 100 * num_right / num_images if num_labelled == num_images else None
    found = Pass(inputs, num_images, num_batches, top1_percent, recorder.unhooked)
    return replace(found, functional=recorder.functional, num_unnamed=recorder.functions.num_unnamed)
