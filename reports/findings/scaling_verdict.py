"""What the timings of a run on several numbers of nodes say, in sentences."""

import math

from reports.findings.scaling import PARTS, Point, Scaling
from reports.findings.scaling_laws import LAWS
from reports.findings.slow_nodes import slow_nodes
from reports.sentences import sentence
from reports.stats import Estimate

# The least efficiency at the most nodes for each word.
VERDICTS = ((0.9, "well"), (0.7, "with losses"), (0.0, "poorly"))
# A part of a step is named with at least this share at the most nodes, or this much more than at the fewest.
NAMED, GROWN = 0.05, 0.02


def verdict_sentences(scaling: Scaling) -> list[str]:
    """The verdict and what it lacks, what a step loses, slow nodes, and what the fitted law predicts."""
    timed = scaling.timed
    if len(timed) < 2:
        sentences = [sentence("scaling_unknown", nodes=[point.nodes for point in timed])]
    else:
        sentences = [_verdict(scaling)]
        if scaling.untimed:
            sentences.append(sentence("scaling_untimed", untimed=scaling.untimed, last=timed[-1].nodes))
        sentences += _losses(timed[0], timed[-1])
    if unsteady := scaling.unsteady:
        most = max(unsteady, key=lambda one: abs(one.drift))
        num_timed = sum(one.is_timed for one in scaling.timings)
        sentences.append(sentence("scaling_unsteady", unsteady=unsteady, most=most, num_timed=num_timed))
    times = [one.rank_times for point in timed for one in point.timed if one.rank_times is not None]
    sentences += [sentence("slow_node", one=one) for one in slow_nodes(times)]
    if len(timed) > 1 and scaling.fit is not None and scaling.prediction is not None:
        sentences.append(_prediction(scaling))
    return sentences


def _verdict(scaling: Scaling) -> str:
    first, last = scaling.timed[0], scaling.timed[-1]
    assert last.speedup is not None
    assert last.efficiency is not None
    words = _words(last.efficiency)
    law = LAWS[scaling.mode]
    return sentence("scaling", mode=scaling.mode, law=law, words=words, first=first, last=last)


def _words(efficiency: Estimate) -> list[str]:
    """Return the words of all efficiencies in the interval, worst first; without one, that of the mean."""
    low, high = efficiency.interval or efficiency.both or (efficiency.mean, efficiency.mean)
    tops = [math.inf, *(least for least, _ in VERDICTS)]
    found = [word for (least, word), top in zip(VERDICTS, tops, strict=False) if high >= least and low < top]
    return found[::-1] or [VERDICTS[-1][1]]


def _losses(first: Point, last: Point) -> list[str]:
    """Which parts of a step, other than computing, are large at the most nodes, or have grown."""
    named = []
    for metric, name in PARTS.items():
        before, after = first.mean(metric), last.mean(metric)
        before = 0.0 if math.isnan(before) else before  # a single rank exchanges nothing
        if metric != "compute_share" and (after >= NAMED or after - before >= GROWN):
            named.append((name, before, after))
    if not named:
        return []
    return [sentence("scaling_losses", parts=named, first=first.nodes, last=last.nodes)]


def _prediction(scaling: Scaling) -> str:
    assert scaling.fit is not None
    assert scaling.prediction is not None
    first = scaling.timed[0]
    assert first.speed is not None
    ideal = first.speed.mean * scaling.next_nodes / first.nodes
    return sentence(
        "scaling_prediction",
        fit=scaling.fit,
        predicted=scaling.prediction,
        nodes=scaling.next_nodes,
        efficiency=scaling.prediction.mean / ideal,
    )
