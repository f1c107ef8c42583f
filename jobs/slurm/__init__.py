"""Slurm: its commands, the sbatch script, and what a job's task does."""
