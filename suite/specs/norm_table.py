"""The batch-free norms (BFN) by name.

To add one, add an entry. A norm that torch does not have also needs a class derived from
`suite.models.batch_free.Norm`.
"""

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class BatchFreeNormEntry:
    """A batch-free norm.

    `constructor`: "module:attribute", called as (num_groups, num_channels, affine=...) if the norm
    `takes_groups`, else as (num_channels, affine=...). `not_for_vectors` says why the norm cannot be used
    on inputs (N, C) without pixels; empty if it can.
    """

    label: str
    meaning: str
    constructor: str
    takes_groups: bool
    not_for_vectors: str = ""


BATCH_FREE_NORMS = {
    "gn": BatchFreeNormEntry(
        label="GN", meaning="group norm", constructor="torch.nn:GroupNorm", takes_groups=True
    ),
    "ln": BatchFreeNormEntry(
        label="LN", meaning="layer norm", constructor="suite.models.batch_free:layer_norm", takes_groups=False
    ),
    "in": BatchFreeNormEntry(
        label="IN",
        meaning="instance norm",
        constructor="suite.models.batch_free:instance_norm",
        takes_groups=False,
        not_for_vectors="a unit of one sample is a single number",
    ),
    "gw": BatchFreeNormEntry(
        label="GW",
        meaning="group whitening",
        constructor="suite.models.batch_free:GroupWhitening",
        takes_groups=True,
    ),
}
GROUPED = [name for name, entry in BATCH_FREE_NORMS.items() if entry.takes_groups]
