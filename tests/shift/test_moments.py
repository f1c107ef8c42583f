"""Merging the moments of many layers at once."""

import torch

from suite.shift.moments import ChannelMoments, merge_each

CPU = torch.device("cpu")


def test_merging_layers_together_is_merging_one_after_another_to_the_bit() -> None:
    """Three batches of two layers, whose means are far apart; and all values at once, in float64."""
    torch.manual_seed(0)
    widths, sizes = (3, 5), ((7, 4), (2, 9), (5, 1))
    batches = [
        [torch.randn(n, width, dtype=torch.float64) + 10 * i for n, width in zip(count, widths, strict=True)]
        for i, count in enumerate(sizes)
    ]
    together = [ChannelMoments(width, CPU) for width in widths]
    apart = [ChannelMoments(width, CPU) for width in widths]
    for batch in batches:
        means, variances = [x.mean(dim=0) for x in batch], [x.var(dim=0, correction=0) for x in batch]
        counts = [len(x) for x in batch]
        for one, count, mean_C, var_C in zip(apart, counts, means, variances, strict=True):
            one.merge(count, mean_C, var_C * count)
        merge_each(together, counts, means, variances)
    for layer, (one, other) in enumerate(zip(together, apart, strict=True)):
        assert one.count == other.count
        assert torch.equal(one.mean_C, other.mean_C)
        assert torch.equal(one.squares_C, other.squares_C)
        whole = torch.cat([batch[layer] for batch in batches])
        torch.testing.assert_close(one.mean_C, whole.mean(dim=0))
        torch.testing.assert_close(one.var_C, whole.var(dim=0, correction=0))
