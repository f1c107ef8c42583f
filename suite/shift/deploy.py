"""What a network is worth as it is deployed, with its norms folded and in int8, and which shift is frozen in.

Folding makes the estimates part of the weights. So the same network is measured before and after, with the
statistics that it has and with re-estimated ones: the difference is what re-estimating before folding gives.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from suite.errors import UserError
from suite.shift.batches import Logits, images_of, logits_of, placed
from suite.shift.fold import Folded, fold_batch_norms
from suite.shift.layers import preserved
from suite.shift.passes import check_repeatable
from suite.shift.precise import precise_statistics, with_statistics
from suite.shift.probe import ShiftProfile, probe
from suite.shift.quantise import quantised
from suite.shift.re_estimate import OWN, RE_ESTIMATED, top1_percent_of

if TYPE_CHECKING:
    import altair as alt
    import pandas as pd

PURPOSE = "deploy"
FLOAT, FOLDED, INT8 = "float", "folded", "int8"


@dataclass(frozen=True)
class Form:
    """A network as it is deployed: float, folded or int8, with the statistics that were frozen in.

    `logit_difference`: the largest one from the float network's logits with these statistics, in units of
    their standard deviation. `esm_mu_scaled`, `esm_sigma_scaled`: means over the layers that were folded.
    """

    network: str
    statistics: str
    top1_percent: float
    logit_difference: float
    esm_mu_scaled: float
    esm_sigma_scaled: float


@dataclass(frozen=True)
class Deployment:
    """The forms; the float network with its own statistics is the first. `folded`, `left`: names of norms."""

    rows: tuple[Form, ...]
    num_images: int
    folded: tuple[str, ...]
    left: dict[str, str]

    def to_frame(self) -> "pd.DataFrame":
        """Return a row for each form, its fields, and `top1_gain_percent` against the first, in points."""
        import pandas as pd

        frame = pd.DataFrame([vars(row) for row in self.rows])
        return frame.assign(top1_gain_percent=frame.top1_percent - self.rows[0].top1_percent)

    def plot(self) -> "alt.Chart":
        """Top-1 by form, with both statistics."""
        from suite.shift.charts import deployment_chart

        return deployment_chart(self.to_frame())


def deploy(
    model: nn.Module,
    batches: Iterable[Any],
    training_batches: Iterable[Any],
    *,
    int8: bool = False,
    logits: Logits | None = None,
) -> Deployment:
    """Measure `model` in float, with its norms folded and, with `int8`, quantised; each in two ways.

    First with the statistics that it has, then with PreciseBN's over `training_batches`, each time folded
    anew. The shift is `probe`'s, before folding: it is what is frozen in. int8 is calibrated on the training
    batches. `batches` yields (images (N, C, *), labels (N,)) pairs or loader batches and is read repeatedly,
    as are the training batches. `logits` takes the (N, K) logits out of what the model returns. The model is
    restored. Raises UserError as `fold_batch_norms`, `quantised` and `precise_statistics` do, and for batches
    without labels.
    """
    for one in (batches, training_batches):
        check_repeatable(one, PURPOSE)
    folded = fold_batch_norms(model)  # so that a network which cannot be folded is refused at once
    rows: list[Form] = []
    for name, statistics in ((OWN, {}), (RE_ESTIMATED, precise_statistics(model, training_batches))):
        with with_statistics(model, statistics):
            folded, profile = fold_batch_norms(model), probe(model, batches)
            forms: dict[str, nn.Module] = {FLOAT: model, FOLDED: folded.network}
            forms |= {INT8: quantised(folded.network, training_batches)} if int8 else {}
            rows += [_form(form, name, forms, batches, logits, profile, folded) for form in forms]
    return Deployment(tuple(rows), profile.num_images, tuple(folded.into), dict(folded.left))


def _form(
    form: str,
    statistics: str,
    forms: dict[str, nn.Module],
    batches: Iterable[Any],
    logits: Logits | None,
    profile: ShiftProfile,
    folded: Folded,
) -> Form:
    top1_percent = top1_percent_of(forms[form], batches, logits)
    if top1_percent is None:
        needs = "accuracy needs batches of (images, labels), and (N, K) logits"
        raise UserError(f"{PURPOSE}: {needs}; `logits` can take them out of what the network returns")
    difference = 0.0 if form == FLOAT else logit_difference(forms[FLOAT], forms[form], batches, logits)
    frozen_in = [layer for layer in profile.layers if layer.name in folded.into]
    mu, sigma = (
        sum(getattr(layer, metric) for layer in frozen_in) / len(frozen_in) if frozen_in else float("nan")
        for metric in ("esm_mu_scaled", "esm_sigma_scaled")
    )
    return Form(form, statistics, top1_percent, difference, mu, sigma)


@torch.no_grad()
def logit_difference(
    one: nn.Module, other: nn.Module, batches: Iterable[Any], logits: Logits | None = None
) -> float:
    """Return the largest difference of two networks' logits, in standard deviations of the first one's."""
    with preserved(one), preserved(other):
        pairs = [[_logits(net.eval(), batch, logits) for net in (one, other)] for batch in batches]
    first_NK, second_NK = (torch.cat([pair[i] for pair in pairs]).double() for i in range(2))
    unit = first_NK.std().clamp(min=torch.finfo(torch.float64).tiny)
    return float((first_NK - second_NK).abs().max() / unit)


def _logits(network: nn.Module, batch: Any, logits: Logits | None) -> Tensor:
    parameter = next(network.parameters(), torch.empty(0))
    found = logits_of(network(placed(images_of(batch, PURPOSE), parameter.device, parameter.dtype)), logits)
    assert found is not None, "top-1 was measured before"
    return found.cpu()
