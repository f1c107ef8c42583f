"""The signature of each cause: what it leaves in the estimates, and the statistics that would remedy it."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from statistics import median, median_low
from typing import Any

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from suite.shift.attribute import split_passes
from suite.shift.diagnosis.causes import listed
from suite.shift.diagnosis.distances import FAR, lag, lag_ratios, sampling_error
from suite.shift.diagnosis.observe import Observed, inference_pass, momentum_of, updates_of
from suite.shift.layers import is_untrained
from suite.shift.origins import find_origins
from suite.shift.precise import Statistics, initial_share, with_statistics, without_initial

WARM = 0.01  # share of the initial values that is left in warmed-up averages
BEHIND = 0.5  # of the median number of updates
OUTSTANDING = 3.0  # times the sampling error, or the median layer's
SHORT = 0.05  # a sampling error, in standard deviations, that could matter
SMALL = 0.5  # a last batch's share of the others' images
REACH = 0.05  # of the training: averages that reach back further lag behind
MAX_TRIED = 8  # layers in which the shift may start


@dataclass(frozen=True)
class Suspicion:
    """A cause whose signature holds.

    `statistics` are those that its remedy gives to the layers that it changes; with `control`, the cause is
    harmful only if they are better than these too. `is_told`: whether it is worth a warning if it is
    harmless.
    """

    cause: str
    layers: tuple[str, ...]
    evidence: dict[str, Any]
    statistics: Statistics
    control: Statistics | None = None
    is_told: bool = True


Suspect = Callable[[Observed, Statistics], Suspicion | None]


def broken(observed: Observed, current: Statistics) -> Suspicion | None:
    """Estimates that are not finite, or variances that are negative, or 0 where the inputs vary."""
    return _broken(observed, current, averaging(observed))


def broken_constants(observed: Observed, current: Statistics) -> Suspicion | None:
    """As `broken`, of layers that normalise with constants."""
    found = _broken(observed, current, _with_constants(observed))
    return found and replace(found, statistics=observed.exact_of_constants(found.layers))


def _broken(observed: Observed, current: Statistics, among: Mapping[str, nn.Module]) -> Suspicion | None:
    kinds: dict[str, list[str]] = {}
    for name, layer in among.items():
        mean_C, var_C = current[name]
        eps = float(getattr(layer, "eps", 1e-5))
        is_constant_C = (var_C == 0) & (observed.exact[name][1] > 10 * eps)
        found = {
            "NaN": mean_C.isnan() | var_C.isnan(),
            "infinities": mean_C.isinf() | var_C.isinf(),
            "negative variances": var_C < 0,
            "variances of 0 for inputs that do vary": is_constant_C,
        }
        for kind in (kind for kind, is_so_C in found.items() if bool(is_so_C.any())):
            kinds.setdefault(kind, []).append(name)
    layers = [name for name in among if any(name in names for names in kinds.values())]
    if not layers:
        return None
    return _exact_of(observed, "broken", layers, {"what": " and ".join(kinds)})


def never_updated(observed: Observed, current: Statistics) -> Suspicion | None:
    """All estimates are the initial 0 and 1, and no layer has counted a batch."""
    layers = averaging(observed)
    if not layers or not all(map(is_untrained, layers.values())):
        return None
    return _exact_of(observed, "never_updated", list(layers), {})


def constants(observed: Observed, current: Statistics) -> Suspicion | None:
    """Layers that normalise with constants (FrozenBatchNorm2d) which are far from the population."""
    found = [name for name in _with_constants(observed) if lag(observed, current, name) > FAR]
    if not found:
        return None
    exact = observed.exact_of_constants(found)
    lags = [lag(observed, current, name) for name in found]
    evidence = {"reason": "they are constants", "lag": median(lags)}
    return replace(_exact_of(observed, "frozen", found, evidence), statistics=exact)


def frozen(observed: Observed, current: Statistics) -> Suspicion | None:
    """Layers that have followed fewer batches than the others, or are set never to follow one."""
    layers = averaging(observed)
    updates = {name: updates_of(layer) for name, layer in layers.items()}
    usual = median(updates.values()) if updates else 0
    is_mixed = len({observed.is_training[name] for name in layers}) > 1
    found: dict[str, str] = {}
    for name, layer in layers.items():
        if layer.momentum == 0:
            found[name] = "their momentum is 0"
        elif is_mixed and not observed.is_training[name]:
            found[name] = "they are in inference mode while other BN layers are in training mode"
        elif updates[name] < BEHIND * usual:
            found[name] = f"they were updated {updates[name]:,} times, the median layer {usual:,.0f} times"
    if not found:
        return None
    reasons = " or ".join(list(dict.fromkeys(found.values()))[:2])
    distance = median(lag(observed, current, name) for name in found)
    return _exact_of(observed, "frozen", list(found), {"reason": reasons, "lag": distance})


def warming_up(observed: Observed, current: Statistics) -> Suspicion | None:
    """Running averages that still consist of their initial 0 and 1 to more than WARM."""
    shares = {
        name: initial_share(layer)
        for name, layer in averaging(observed).items()
        if updates_of(layer) > 0 and current[name] is observed.own[name]
    }
    cold = {name: share for name, share in shares.items() if WARM < share < 1}
    if not cold:
        return None
    worst = max(cold, key=lambda name: cold[name])
    layer = observed.layers[worst]
    momentum = momentum_of(layer)
    evidence = {
        "updates": updates_of(layer),
        "momentum": momentum,
        "share_percent": 100 * cold[worst],
        "needed": math.ceil(math.log(WARM) / math.log(1 - momentum)),
    }
    corrected = {
        name: without_initial(current[name][0].double(), current[name][1].double(), share)
        for name, share in cold.items()
    }
    # Averages that began elsewhere, as in fine-tuning, do not come closer to the population.
    if all(lag(observed, corrected, name) >= lag(observed, current, name) for name in cold):
        return None
    return Suspicion("warming_up", tuple(cold), _named(observed, list(cold), evidence), corrected)


def inherited(observed: Observed, current: Statistics) -> Suspicion | None:
    """A few layers whose own estimates are far off, from which the others inherit their shift."""
    lags = {name: lag(observed, current, name) for name in observed.layers}
    ratios = {name: lags[name] / (sampling_error(observed, name) or math.inf) for name in lags}
    least = max(FAR, OUTSTANDING * median_low(lags.values()))
    found = [name for name in averaging(observed) if lags[name] > least and ratios[name] > OUTSTANDING]
    if not found or 2 * len(found) > len(lags):
        return None
    tried = sorted(found, key=lambda name: -lags[name])[:MAX_TRIED]
    with with_statistics(observed.model, current):
        origins = find_origins(
            observed.model,
            observed.evaluation,
            training_batches=observed.training,
            layers=tried,
            logits=observed.logits,
        )
    start = origins.starts or tried[0]
    evidence = {
        "start": f"layer {start}",
        "lag": lags[start],
        "ratio": ratios[start],
        "inheritance": _inheritance(observed, current, found),
    }
    return _exact_of(observed, "inherited", found, evidence)


def last_batch(observed: Observed, current: Statistics) -> Suspicion | None:
    """A last batch that is far smaller than the others, which running averages weigh as any other."""
    *sizes, last = observed.training.sizes
    usual = median(sizes)
    momentum = _usual_momentum(observed)
    if last > SMALL * usual or momentum == 0:
        return None
    # Averages that are further off than a small batch can bring them have another cause.
    if median(lag_ratios(observed, current, momentum**2 * usual / last)) > OUTSTANDING:
        return None
    without, ending = {}, {}
    for name, watch in observed.watches.items():
        without[name] = watch.before_last.started_at(current[name])
        ending[name] = watch.average.started_at(current[name])
    evidence = {"last": last, "usual": round(usual), "momentum": momentum}
    layers = list(observed.layers)
    return Suspicion("last_batch", tuple(layers), _named(observed, layers, evidence), without, ending)


def whole_average(observed: Observed, current: Statistics) -> Suspicion | None:
    """Averages that are, in the median layer, further from the population than sampling brings them.

    Those that reach back over a large part of the training lag behind; others are of other weights or images,
    as those of averaged weights are. Where sampling explains the distance, the average is too short.
    """
    distance = median(lag(observed, current, name) for name in observed.layers)
    ratio = median(lag_ratios(observed, current))
    momentum = _usual_momentum(observed)
    if momentum == 0:
        return None
    updates = round(median(updates_of(layer) for layer in averaging(observed).values()))
    evidence = {
        "momentum": momentum,
        "span": round(1 / momentum),
        "updates": updates,
        "lag": distance,
        "ratio": ratio,
        "covered": (2 - momentum) / momentum,
        "samples": median(watch.samples_per_statistic for watch in observed.watches.values()),
        "error": median(sampling_error(observed, name) for name in observed.layers),
        "better": min(0.5, max(2 * momentum, 1 / (REACH * max(1, updates)))),
    }
    if ratio > OUTSTANDING:
        cause = "slow_momentum" if updates and 1 / momentum > REACH * updates else "stale"
        cause = "averaged" if observed.has_averaged_weights else cause
    elif evidence["error"] > SHORT:
        cause = "short_average"
    else:
        return None
    is_told = ratio > OUTSTANDING and distance > 5 * FAR
    return replace(_exact_of(observed, cause, list(observed.layers), evidence), is_told=is_told)


# Judged before all others: constants stand before the layers behind them in training mode too.
OF_CONSTANTS: tuple[Suspect, ...] = (broken_constants, constants)
# In this order: what a layer itself says comes before what its distances suggest.
SUSPECTS: tuple[Suspect, ...] = (
    *(broken, never_updated, frozen, warming_up),
    *(inherited, last_batch, whole_average),
)


def averaging(observed: Observed) -> dict[str, _BatchNorm]:
    """Return the layers that keep running averages, and not constants, in forward order."""
    return {name: layer for name, layer in observed.layers.items() if isinstance(layer, _BatchNorm)}


def _with_constants(observed: Observed) -> dict[str, nn.Module]:
    """Return the other layers, which normalise with constants."""
    return {name: layer for name, layer in observed.layers.items() if not isinstance(layer, _BatchNorm)}


def _usual_momentum(observed: Observed) -> float:
    """Return the median momentum of the layers that keep running averages; 0 if there are none."""
    momenta = [momentum_of(layer) for layer in averaging(observed).values()]
    return median(momenta) if momenta else 0.0


def _inheritance(observed: Observed, current: Statistics, found: list[str]) -> str:
    """Return a sentence on how much of their shift the layers behind the first of `found` inherit."""
    order = list(observed.layers)
    behind = [name for name in order[order.index(found[0]) + 1 :] if name not in found]
    if not behind:
        return "No other layer is behind it."
    expected = inference_pass(observed.model, observed.training, observed.logits, current)
    with with_statistics(observed.model, current):
        split = split_passes(
            observed.model, observed.layers, observed.training_by_batch, expected, is_same=True
        )
    parts = [part for layer in split.layers if layer.name in behind for part in (layer.mu, layer.sigma)]
    share = median(part.inherited / part.esm for part in parts if part.esm > 0)
    layers = "the layer" if len(behind) == 1 else f"the {len(behind)} layers"
    return f"In {layers} behind it, {100 * share:.0f} % of the shift is inherited (median)."


def _exact_of(observed: Observed, cause: str, layers: list[str], evidence: Mapping[str, Any]) -> Suspicion:
    statistics = {name: observed.exact[name] for name in layers}
    return Suspicion(cause, tuple(layers), _named(observed, layers, evidence), statistics)


def _named(observed: Observed, layers: list[str], evidence: Mapping[str, Any]) -> dict[str, Any]:
    return {"layers": listed(layers, len(observed.layers)), **evidence}
