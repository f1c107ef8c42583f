"""Finds out why a network is worse in evaluation than in training, as far as BN's estimates are the reason.

Each cause has a signature (`suite.shift.diagnosis.suspects`) and a remedy. A cause is named if its signature
holds and its remedy gives accuracy back on images from which the remedy took nothing. Remedies are applied
one after another, so that what they give back adds up. See `diagnose`.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from statistics import median
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from suite.errors import UserError
from suite.shift.batches import Logits
from suite.shift.detections import MEANING
from suite.shift.diagnosis.batches import PURPOSE
from suite.shift.diagnosis.causes import CAUSES, HIDDEN, listed, sentences
from suite.shift.diagnosis.images import few_samples, statistics_gap
from suite.shift.diagnosis.observe import Observed, inference_pass, observe, right_of
from suite.shift.diagnosis.paired import Change, paired_change, unpaired_change
from suite.shift.diagnosis.result import Accuracy, Diagnosis, Finding, Tried
from suite.shift.diagnosis.suspects import OF_CONSTANTS, SUSPECTS, Suspect, Suspicion, inherited
from suite.shift.precise import Statistics

CHANCE = 1.2  # times the accuracy of guessing, which a trained network exceeds


def diagnose(
    model: nn.Module,
    training_batches: Iterable[Any],
    evaluation_batches: Iterable[Any],
    *,
    logits: Logits | None = None,
    averaged_weights: bool = False,
) -> Diagnosis:
    """Name the causes for which `model` is worse in evaluation than in training, and what each remedy gives.

    Of the same weights, top-1 is measured on the training images with batch statistics (BN layers alone in
    training mode) and with the estimates, whose difference the estimates alone explain; and on the evaluation
    images. Remedies take statistics, the mean and variance (C,) of each layer's input (N, C, *), from the
    training images, and are judged on the evaluation images. Differences are paired by image (Bonett and
    Price 2012). The measure is ours; formulas, thresholds and assumptions are in docs/science.md.

    The batches are (images (N, C, *), labels (N,)) or loader batches. They are read repeatedly, and must be
    the same each time. The training batches should be as large as in training, preprocessed as for
    evaluation, and in the order of an epoch, with an incomplete last one if the training had it. `logits`
    takes the (N, K) logits out of what the model returns. Of a detector, batches are (images, targets), as
    torchvision's take them, and top-1 is that of `suite.shift.detections`. `averaged_weights`: they are an
    average of several networks' (EMA, SWA, a soup), which their estimates do not show. The model is restored;
    its `training` flags, as given, are evidence too. Costs four passes, and two for each remedy that is
    tried; where a layer stands out, also one for each such layer.

    Returns the findings, ordered by the accuracy that they cost, and a verdict; a healthy network has no
    harmful finding. Raises UserError for a network without estimates, for batches that have no labels, fewer
    than 50 images or four batches, are sorted by class, or are different when they are read again, for inputs
    that are not finite even with batch statistics, and under torch.distributed.
    """
    if dist.is_initialized() and dist.get_world_size() > 1:
        raise UserError(f"{PURPOSE}: needs all batches in one process, not in {dist.get_world_size()}")
    observed = observe(model, training_batches, evaluation_batches, logits)
    return _Examination(replace(observed, has_averaged_weights=averaged_weights)).diagnosis()


@dataclass(frozen=True)
class _State:
    """Estimates of all layers, and which images are right with them."""

    statistics: Statistics
    training_N: Tensor
    evaluation_N: Tensor


# Suspects whose remedy was not applied, with a finding where the signature holds.
_Others = dict[Suspect, Finding | None]


class _Examination:
    """Applies the remedies of all causes whose signature holds, one after another."""

    def __init__(self, observed: Observed) -> None:
        self.observed = observed
        passes = (observed.training_inference, observed.evaluation_inference)
        self.first = _State(observed.own, *map(right_of, passes))
        self.by_batch = _State(
            {}, right_of(observed.training_by_batch), right_of(observed.evaluation_by_batch)
        )
        self.findings: list[Finding] = []
        self.tried: dict[str, Tensor] = {}
        self._states: dict[tuple[int, ...], _State] = {}

    def diagnosis(self) -> Diagnosis:
        """Return the result."""
        state = self._after_constants()
        observed = self.observed
        *particular, last = SUSPECTS
        state, others = self._remedied(state, particular, {})
        # What seemed harmless may have been hidden by what has been remedied since.
        state, others = self._remedied(state, list(others), others)
        state, others = self._remedied(state, [last], others)
        self.findings += [finding for finding in others.values() if finding is not None]
        exact = self._with(observed.exact)
        self.tried["PreciseBN: statistics of the training images"] = exact.evaluation_N
        self._add_gap(state, exact)
        self.tried["prediction-time BN: statistics of each evaluation batch"] = self.by_batch.evaluation_N
        self._add_few_samples(state, exact)
        self.findings.sort(key=lambda one: (not one.is_harmful, -one.points))
        best = max(state, exact, key=lambda one: int(one.training_N.sum()))
        by_batch_N = right_of(observed.training_by_batch)
        return Diagnosis(
            tuple(self.findings),
            self._accuracies(),
            paired_change(self.first.training_N, self.by_batch.training_N),
            paired_change(best.training_N, by_batch_N),
            unpaired_change(self.first.evaluation_N, self.first.training_N),
            tuple(self._tried(name, right_N) for name, right_N in self.tried.items()),
            len(observed.layers),
            len(self.first.training_N),
            len(self.first.evaluation_N),
            tuple(self._notes()),
        )

    def _remedied(
        self, state: _State, suspects: Sequence[Suspect], others: _Others
    ) -> tuple[_State, _Others]:
        """Judge suspects in turn, and apply the remedies that help; what is left is in `others`."""
        others = dict(others)
        for suspect in suspects:
            others[suspect] = None
            suspicion = suspect(self.observed, state.statistics)
            if suspicion is None or (suspect is inherited and self._named(others) >= {*suspicion.layers}):
                continue
            after = self._with({**state.statistics, **suspicion.statistics})
            found = self._unmasked(suspicion, self._judged(suspicion, state, after), state, self.observed)
            is_lost = found.lost is not None and found.lost.is_gain
            if found.is_harmful or is_lost or CAUSES[found.cause].is_defect:
                self.findings.append(found)
                del others[suspect]
                state = after
            elif suspicion.is_told:
                others[suspect] = found
        return state, others

    def _named(self, others: _Others) -> set[str]:
        """Return the layers that findings name, but for findings that concern all layers."""
        findings = [*self.findings, *(one for one in others.values() if one is not None)]
        some = [one for one in findings if len(one.layers) < len(self.observed.layers)]
        return {name for one in some for name in one.layers}

    def _after_constants(self) -> _State:
        """Judge layers with constants; what is observed afterwards is with the better ones."""
        state = self.first
        for suspect in OF_CONSTANTS:
            suspicion = suspect(self.observed, state.statistics)
            if suspicion is None:
                continue
            after = self._with({**state.statistics, **suspicion.statistics})
            remedied = self.observed.with_constants(suspicion.statistics)
            found = self._unmasked(suspicion, self._judged(suspicion, state, after), state, remedied)
            self.findings.append(found)
            if found.is_harmful or CAUSES[found.cause].is_defect:
                state, self.observed = after, remedied
        return state

    def _with(self, statistics: Statistics) -> _State:
        """Return the state with these estimates of all layers, in two passes unless it was tried before."""
        tensors = [value_C for name in self.observed.layers for value_C in statistics[name]]
        key = tuple(map(id, tensors))  # a state keeps its tensors, so that no other one gets their ids
        if key not in self._states:
            self._states[key] = _State(statistics, *self.observed.right(statistics))
        return self._states[key]

    def _judged(self, suspicion: Suspicion, before: _State, after: _State) -> Finding:
        lost, gives_back = _changes(before, after)
        evidence, is_harmful = suspicion.evidence, gives_back.is_gain
        if suspicion.control is not None:
            control = self._with({**before.statistics, **suspicion.control})
            _, harm = _changes(control, after)
            is_harmful = is_harmful and harm.is_gain
            evidence = {**evidence, "harm": harm.points}
        if is_harmful:
            self.tried[f"the remedy of: {CAUSES[suspicion.cause].title}"] = after.evaluation_N
        return _found(suspicion.cause, suspicion.layers, evidence, is_harmful, lost, gives_back)

    def _unmasked(self, suspicion: Suspicion, found: Finding, before: _State, remedied: Observed) -> Finding:
        """Judge some layers again with the estimates of all others exact, if their harm is not shown.

        Where two places are wrong, repairing only one of them may give nothing back. `remedied`: what is
        observed with the remedy, which differs for constants.
        """
        observed = self.observed
        if found.is_harmful or len(suspicion.layers) == len(observed.layers):
            return found
        exact = self._with(remedied.exact)
        wrong = {name: before.statistics[name] for name in suspicion.layers}
        lost, gives_back = _changes(self._with({**observed.exact, **wrong}), exact)
        _, whole = _changes(self.first, exact)
        if not (gives_back.is_gain and whole.is_gain):
            return found
        harmful = _found(suspicion.cause, suspicion.layers, suspicion.evidence, True, lost, gives_back)
        return replace(harmful, sentence=f"{harmful.sentence} {HIDDEN}")

    def _add_gap(self, state: _State, exact: _State) -> None:
        """Try the statistics of the even evaluation batches on the odd ones, and the other way round."""
        observed = self.observed
        is_even_N = observed.evaluation.is_even_N
        right_N = torch.zeros(len(is_even_N), dtype=torch.bool)
        for parity, mask_N in enumerate((is_even_N, ~is_even_N)):
            halves = {n: observed.evaluation_by_batch.inputs[n].half(1 - parity) for n in observed.layers}
            statistics = {name: (half.mean_C, half.var_C) for name, half in halves.items()}
            half = observed.evaluation.part(parity)
            right_N[mask_N] = right_of(inference_pass(observed.model, half, observed.logits, statistics))
        self.tried["statistics of the other half of the evaluation images"] = right_N
        if (evidence := statistics_gap(observed)) is None:
            return
        gives_back = paired_change(state.evaluation_N, right_N)
        is_harmful = gives_back.is_gain and paired_change(exact.evaluation_N, right_N).is_gain
        if is_harmful or evidence["is_large"]:
            layers = tuple(observed.layers)
            self.findings.append(_found("gap", layers, evidence, is_harmful, None, gives_back))

    def _add_few_samples(self, state: _State, exact: _State) -> None:
        """Judge what batch statistics give on the training images and no estimates do."""
        if (evidence := few_samples(self.observed)) is None:
            return
        by_batch_N = right_of(self.observed.training_by_batch)
        changes = [paired_change(one.training_N, by_batch_N) for one in (state, exact)]
        lost = min(changes, key=lambda change: change.points)
        layers = tuple(self.observed.layers)
        self.findings.append(_found("few_samples", layers, evidence, lost.is_gain, lost, None))

    def _accuracies(self) -> tuple[Accuracy, ...]:
        rights = (
            ("training", "batch statistics", self.by_batch.training_N),
            ("training", "estimates", self.first.training_N),
            ("evaluation", "estimates", self.first.evaluation_N),
            ("evaluation", "batch statistics", self.by_batch.evaluation_N),
        )
        return tuple(
            Accuracy(images, statistics, _percent(right_N)) for images, statistics, right_N in rights
        )

    def _tried(self, name: str, right_N: Tensor) -> Tried:
        return Tried(name, _percent(right_N), paired_change(self.first.evaluation_N, right_N))

    def _notes(self) -> list[str]:
        observed = self.observed
        notes = [MEANING] if observed.training.are_lists else []
        sizes = [median(batches.sizes) for batches in (observed.training, observed.evaluation)]
        if max(sizes) >= 2 * min(sizes):
            notes.append(
                f"The training batches have {sizes[0]:g} images and the evaluation batches {sizes[1]:g}: "
                "statistics upstream depend on that, and so does the gap between the two."
            )
        if _percent(self.by_batch.training_N) < CHANCE * observed.training.guess_percent:
            notes.append(
                "Also with batch statistics the network is hardly better than guessing on the training "
                "images: its weights, the labels or the preprocessing do not fit. Other estimates cannot "
                "repair that."
            )
        return notes


def _changes(before: _State, after: _State) -> tuple[Change, Change]:
    """Return the change on the training images, and that on the evaluation images."""
    training = paired_change(before.training_N, after.training_N)
    return training, paired_change(before.evaluation_N, after.evaluation_N)


def _percent(right_N: Tensor) -> float:
    return 100 * float(right_N.double().mean())


def _found(
    cause: str,
    layers: tuple[str, ...],
    evidence: dict[str, Any],
    is_harmful: bool,
    lost: Change | None,
    gives_back: Change | None,
) -> Finding:
    evidence = {"layers": listed(layers, len(layers)), **evidence}
    is_shown_in_training = lost is not None and lost.is_gain
    title, sentence, remedy = sentences(cause, evidence, is_harmful, is_shown_in_training)
    return Finding(cause, title, is_harmful, sentence, remedy, layers, lost, gives_back, evidence)
