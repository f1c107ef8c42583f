"""Differences of accuracies in points of top-1, with 95 % intervals.

On the same images: the adjusted Wald interval of Bonett and Price (2012), which Fagerland, Lydersen and Laake
(2014) recommend. Of n images, b are right only afterwards and c only before; with one image more in each,

    p = (b + 1) / (n + 2)      q = (c + 1) / (n + 2)      p − q ± z √((p + q − (p − q)²) / (n + 2))

On different images: the adjusted Wald interval of Agresti and Caffo (2000), with one right and one wrong
image more on each side. Both keep their coverage where few images change; Wald's own interval does not.
"""

import math
from dataclasses import dataclass
from statistics import NormalDist

from torch import Tensor

Z = NormalDist().inv_cdf(0.975)


@dataclass(frozen=True)
class Change:
    """A difference of two accuracies, in points of top-1, and its 95 % interval. Negative: a loss."""

    points: float
    low: float
    high: float

    @property
    def is_gain(self) -> bool:
        """Whether the interval lies above zero."""
        return self.low > 0

    def __str__(self) -> str:
        return f"{self.points:+.1f} points [{self.low:+.1f}, {self.high:+.1f}]".replace("-", "−")


def paired_change(before_N: Tensor, after_N: Tensor) -> Change:
    """Return the change of accuracy on the same N images, of each of which is known whether it is right."""
    num_images = len(before_N)
    only_after, only_before = (int((a & ~b).sum()) for a, b in ((after_N, before_N), (before_N, after_N)))
    p, q = (only_after + 1) / (num_images + 2), (only_before + 1) / (num_images + 2)
    half = Z * math.sqrt((p + q - (p - q) ** 2) / (num_images + 2))
    return _change((only_after - only_before) / num_images, p - q, half)


def unpaired_change(before_N: Tensor, after_M: Tensor) -> Change:
    """Return the change of accuracy from N images to M other ones."""
    (before, p, p_var), (after, q, q_var) = _adjusted(before_N), _adjusted(after_M)
    return _change(after - before, q - p, Z * math.sqrt(p_var + q_var))


def _adjusted(right_N: Tensor) -> tuple[float, float, float]:
    """Return the share of right images, and that with one right and one wrong more, with its variance."""
    right, count = int(right_N.sum()), len(right_N)
    share = (right + 1) / (count + 2)
    return right / count, share, share * (1 - share) / (count + 2)


def _change(difference: float, centre: float, half: float) -> Change:
    low, high = max(-1.0, centre - half), min(1.0, centre + half)
    return Change(100 * difference, 100 * low, 100 * high)
