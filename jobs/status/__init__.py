"""What became of every run, and how it is told."""
