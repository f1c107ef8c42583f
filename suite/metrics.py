"""The metrics: name, unit, direction, formula. Records and reports hold no others.

To add a metric that the probe measures for each layer, add an entry and a field of
`suite.shift.probe.LayerShift`.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from suite.specs.task_table import TASKS

Direction = Literal["higher", "lower", "neither"]
# Those that are trained, and the averages of them that a recipe may keep beside.
Weights = Literal["raw", "ema", "swa"]


@dataclass(frozen=True)
class Metric:
    """What a number means. `per_layer`: one value for each BN layer, in forward order.

    `measured_in`: training, evaluation, or both; of both, the evaluation's value is the result. `weights`:
    the trained ones, or an average of them. `at_the_end`: measured once, after the last epoch.
    """

    name: str
    unit: str
    direction: Direction
    formula: str
    title: str
    per_layer: bool = False
    measured_in: Literal["train", "val", "both"] = "train"
    weights: Weights = "raw"
    at_the_end: bool = False


# A table of two lines for each metric; the formatter would take eight.
# fmt: off
_ALL = (
    Metric("loss", "nat", "lower",
           "mean cross-entropy over the images; of a detector, the sum of its losses", "Loss",
           measured_in="both"),
    Metric("top1_percent", "%", "higher",
           "share of images whose first guess is right", "Top-1", measured_in="both"),
    Metric("top5_percent", "%", "higher",
           "share of images whose first five guesses hold the label", "Top-5", measured_in="val"),
    Metric("top1_inference_percent", "%", "higher",
           "top-1 over the training images with the estimated statistics, without random crops",
           "Top-1, inference on training images"),
    Metric("top1_bias_corrected_percent", "%", "higher",
           "as top1_inference_percent, with the estimates freed of their first values 0 and 1",
           "Top-1, bias-corrected estimates, on training images"),
    Metric("ap_percent", "%", "higher", "mean of COCO's average precision of boxes over classes, and over "
           "thresholds of IoU from 0.50 to 0.95", "AP", measured_in="val"),
    Metric("ap50_percent", "%", "higher", "as AP, at an IoU of 0.50", "AP50", measured_in="val"),
    Metric("ap75_percent", "%", "higher", "as AP, at an IoU of 0.75", "AP75", measured_in="val"),
    Metric("ap_small_percent", "%", "higher",
           "as AP, of objects below 32² pixels", "AP, small", measured_in="val"),
    Metric("ap_medium_percent", "%", "higher",
           "as AP, of objects from 32² to 96² pixels", "AP, medium", measured_in="val"),
    Metric("ap_large_percent", "%", "higher",
           "as AP, of objects above 96² pixels", "AP, large", measured_in="val"),
    Metric("mask_ap_percent", "%", "higher", "as AP, of masks", "Mask AP", measured_in="val"),
    Metric("mask_ap50_percent", "%", "higher", "as mask AP, at IoU 0.50", "Mask AP50", measured_in="val"),
    Metric("mask_ap75_percent", "%", "higher", "as mask AP, at IoU 0.75", "Mask AP75", measured_in="val"),
    Metric("mask_ap_small_percent", "%", "higher",
           "as mask AP, of objects below 32² pixels", "Mask AP, small", measured_in="val"),
    Metric("mask_ap_medium_percent", "%", "higher",
           "as mask AP, of objects from 32² to 96² pixels", "Mask AP, medium", measured_in="val"),
    Metric("mask_ap_large_percent", "%", "higher",
           "as mask AP, of objects above 96² pixels", "Mask AP, large", measured_in="val"),
    Metric("ap_precise_percent", "%", "higher",
           "AP with PreciseBN's population statistics in place of the estimated ones",
           "AP, PreciseBN", measured_in="val"),
    Metric("images_evaluated", "1", "neither",
           "images counted, each exactly once", "Images evaluated", measured_in="val"),
    Metric("top1_precise_percent", "%", "higher",
           "top-1 with PreciseBN's population statistics in place of the estimated ones",
           "Top-1, PreciseBN", measured_in="val"),
    Metric("learning_rate", "1", "neither", "of the last step", "Learning rate"),
    Metric("esm_mu", "1", "lower",
           "‖μ̂ − μ̃‖₂ over the channels of a layer (the paper's)", "ESM μ", True, "val"),
    Metric("esm_sigma", "1", "lower",
           "‖σ̂ − σ̃‖₂ over the channels of a layer (the paper's)", "ESM σ", True, "val"),
    Metric("esm_mu_scaled", "1", "lower",
           "‖(μ̂ − μ̃) / √(σ̂² + ε)‖₂ / √d: root mean square in units of σ̂", "ESM μ, scaled", True, "val"),
    Metric("esm_sigma_scaled", "1", "lower",
           "‖(σ̂ − σ̃) / √(σ̂² + ε)‖₂ / √d: root mean square in units of σ̂", "ESM σ, scaled", True, "val"),
    Metric("esm_mu_cross", "1", "lower",
           "√⟨δ_even, δ_odd⟩ with δ = μ̂ − μ̃ of the even and of the odd batches: free of ESM's upward bias "
           "by sampling; −√ of a negative product", "ESM μ, cross-half", True, "val"),
    Metric("esm_sigma_cross", "1", "lower",
           "√⟨δ_even, δ_odd⟩ with δ = σ̂ − σ̃, as ESM μ, cross-half", "ESM σ, cross-half", True, "val"),
    Metric("esm_mu_scaled_cross", "1", "lower",
           "as ESM μ, cross-half, of δ = (μ̂ − μ̃) / √(σ̂² + ε) / √d", "ESM μ, scaled, cross-half", True, "val"),
    Metric("esm_sigma_scaled_cross", "1", "lower",
           "as ESM μ, cross-half, of δ = (σ̂ − σ̃) / √(σ̂² + ε) / √d", "ESM σ, scaled, cross-half", True, "val"),
    Metric("esm_mu_scaled_train", "1", "lower",
           "as ESM μ, scaled, with the expected statistics of the training images",
           "ESM μ, scaled, on training images", True),
    Metric("esm_sigma_scaled_train", "1", "lower",
           "as ESM σ, scaled, with the expected statistics of the training images",
           "ESM σ, scaled, on training images", True),
    Metric("tid_mu", "1", "lower",
           "mean over passes and channels of |μ_run − μ_B| / √(σ_B² + ε), running statistics updated, "
           "biased batch variance (Wang et al. 2022); of several groups in a pass: their weighted mean",
           "TID μ", True),
    Metric("tid_sigma", "1", "lower",
           "mean over passes and channels of |√(σ_run² + ε) / √(σ_B² + ε) − 1|, as TID μ", "TID σ", True),
    Metric("images_per_s", "1/s", "higher",
           "training images / time, warm-up steps left out, all ranks", "Throughput"),
    Metric("step_time_p50_ms", "ms", "lower", "median time of an optimizer step", "Step time, median"),
    Metric("step_time_p95_ms", "ms", "lower",
           "95th percentile of an optimizer step's time", "Step time, p95"),
    Metric("step_time_drift", "1", "neither",
           "median step time of the later half of an epoch's timed steps / that of the earlier half; 1 where "
           "they are steady", "Step time, later / earlier"),
    Metric("step_time_slowest_ms", "ms", "lower",
           "largest of the ranks' medians; of several ranks only", "Step time, slowest rank"),
    Metric("data_wait_share", "1", "lower",
           "share of the first rank's steps that waits for a batch; of a GPU that has nothing else to do",
           "Waiting for data"),
    Metric("communication_share", "1", "lower",
           "share of the first rank's steps from the backward pass's last gradient to those of all ranks; of "
           "several ranks only", "Exposed communication"),
    Metric("compute_share", "1", "higher",
           "share of the first rank's steps that is neither of the two", "Computing"),
    Metric("epoch_end_time_s", "s", "lower",
           "wall time of an epoch's evaluation and probe", "Epoch end"),
    Metric("peak_memory_gib", "GiB", "lower",
           "highest memory of the process on its GPU, with CUDA's, NCCL's and DALI's where NVML tells, or "
           "resident memory on CPU", "Peak memory"),
    Metric("energy_j_per_image", "J", "lower",
           "what all ranks' GPUs took over an epoch's training steps, by NVML's counters, per image",
           "Energy per image"),
    Metric("flops_per_image", "FLOP", "neither",
           "forward and backward of one image, by torch's counter", "Work per image", at_the_end=True),
    Metric("matmul_peak_flops_per_s", "FLOP/s", "neither",
           "fastest square matrix product measured here", "Matmul peak", at_the_end=True),
    Metric("matmul_peak_share", "1", "higher",
           "flops_per_image × images_per_s / (ranks × matmul_peak_flops_per_s)", "Share of matmul peak",
           at_the_end=True),
    Metric("bad_images", "1", "lower",
           "files that could not be decoded and were replaced or left out", "Bad images"),
    Metric("epoch_time_s", "s", "lower", "wall time of a training epoch, evaluation left out", "Epoch time"),
)
# fmt: on


@dataclass(frozen=True)
class AverageEntry:
    """An average of the weights. `statistics`: which estimated statistics its network has by itself."""

    title: str
    meaning: str
    statistics: str


def capitalised(title: str) -> str:
    """Return a title as it begins a heading; "AP" stays as it is."""
    return title[0].upper() + title[1:]


AVERAGES: dict[Weights, AverageEntry] = {
    "ema": AverageEntry("EMA", "exponential moving average of the weights", "averaged like the weights"),
    "swa": AverageEntry("SWA", "mean of the weights at the ends of epochs", "those of the last network"),
}


def metrics_of_average(weights: Weights, entry: AverageEntry) -> Iterator[Metric]:
    """Yield the metrics of an average's network: with its own statistics, and with re-estimated ones."""
    own = f"with the {entry.meaning}; its statistics are {entry.statistics}"
    precise = f"with the {entry.meaning}, and PreciseBN's statistics"
    for suffix, how, title in (("", own, entry.title), ("_precise", precise, f"{entry.title}, PreciseBN")):
        which = f"{weights}{suffix}"
        for task in TASKS.values():
            name, heading = f"{task.accuracy}_{which}_percent", f"{capitalised(task.title)}, {title}"
            yield Metric(name, "%", "higher", f"{task.title} {how}", heading, False, "val", weights)
        for statistic, symbol in (("mu", "μ"), ("sigma", "σ")):
            formula = f"ESM {symbol}, scaled, {how}"
            name, heading = f"esm_{statistic}_scaled_{which}", f"ESM {symbol}, scaled, {title}"
            yield Metric(name, "1", "lower", formula, heading, True, "val", weights)


_ON_ITS_IMAGES = "mean over federated clients, on validation images with the shares of each one's labels, of "
# fmt: off
_OF_CLIENTS = (
    Metric("top1_clients_percent", "%", "higher",
           f"{_ON_ITS_IMAGES}top-1", "Top-1, clients", measured_in="val"),
    Metric("esm_mu_scaled_cross_clients", "1", "lower",
           f"{_ON_ITS_IMAGES}ESM μ, scaled, cross-half", "ESM μ, scaled, cross-half, clients", True, "val"),
    Metric("esm_sigma_scaled_cross_clients", "1", "lower",
           f"{_ON_ITS_IMAGES}ESM σ, scaled, cross-half", "ESM σ, scaled, cross-half, clients", True, "val"),
)
# fmt: on
METRICS: dict[str, Metric] = {metric.name: metric for metric in (*_ALL, *_OF_CLIENTS)}
METRICS |= {metric.name: metric for one in AVERAGES.items() for metric in metrics_of_average(*one)}
# What the probe measures of each BN layer.
PROBED = tuple(m.name for m in _ALL if m.per_layer and m.measured_in == "val")
# By these layers and networks are compared, since they do not depend on a layer's width and scale.
SHIFT_SIGMA, SHIFT_MU = "esm_sigma_scaled", "esm_mu_scaled"
# What `measure.eval_train` adds: measured over the training images, in inference mode.
ON_TRAINING_IMAGES = (
    "top1_inference_percent",
    "top1_bias_corrected_percent",
    "esm_mu_scaled_train",
    "esm_sigma_scaled_train",
)
# Of an average's network, in its own statistics and in re-estimated ones: top-1, and the shift of each layer.
OF_AVERAGES = tuple(m.name for m in METRICS.values() if m.weights != "raw")
# What runs with federated clients measure besides; of each layer: which of the probed it is a mean of.
OF_CLIENTS = tuple(metric.name for metric in _OF_CLIENTS)
SHIFT_OF_CLIENTS = {name: name.removesuffix("_clients") for name in OF_CLIENTS if METRICS[name].per_layer}
# Those of the probed that are free of the upward bias by sampling.
CROSS = tuple(name for name in PROBED if name.endswith("_cross"))
