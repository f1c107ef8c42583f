"""What a check of a claim can measure, by name.

To add a measure, add a function to the claim's module, and an entry.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

from reports.claims import depth, inference, noise_loss, positions, shift_cost, small_batches
from reports.claims.check import Measured


@dataclass(frozen=True)
class Measure:
    """What a check can measure: its text, with the names of a subset in braces, its unit and decimals."""

    text: str
    unit: str
    decimals: int
    function: Callable[..., Iterable[Measured]]


_LOST = "top-1 above chance lost to noise of δ = {deltas}"
_SIGMA = "scaled ESM σ behind the first layer"
MEASURES: Mapping[str, Measure] = {
    "inference_gap": Measure(
        "gap: error in inference mode less training error, epoch {epoch}",
        "points",
        1,
        inference.inference_gap,
    ),
    "bias_corrected_gap": Measure(
        "the gap with bias-corrected estimates, epoch {epoch}",
        "points",
        1,
        inference.bias_corrected_gap,
    ),
    "slope_by_size": Measure(
        f"{{images:,}} images: slope of the {_SIGMA}", "a layer", 4, depth.slope_by_size
    ),
    "mean_of_neighbours": Measure(
        f"{{smaller:,}} less {{larger:,}} images: mean {_SIGMA}", "", 3, depth.mean_of_neighbours
    ),
    "slope_of_neighbours": Measure(
        "{smaller:,} less {larger:,} images: slope", "a layer", 4, depth.slope_of_neighbours
    ),
    "mean_on_training_images": Measure(
        f"{{images:,}} images: mean {_SIGMA}, on the training images", "", 3, depth.mean_on_training_images
    ),
    "mean_by_the_gap": Measure(
        f"{{images:,}} images: mean {_SIGMA}, test less training images",
        "",
        3,
        depth.mean_by_the_gap,
    ),
    "slope_less_share": Measure(
        "{images:,} images: GNBN's slope less {share:g} of BN's", "a layer", 4, depth.slope_less_share
    ),
    "highest_over_lowest": Measure(
        f"{{images:,}} images: GNBN's highest {_SIGMA} over its lowest", "times", 2, depth.highest_over_lowest
    ),
    "bn_less_xbn": Measure(f"{_LOST} {{where}}, BN less XBN-GN", "points", 1, noise_loss.bn_less_xbn),
    "gn_less_in": Measure(f"{_LOST} {{where}}, XBN-GN less XBN-IN", "points", 1, noise_loss.gn_less_in),
    "xbn_less_bn_top1": Measure(
        "top-1, XBN less BN, norm batch {norm_batch}", "points", 2, small_batches.xbn_less_bn_top1
    ),
    "xbn_less_bn_ap": Measure(
        "AP, XBN less BN, norm batch {norm_batch}", "points", 2, small_batches.xbn_less_bn_ap
    ),
    "xbn_less_bn_shift": Measure(
        "mean scaled ESM σ, XBN less BN, norm batch {norm_batch}", "", 3, small_batches.xbn_less_bn_shift
    ),
    "gn_at_p2_less_elsewhere": Measure(
        "top-1, GN at P2 less at {other}", "points", 2, positions.gn_at_p2_less_elsewhere
    ),
    "bn_less_xbn_lost": Measure(
        "top-1 above chance lost to {shifts}, BN less XBN-{bfn}", "points", 1, shift_cost.bn_less_xbn_lost
    ),
    "cost_rank_correlation": Measure(
        "rank correlation of ESM and top-1 above chance lost, over {shifts}",
        "",
        2,
        shift_cost.cost_rank_correlation,
    ),
    "gn_less_others": Measure("top-1 at {position}, GN less {bfn}", "points", 2, positions.gn_less_others),
}
