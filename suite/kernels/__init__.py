"""Fused norms for GPUs: norm, residual addition and ReLU in Triton kernels that return their statistics."""

from suite.kernels.fuse import FusedNorms, fuse_norms
from suite.kernels.segment_norm import kernels_missing

__all__ = ["FusedNorms", "fuse_norms", "kernels_missing"]
