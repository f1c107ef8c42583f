"""Prints ratios beside their targets, and where they were measured."""

from typing import TYPE_CHECKING

from rich.console import Console
from rich.table import Table

if TYPE_CHECKING:
    from benchmarks.pairing import Ratio


def show(ratios: "dict[str, Ratio]", targets: dict[str, str]) -> None:
    """Print ratios, by name, with what they should be."""
    table = Table("a / b", "median", "95 % interval", "target", "a", "b", box=None)
    for name, ratio in ratios.items():
        interval = f"{ratio.low:.3f} to {ratio.high:.3f}"
        sides = (f"{ratio.a_median:.4g}", f"{ratio.b_median:.4g}")
        table.add_row(name, f"{ratio.median:.3f}", interval, targets.get(name, ""), *sides)
    console = Console()
    console.print(table)
    print_origin(console, _device_name())


def print_origin(console: Console, device: str) -> None:
    """Print the machine and the versions of what was measured."""
    from suite.provenance import provenance

    origin = provenance(device, [])
    versions = ", ".join(f"{package} {version}" for package, version in origin["versions"].items())
    console.print(f"{origin['device']}, {origin['cpu_count']} CPUs; {versions}", highlight=False)


def _device_name() -> str:
    import torch

    from suite.provenance import cpu_name

    return torch.cuda.get_device_name() if torch.cuda.is_available() else cpu_name()
