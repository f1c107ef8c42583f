"""The ways to choose a BN layer's statistics at test time, by name.

To add one, add an entry, and a class in `suite.shift.robustness.test_time` that satisfies `Chooser`.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True)
class TestTimeEntry:
    """A method. `source`: the paper.

    `chooser`: "module:class", called for each layer with its estimates, each (C,), and `options`; empty if
    the estimates are used. `needs_batch`: whether it cannot do with one value per channel.
    """

    __test__ = False  # not a test, whatever its name begins with

    meaning: str
    source: str
    chooser: str = ""
    options: Mapping[str, float] = field(default_factory=dict)
    needs_batch: bool = False


_MODULE = "suite.shift.robustness.test_time"
METHODS = {
    "frozen": TestTimeEntry("the estimates of training, unchanged", "Ioffe and Szegedy 2015"),
    "prediction-time": TestTimeEntry(
        "the statistics of each test batch", "Nado et al. 2020", f"{_MODULE}:PredictionTime", needs_batch=True
    ),
    "alpha-16": TestTimeEntry(
        "16/(16 + n) estimates + n/(16 + n) test batch of n images",
        "Schneider et al. 2020",
        f"{_MODULE}:AlphaBatchNorm",
        {"source_images": 16},
        needs_batch=True,
    ),
    "alpha-128": TestTimeEntry(
        "128/(128 + n) estimates + n/(128 + n) test batch of n images",
        "Schneider et al. 2020",
        f"{_MODULE}:AlphaBatchNorm",
        {"source_images": 128},
        needs_batch=True,
    ),
    "unmix": TestTimeEntry(
        "16 sets of statistics that follow the stream", "Tomar et al. 2024", f"{_MODULE}:UnMix"
    ),
}
FROZEN = "frozen"
