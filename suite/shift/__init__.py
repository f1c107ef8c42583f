"""Measures the estimation shift: where it is, where it comes from, what reduces it, and what it costs.

    probe          estimated against expected statistics, layer by layer
    attribute      each layer's shift, split into its own part and the inherited one
    find_origins   the layer that starts the shift
    remedies       what reduces it without training
    perturb        accuracy under noise on the estimates
    diagnose       why evaluation is worse than training, and which remedy gives the accuracy back
    TidMeter       the discrepancy between training and inference, at every training step

Results are frozen, with `.to_frame()` (pandas) and `.plot()` (Altair). Formulas and sources: docs/science.md.
"""

from suite.shift.attribute import Attribution, LayerAttribution, Parts, attribute
from suite.shift.diagnose import diagnose
from suite.shift.diagnosis.paired import Change
from suite.shift.diagnosis.result import Diagnosis, Finding
from suite.shift.origins import Origin, Origins, find_origins
from suite.shift.perturb import Perturbation, perturb
from suite.shift.precise import bias_corrected_statistics, precise_statistics, with_statistics
from suite.shift.probe import LayerShift, ShiftProfile, probe
from suite.shift.remedies import Remedies, Remedy, remedies, replayed_statistics
from suite.shift.tid import TidMeter

__all__ = [
    "Attribution",
    "Change",
    "Diagnosis",
    "Finding",
    "LayerAttribution",
    "LayerShift",
    "Origin",
    "Origins",
    "Parts",
    "Perturbation",
    "Remedies",
    "Remedy",
    "ShiftProfile",
    "TidMeter",
    "attribute",
    "bias_corrected_statistics",
    "diagnose",
    "find_origins",
    "perturb",
    "precise_statistics",
    "probe",
    "remedies",
    "replayed_statistics",
    "with_statistics",
]
