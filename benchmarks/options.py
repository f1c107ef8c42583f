"""Options of the command line that several benchmarks have."""

from typing import Annotated

import typer

Arch = Annotated[str, typer.Option(help="Architecture.")]
ImageSize = Annotated[int, typer.Option(min=8, help="Side of the input, pixels.")]
Rounds = Annotated[int, typer.Option(min=1, help="Pairs of measurements.")]
Precision = Annotated[str, typer.Option(help="As recipe.precision: fp32, tf32, bf16 or fp16.")]
ChannelsLast = Annotated[bool, typer.Option(help="Lay out images and weights as NHWC.")]
Kernels = Annotated[str, typer.Option(help="As system.kernels: auto, native or fused.")]
