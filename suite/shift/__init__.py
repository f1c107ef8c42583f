"""Measures the estimation shift: where it is, where it comes from, what reduces it, and what it costs.

    probe          estimated against expected statistics, layer by layer
    attribute      each layer's shift, split into its own part and the inherited one
    find_origins   the layer that starts the shift
    remedies       what reduces it without training
    perturb        accuracy under noise on the estimates
    diagnose       why evaluation is worse than training, and which remedy gives the accuracy back
    re_estimate    accuracy and shift with a network's own statistics and with re-estimated ones
    soup, interpolated    averages of trained networks' state dicts
    fold_batch_norms, quantised, deploy    the network as it is deployed, and the shift that is frozen in
    TidMeter       the discrepancy between training and inference, at every training step

Results are frozen, with `.to_frame()` (pandas) and `.plot()` (Altair). Formulas and sources: docs/science.md.
"""

from suite.shift.attribute import Attribution, LayerAttribution, Parts, attribute
from suite.shift.averaged import interpolated, soup
from suite.shift.deploy import Deployment, Form, deploy, logit_difference
from suite.shift.diagnose import diagnose
from suite.shift.diagnosis.paired import Change
from suite.shift.diagnosis.result import Diagnosis, Finding
from suite.shift.fold import Folded, fold_batch_norms
from suite.shift.origins import Origin, Origins, find_origins
from suite.shift.perturb import Perturbation, perturb
from suite.shift.precise import bias_corrected_statistics, precise_statistics, with_statistics
from suite.shift.probe import LayerShift, ShiftProfile, probe
from suite.shift.quantise import quantised
from suite.shift.re_estimate import ReEstimation, WithStatistics, re_estimate
from suite.shift.remedies import Remedies, Remedy, remedies, replayed_statistics
from suite.shift.tid import TidMeter

__all__ = [
    "Attribution",
    "Change",
    "Deployment",
    "Diagnosis",
    "Finding",
    "Folded",
    "Form",
    "LayerAttribution",
    "LayerShift",
    "Origin",
    "Origins",
    "Parts",
    "Perturbation",
    "ReEstimation",
    "Remedies",
    "Remedy",
    "ShiftProfile",
    "TidMeter",
    "WithStatistics",
    "attribute",
    "bias_corrected_statistics",
    "deploy",
    "diagnose",
    "find_origins",
    "fold_batch_norms",
    "interpolated",
    "logit_difference",
    "perturb",
    "precise_statistics",
    "probe",
    "quantised",
    "re_estimate",
    "remedies",
    "replayed_statistics",
    "soup",
    "with_statistics",
]
