"""From an experiment to processes: the command line, and launching on this machine."""
