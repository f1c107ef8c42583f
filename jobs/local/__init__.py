"""Runs as processes of this machine, and the code that runs inside a training process."""
