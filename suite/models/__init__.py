"""Networks by name or from a spec, and XBN as a transformation of their norm sites."""

from suite.models.batch_norm import set_norm_batch_size
from suite.models.build import build_model
from suite.models.norm_sites import NormSite, norm_sites
from suite.models.weights import load_tensors, load_weights, put_weights, read_weights
from suite.models.xbn import chosen_sites, convert
from suite.models.zoo import named_model

__all__ = [
    "NormSite",
    "build_model",
    "chosen_sites",
    "convert",
    "load_tensors",
    "load_weights",
    "named_model",
    "norm_sites",
    "put_weights",
    "read_weights",
    "set_norm_batch_size",
]
