"""Studies as data: a space over an experiment's fields, its points, and the runs they make."""
