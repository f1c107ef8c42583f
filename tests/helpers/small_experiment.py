"""The smallest experiment that trains."""

from pathlib import Path

ROOT = Path(__file__).parents[2]


CONFIG = """
model: {arch: small_resnet11}
data: {name: fashion-mnist-7k, image_size: 28, train_images: 96, val_images: 41}
batch: {global_batch_size: 16, batch_size_per_gpu: 8, norm_batch_size: 16}
recipe: {epochs: 1, lr: 0.05, schedule: constant}
measure: {precise_bn_images: 16, warmup_steps: 1}
system: {torch_threads: 1, data_threads: 1}
"""
