"""Which metrics a run measures at the end of which epoch: a study waits for its objectives."""

from suite.experiment import BatchFreeSpec, Run
from suite.metrics import METRICS

# Metrics whose results are the evaluation's values.
VALIDATED = {metric.name for metric in METRICS.values() if metric.measured_in != "train"}
AT_THE_END = {"top1_precise_percent", "flops_per_image", "matmul_peak_flops_per_s", "matmul_peak_share"}


def is_due(run: Run, metric: str, epoch: int) -> bool:
    """Whether a run measures a metric at the end of an epoch (counted from 1)."""
    is_last = epoch == run.recipe.epochs
    measure, epochs = run.measure, run.recipe.epochs
    if METRICS[metric].per_layer or metric == "top1_precise_percent":
        if isinstance(run.model.norm, BatchFreeSpec):
            return False  # no BN, so no estimates
        if metric not in VALIDATED:
            return measure.tid
        if metric == "top1_precise_percent":
            return is_last and measure.precise_bn_images > 0
        return measure.is_probed(epoch, epochs)
    if metric in AT_THE_END:
        return is_last
    if metric == "top1_inference_percent":
        return measure.eval_train and measure.is_evaluated(epoch, epochs)
    return metric not in VALIDATED or measure.is_evaluated(epoch, epochs)
