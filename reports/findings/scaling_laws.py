"""Amdahl's and Gustafson's laws, fitted to images/s on several numbers of nodes.

Strong scaling, the same work on more nodes (Amdahl, AFIPS 1967): time has a serial and a parallel part, and
1 / images_per_s = a + b / nodes. Weak scaling, work that grows with the nodes (Gustafson, CACM 31, 1988):
images_per_s = a + b · nodes. In both the serial share is a / (a + b), and neither part is negative.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from scipy import optimize

ScalingMode = Literal["strong", "weak"]


@dataclass(frozen=True)
class Law:
    """`work`: what stays the same. `quantity`: what is a + b · `regressor(nodes)`; it is its own inverse."""

    name: str
    work: str
    regressor: Callable[[float], float]
    quantity: Callable[[float], float]


LAWS: dict[ScalingMode, Law] = {
    "strong": Law("Amdahl's law", "the same global batch on all nodes", lambda n: 1 / n, lambda v: 1 / v),
    "weak": Law("Gustafson's law", "a global batch that grows with the nodes", lambda n: n, lambda v: v),
}


@dataclass(frozen=True)
class Fit:
    """A law with its two parts, and by how much a measurement is off it at most, as a share."""

    law: Law
    serial: float
    parallel: float
    largest_error: float
    num_counts: int

    @property
    def serial_share(self) -> float:
        """The serial part on one node."""
        return self.serial / (self.serial + self.parallel)

    def images_per_s(self, nodes: float) -> float:
        return self.law.quantity(self.serial + self.parallel * self.law.regressor(nodes))


def fit(law: Law, values: Sequence[tuple[int, float]]) -> Fit | None:
    """Fit a law to (nodes, images/s) by least squares of the relative errors; None below two counts."""
    counts = {nodes for nodes, _ in values}
    if len(counts) < 2:
        return None
    x = np.array([law.regressor(nodes) for nodes, _ in values])
    y = np.array([law.quantity(speed) for _, speed in values])
    (serial, parallel), _ = optimize.nnls(np.column_stack([1 / y, x / y]), np.ones_like(y))
    errors = np.abs((serial + parallel * x) / y - 1)
    return Fit(law, float(serial), float(parallel), float(errors.max()), len(counts))
