"""Clusters: submitting runs to a scheduler, and following, cancelling and retrying them."""
