"""One pass of a network over batches: the moments of its BN layers' inputs, and its accuracy."""

from collections.abc import Iterable, Iterator
from dataclasses import replace
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from suite.errors import UserError
from suite.shift.batches import Logits, images_of, placed, right_of
from suite.shift.recorder import Adapt, Pass, recording


@torch.no_grad()
def run_pass(
    model: nn.Module,
    batches: Iterable[Any],
    purpose: str,
    *,
    with_labels: bool = False,
    logits: Logits | None = None,
    adapt: Adapt | None = None,
    with_frozen: bool = False,
    with_functional: bool = False,
    over_ranks: bool = True,
) -> Pass:
    """Run the model, in the mode that it is in, over batches as `suite.shift.batches.images_of` takes them.

    A compiled model runs uncompiled, since compiled code calls no hooks. Images go to the device and, unless
    they are integers, to the type of the first parameter. `logits` takes the (N, K) logits out of what the
    model returns; `with_frozen` records layers that normalise with constants, too, and `with_functional`, in
    a single process, what F.batch_norm is given with buffers of no layer. Under torch.distributed every rank
    gives its own share and gets the pass of all, unless `over_ranks` is false and the pass is this rank's
    alone. Raises UserError, with `purpose` in front, when there are no images, when a BN layer that uses
    batch statistics gets a single value per channel, when `adapt` cannot reach a layer, and when a label has
    no output of the network.
    """
    parameter = next(model.parameters(), torch.empty(0))
    right: list[Tensor] = []
    is_joined = over_ranks and dist.is_initialized()
    options = {"with_frozen": with_frozen, "with_functional": with_functional and not is_joined}
    with recording(model, purpose, adapt=adapt, **options) as recorder:
        for batch in recorder.watched(batches):
            output = model(placed(images_of(batch, purpose), recorder.device, parameter.dtype))
            of_batch_N = right_of(batch, output, logits, purpose) if with_labels else None
            if of_batch_N is not None:
                right.append(of_batch_N)
    right_N = torch.cat(right) if right else torch.zeros(0, dtype=torch.bool)
    found = recorder.result((len(right_N), int(right_N.sum())), over_ranks=over_ranks)
    return replace(found, right_N=right_N if len(right_N) == recorder.num_images else None)


def check_repeatable(batches: Iterable[Any], purpose: str) -> None:
    """Raise UserError for an iterator, which is empty when it is read again."""
    if isinstance(batches, Iterator):
        raise UserError(f"{purpose}: the batches are read several times; give a list or a loader")


def top1_of(seen: Pass, purpose: str) -> float:
    """Return the pass's top-1 (%). Raises UserError when it has none."""
    if seen.top1_percent is None:
        needs = "accuracy needs batches of (images, labels), and (N, K) logits"
        raise UserError(f"{purpose}: {needs}; `logits` can take them out of what the network returns")
    return seen.top1_percent
