"""Studies: searches over an experiment's fields, whose trials are runs."""
