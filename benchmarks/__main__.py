"""`python -m benchmarks`: measures how fast the suite is, beside the plainest code that does the same."""

import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.table import Table

from benchmarks.data import data
from benchmarks.options import Arch, ChannelsLast, ImageSize, Kernels, Precision, Rounds
from benchmarks.printing import print_origin, show
from benchmarks.train_command import train
from jobs import exit_codes
from suite.errors import UserError

if TYPE_CHECKING:
    import torch


app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Measure speed as paired, interleaved ratios. Run nothing else on the machine meanwhile.",
)


@app.command("loader")
def loader(
    images: Annotated[
        Path | None,
        typer.Option(help="Folder of JPEGs; default: photographs cropped to 500 × 375."),
    ] = None,
    rounds: Rounds = 9,
) -> None:
    """Compare DALI's CPU pipeline with the torchvision loader and with bare decoding."""
    from benchmarks.loader import bench_loader

    result = bench_loader(images, rounds=rounds)
    ratios = {"DALI / torchvision": result.vs_torchvision, "DALI / bare decode": result.vs_bare_decode}
    show(ratios, {"DALI / torchvision": "≥ 1.2", "DALI / bare decode": "≥ 0.75"})
    Console().print(
        f"images/s; {result.num_images} files of {result.mean_file_kb:.0f} kB on average, "
        f"{result.images_per_batch} a batch, {result.num_cores} cores",
        highlight=False,
    )


app.command("data")(data)
app.command("train")(train)


@app.command("agreeing")
def agreeing(
    ranks: Annotated[int, typer.Option(min=2, help="Processes on this machine.")] = 64,
) -> None:
    """Measure how long many gloo processes take to join and to agree on whether to stop."""
    import torch  # before the processes are forked, which then need not import it

    from benchmarks.agreeing import bench_agreeing
    from suite.provenance import cpu_name

    torch.set_num_threads(1)
    table = Table(f"{ranks} ranks: median (ms)", "as needed", "all pairs", box=None)
    found = [bench_agreeing(ranks, connects_all=connects_all) for connects_all in (False, True)]
    for name, field in (
        ("join", "join_s"),
        ("first agreement", "first_s"),
        ("agreement", "agree_s"),
        ("agreement read half a second later", "late_s"),
    ):
        table.add_row(name, *(f"{1e3 * getattr(one, field):.1f}" for one in found))
    console = Console()
    console.print(table)
    print_origin(console, cpu_name())


@app.command("probe")
def probe(
    arch: Arch = "resnet18",
    image_size: ImageSize = 64,
    images_per_batch: Annotated[int, typer.Option(min=2)] = 32,
    rounds: Rounds = 15,
    batches_per_round: Annotated[int, typer.Option(min=1)] = 4,
    precision: Precision = "fp32",
    channels_last: ChannelsLast = False,
    kernels: Kernels = "native",
) -> None:
    """Compare the probe with a bare inference pass over the same batches."""
    from benchmarks.probe import bench_probe
    from benchmarks.train import Step

    device = _device()
    step = Step(arch, image_size, images_per_batch, precision, channels_last, kernels=kernels)
    ratios = bench_probe(step, rounds, batches_per_round, device)
    show(ratios, {"probe / inference pass (time)": "≤ 1.10"})


@app.command("model")
def model(
    arch: Annotated[
        list[str] | None, typer.Option(help="Architecture; may be repeated. Default: resnet50.")
    ] = None,
    precision: Annotated[str, typer.Option(help="bf16 or fp32.")] = "bf16",
    images: Annotated[int, typer.Option(min=2, help="Images of a step.")] = 128,
) -> None:
    """Predict, from bytes and launches alone, what norms cost a step on an H100; measures nothing."""
    from suite.architectures import ARCHITECTURES

    names = arch or ["resnet50"]
    if unknown := [name for name in names if name not in ARCHITECTURES]:
        raise UserError(f"--arch: {unknown[0]} is not one of {', '.join(ARCHITECTURES)}")
    from benchmarks.step_model import PRECISIONS, Gpu, predicted  # imports torch

    if precision not in PRECISIONS:
        raise UserError(f"--precision: expected {' or '.join(PRECISIONS)}, got {precision!r}")
    console, gpu = Console(), Gpu()
    for name in names:
        with console.status("") as status:
            ratios, works = predicted(name, PRECISIONS[precision], images, gpu, status.update)
        table = Table(f"{name}, {precision}, {images} images", "predicted", "target", box=None)
        for ratio in ratios:
            table.add_row(
                ratio.name, f"{ratio.ratio:.3f}", f"{ratio.bound}{'' if ratio.holds else ' missed'}"
            )
        console.print(table)
        table = Table("", "device (ms)", "host (ms)", "norms (GB)", "launches", "images/s", box=None)
        for label, work in works.items():
            times = (f"{1e3 * work.device_s:.1f}", f"{1e3 * work.host_s:.1f}", f"{work.norm_bytes / 1e9:.1f}")
            table.add_row(label, *times, str(work.launches.total()), f"{images / work.time_s:.0f}")
        console.print(table)
    console.print(f"predicted, not measured, for {gpu}", highlight=False, soft_wrap=True)


@app.command("submit")
def submit(
    cluster: Annotated[str, typer.Option("--cluster", "-c", help="A Slurm cluster's name or file.")] = "test",
    cells: Annotated[int, typer.Option(min=2, help="Runs to submit.")] = 1000,
    rounds: Annotated[int, typer.Option(min=1, help="How often all of them are submitted.")] = 5,
    below: Annotated[
        Path | None,
        typer.Option(help="Folder for the temporary runs; default: the system's temporary folder."),
    ] = None,
) -> None:
    """Measure `submit` and `status` of many runs, without the time of Slurm's own commands; jobs are held."""
    from benchmarks.processes import Spread
    from benchmarks.submit import bench_submit
    from suite.provenance import cpu_name

    result = bench_submit(cluster, cells, rounds, below)
    # The targets are for a thousand cells.
    own, wall = ("≤ 2", "≤ 1") if cells <= 1000 else ("", "")
    table = Table(f"{cells} cells", "median", "range", "target", box=None)
    for name, values, target in (
        ("submit: own time (s)", [one.own_s for one in result.submit], own),
        ("submit: CPU time (s)", [one.cpu_s for one in result.submit], ""),
        ("submit: the same files, bare (s)", result.files_s, ""),
        ("submit: in Slurm's commands (s)", [one.slurm_s for one in result.submit], ""),
        ("submit: sbatch calls", [one.count("sbatch") for one in result.submit], result.needed_sbatch_calls),
        ("status: wall time (s)", [one.wall_s for one in result.status], wall),
        ("status: CPU time (s)", [one.cpu_s for one in result.status], ""),
        ("status: in Slurm's commands (s)", [one.slurm_s for one in result.status], ""),
        ("status: calls of Slurm", [len(one.calls) for one in result.status], "≤ 2"),
        ("status, all just cancelled: wall time (s)", [one.wall_s for one in result.settle], ""),
        ("status, all just cancelled: calls of Slurm", [len(one.calls) for one in result.settle], "≤ 2"),
    ):
        spread = Spread.of(values)
        form = "{:.0f}" if name.endswith(("calls", "Slurm")) else "{:.2f}"
        low, high = form.format(spread.low), form.format(spread.high)
        bound = f"≤ {target}" if isinstance(target, int) else target
        table.add_row(name, form.format(spread.median), f"{low} to {high}", bound)
    console = Console()
    console.print(table)
    console.print(
        f"{rounds} rounds; arrays of {result.max_array_size} at most; Slurm {result.slurm_version}",
        highlight=False,
    )
    print_origin(console, cpu_name())


@app.command("tune")
def tune(
    trials: Annotated[int, typer.Option(min=2, help="Runs that both sides train.")] = 24,
    rounds: Annotated[int, typer.Option(min=1, help="Pairs of measurements.")] = 3,
    read_trials: Annotated[int, typer.Option(min=10, help="Completed trials that are only read.")] = 1000,
) -> None:
    """Compare a study by `tune` with the same runs by `run --jobs 2`, and measure memory over many trials."""
    from benchmarks.tune import bench_tune
    from suite.provenance import cpu_name

    result = bench_tune(trials, rounds, read_trials)
    ratio = result.overhead
    table = Table("tune", "measured", "target", box=None)
    table.add_row(
        f"tune / run --jobs 2 (time; {trials} trials of {result.trial_s:.1f} s)",
        f"{ratio.median:.3f} [{ratio.low:.3f}, {ratio.high:.3f}]",
        "≤ 1.05",
    )
    table.add_row("overhead of a trial (s)", f"{result.overhead_s:.2f}", "≤ 0.5")
    table.add_row(f"{read_trials} trials that are complete (s)", f"{result.read_s:.1f}", "")
    for share in (0.1, 0.5, 1.0):
        name = f"memory after {share * read_trials:.0f} trials, driver and Ray (MiB)"
        table.add_row(name, f"{result.memory_mib(share):.0f}", "flat" if share == 1.0 else "")
    console = Console()
    console.print(table)
    print_origin(console, cpu_name())


@app.command("report")
def report(
    runs: Annotated[int, typer.Option(min=20, help="Made-up runs, 40 kB each.")] = 10_000,
    rounds: Annotated[int, typer.Option(min=1, help="Pairs of measurements.")] = 5,
) -> None:
    """Compare collecting runs with pyarrow's JSON reader, and measure the report over all of them."""
    from benchmarks.report import bench_report
    from suite.provenance import cpu_name

    result = bench_report(runs, rounds)
    table = Table(f"{runs} runs, {result.lines_mb:.0f} MB", "measured", "target", box=None)
    for name, ratio, target in (
        ("first collection / pyarrow's JSON reader (time)", result.first, "≤ 2"),
        ("with ten changed runs / first collection (time)", result.again, "≤ 0.05"),
    ):
        sides = f"{ratio.a_median:.2f} s / {ratio.b_median:.2f} s"
        table.add_row(name, f"{ratio.median:.3f} [{ratio.low:.3f}, {ratio.high:.3f}] ({sides})", target)
    table.add_row("shiftbench report, nothing collected before (s)", f"{result.report_s:.1f}", "")
    table.add_row("its memory (GiB)", f"{result.memory_gib:.2f}", "≤ 2")
    table.add_row("the page (MB)", f"{result.page_mb:.2f}", "≤ 5")
    ready = "no Chromium here" if result.interactive_s is None else f"{result.interactive_s:.2f}"
    table.add_row("the page in Chromium until a filter is answered (s)", ready, "≤ 2")
    table.add_row("shiftbench report of 100 runs (s)", f"{result.few_s:.1f}", "≤ 10")
    console = Console()
    console.print(table)
    print_origin(console, cpu_name())


def _device() -> "torch.device":
    import torch

    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def main() -> None:
    """Run one benchmark. Bad input is one line on stderr and exit code 2."""
    signal.signal(signal.SIGINT, lambda *_: sys.exit(exit_codes.INTERRUPTED))
    try:
        app(prog_name="python -m benchmarks")
    except UserError as error:
        Console(stderr=True).print(
            f"error: {error}", style="red", markup=False, highlight=False, soft_wrap=True
        )
        sys.exit(exit_codes.BAD_USAGE)


if __name__ == "__main__":
    main()
