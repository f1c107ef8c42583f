"""What runs inside a training process, whoever started it: the launcher, torchrun or srun."""
