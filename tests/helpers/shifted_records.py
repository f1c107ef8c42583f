"""Makers of robustness records."""

from collections.abc import Mapping, Sequence
from itertools import product
from pathlib import Path

from suite.experiment import Run
from suite.paths import RunPaths
from suite.record import RobustnessRecord, ShiftRecord, TestTimeRecord, write_robustness


def shift_record(
    name: str,
    severity: int | None,
    top1_percent: float,
    esm: Sequence[float] = (),
    *,
    confidence_percent: float = 80.0,
    num_classes: int = 10,
) -> ShiftRecord:
    """A shift with an ESM by layer that is all in σ."""
    return ShiftRecord(
        shift=name,
        kind="clean" if name == "clean" else "corruption",
        severity=severity,
        num_images=1000,
        num_classes=num_classes,
        top1_percent=top1_percent,
        loss=1.0,
        confidence_percent=confidence_percent,
        layers=tuple(f"bn{place}" for place in range(len(esm))),
        esm_mu_scaled=(0.0,) * len(esm),
        esm_sigma_scaled=tuple(esm),
    )


def write_shifts(
    root: Path,
    run: Run,
    clean: float,
    top1_percent: Mapping[tuple[str, int], float],
    esm: Mapping[tuple[str, int], float] | None = None,
    *,
    num_classes: int = 10,
    test_time: Sequence[TestTimeRecord] = (),
) -> None:
    """Write a run's robustness.json: top-1 (%) and mean ESM by corruption and severity.

    The confidence is five points above the accuracy.
    """
    shifts = [
        shift_record("clean", None, clean, (0.1, 0.1), confidence_percent=clean + 5, num_classes=num_classes)
    ]
    for (name, severity), top1 in top1_percent.items():
        value = 0.5 if esm is None else esm[name, severity]
        shifts.append(
            shift_record(
                name, severity, top1, (value, value), confidence_percent=top1 + 5, num_classes=num_classes
            )
        )
    record = RobustnessRecord(step=1, data=run.data.name, shifts=tuple(shifts), test_time=tuple(test_time))
    write_robustness(RunPaths(root / run.folder_name), record)


def grid(corruptions: Sequence[str], severities: Sequence[int]) -> list[tuple[str, int]]:
    """All pairs, in order."""
    return list(product(corruptions, severities))
