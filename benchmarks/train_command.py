"""`python -m benchmarks train`: its options, and its ranks."""

import os
import subprocess
import sys
from typing import Annotated

import typer
from rich.console import Console

from benchmarks.options import Arch, ChannelsLast, ImageSize, Kernels, Precision, Rounds
from benchmarks.printing import show
from suite.errors import UserError
from suite.launch import launch_variables

CUDA_GRAPHS = typer.Option("--cuda-graphs", help="As system.cuda_graphs, of the step alone; on a GPU.")
RANKS = typer.Option(min=1, help="Processes that share each step, on this machine.")
GHOSTS = typer.Option(help="Also compare ghost BN of so many samples; repeatable.")
RIVAL = typer.Option(help="The bare loop's settings on a GPU: tuned, torchvision or timm.")


def train(
    arch: Arch = "resnet18",
    image_size: ImageSize = 64,
    images_per_step: Annotated[int, typer.Option(min=2, help="Of all ranks together.")] = 32,
    rounds: Rounds = 15,
    steps_per_round: Annotated[int, typer.Option(min=1)] = 3,
    precision: Precision = "fp32",
    channels_last: ChannelsLast = False,
    compile: Annotated[bool, typer.Option("--compile", help="Compile the step and the bare loop.")] = False,
    norm: Annotated[str, typer.Option(help="Kind of norm, as model.norm.kind.")] = "bn",
    norm_batch_size: Annotated[list[int] | None, GHOSTS] = None,
    kernels: Kernels = "native",
    cuda_graphs: Annotated[bool, CUDA_GRAPHS] = False,
    ranks: Annotated[int, RANKS] = 1,
    rival: Annotated[str, RIVAL] = "tuned",
) -> None:
    """Compare the training step with a bare loop, and measure what XBN, ghost BN and TID cost it."""
    from benchmarks.train import RIVALS, Step, bench_train
    from suite.experiment import SystemSpec
    from suite.train.distributed import joined

    if rival not in RIVALS:
        raise UserError(f"--rival {rival}: take {', '.join(RIVALS)}")
    options = {"norm": norm, "kernels": kernels, "cuda_graphs": cuda_graphs, "ranks": ranks}
    step = Step(arch, image_size, images_per_step, precision, channels_last, compile, **options)  # type: ignore[arg-type]
    step.run()  # refuses what no run could be, before ranks are started
    if ranks > 1 and not launch_variables(os.environ):
        raise typer.Exit(_started(ranks))
    with joined(SystemSpec()) as place:
        if place.world_size != ranks:
            raise UserError(f"--ranks {ranks}: this process is one of {place.world_size}")
        sizes = tuple(norm_batch_size or ())
        ratios = bench_train(step, rounds, steps_per_round, place, rival=rival, norm_batch_sizes=sizes)
    if not place.is_first:
        return
    targets = {"training step / bare loop": "≥ 0.97", "TID alone / step (time)": "≤ 0.01"}
    if place.device.type == "cuda":
        targets |= {"XBN step / BN step": "≥ 1.00", "TID alone / step (time)": "≤ 0.001"}
        Console().print(f"bare loop: {RIVALS[rival].meaning}", highlight=False)
    show(ratios, targets)


def _started(ranks: int) -> int:
    """Run this command in so many processes, as torchrun does, and return their exit code."""
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={ranks}"]
    return subprocess.run([*torchrun, "-m", "benchmarks", *sys.argv[1:]]).returncode
