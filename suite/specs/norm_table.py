"""The norms by name: the batch-free ones (BFN), and the variants of BN, which have estimates as BN does.

To add one, add an entry. A norm that torch does not have also needs a module in `suite.models.norms`, with a
class derived from `suite.models.batch_free.Norm` or `suite.models.norms.variant.BatchNormVariant`.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class BatchFreeNormEntry:
    """A batch-free norm.

    `constructor`: "module:attribute", called as (num_groups, num_channels, affine=...) if the norm
    `takes_groups`, else as (num_channels, affine=...). `not_for_vectors` says why the norm cannot be used
    on inputs (N, C) without pixels; empty if it can. `activates`: the norm contains an activation, which
    takes the place of the one behind it; its constructor also takes `activate`, false where there is none.
    """

    label: str
    meaning: str
    constructor: str
    takes_groups: bool = False
    not_for_vectors: str = ""
    activates: bool = False


@dataclass(frozen=True)
class VariantEntry:
    """A variant of BN: a norm with estimates, which replaces BN at every site.

    `constructor`: "module:class", called as (num_features, eps=..., momentum=..., affine=..., **options).
    `options`: the fields of `suite.specs.norm.VariantSpec` that it takes, with their defaults.
    `reads_estimates`: training itself uses them, so that ranks, each with its own, would train different
    networks. `centres_weights`: it subtracts no mean, and the weights of the layer before it are centred.
    """

    label: str
    meaning: str
    constructor: str
    options: Mapping[str, Any] = field(default_factory=dict)
    reads_estimates: bool = False
    centres_weights: bool = False


_NO_VECTORS = "a unit of one sample is a single number"
BATCH_FREE_NORMS = {
    "gn": BatchFreeNormEntry(
        "GN", "group norm", "suite.models.norms.group_norm:GroupNorm", takes_groups=True
    ),
    "ln": BatchFreeNormEntry("LN", "layer norm", "suite.models.batch_free:layer_norm"),
    "in": BatchFreeNormEntry(
        "IN", "instance norm", "suite.models.batch_free:instance_norm", not_for_vectors=_NO_VECTORS
    ),
    "gw": BatchFreeNormEntry(
        "GW", "group whitening", "suite.models.batch_free:GroupWhitening", takes_groups=True
    ),
    "frn": BatchFreeNormEntry(
        "FRN",
        "filter response norm with TLU",
        "suite.models.norms.frn:FilterResponseNorm",
        not_for_vectors=_NO_VECTORS,
        activates=True,
    ),
    "evonorm": BatchFreeNormEntry(
        "EvoNorm", "EvoNorm-S0", "suite.models.norms.evonorm:EvoNormS0", takes_groups=True, activates=True
    ),
    "dyt": BatchFreeNormEntry("DyT", "dynamic tanh", "suite.models.norms.dyt:DynamicTanh"),
}
GROUPED = [name for name, entry in BATCH_FREE_NORMS.items() if entry.takes_groups]

BATCH_NORM_VARIANTS = {
    "brn": VariantEntry(
        "BRN",
        "batch renormalisation",
        "suite.models.norms.brn:BatchRenorm",
        options={"relax_batches": (5_000, 40_000, 25_000)},
        reads_estimates=True,
    ),
    "mabn": VariantEntry(
        "MABN",
        "moving-average BN",
        "suite.models.norms.mabn:MovingAverageBatchNorm",
        options={"window": 16},
        reads_estimates=True,
        centres_weights=True,
    ),
    "bcbn": VariantEntry(
        "BCBN", "BN with bias-corrected estimates", "suite.models.norms.bcbn:BiasCorrectedBatchNorm"
    ),
}
