"""The batch-free norms (BFN) by name.

To add one, add an entry. A norm that torch does not have also needs a class derived from
`suite.models.batch_free.Norm`.
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class BatchFreeNormEntry:
    """A batch-free norm.

    `constructor`: "module:attribute", called as (num_groups, num_channels, affine=...) if the norm
    `takes_groups`, else as (num_channels, affine=...). `not_for_vectors` says why the norm cannot be used
    on inputs (N, C) without pixels; empty if it can.
    """

    label: str
    meaning: str
    constructor: str
    takes_groups: bool = False
    not_for_vectors: str = ""


_NO_VECTORS = "a unit of one sample is a single number"
BATCH_FREE_NORMS = {
    "gn": BatchFreeNormEntry("GN", "group norm", "torch.nn:GroupNorm", takes_groups=True),
    "ln": BatchFreeNormEntry("LN", "layer norm", "suite.models.batch_free:layer_norm"),
    "in": BatchFreeNormEntry(
        "IN", "instance norm", "suite.models.batch_free:instance_norm", not_for_vectors=_NO_VECTORS
    ),
    "gw": BatchFreeNormEntry(
        "GW", "group whitening", "suite.models.batch_free:GroupWhitening", takes_groups=True
    ),
}
GROUPED = [name for name, entry in BATCH_FREE_NORMS.items() if entry.takes_groups]
