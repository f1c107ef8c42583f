"""Makers of robustness records."""

from collections.abc import Mapping, Sequence
from itertools import product
from pathlib import Path
from typing import Any

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
    max_images: int | None = 500,
) -> ShiftRecord:
    """A shift with an ESM by layer that is all in σ."""
    return ShiftRecord(
        shift=name,
        kind="clean" if name == "clean" else "corruption",
        severity=severity,
        max_images=max_images,
        num_images=max_images or 1000,
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
    max_images: int | None = 500,
    test_time: Sequence[TestTimeRecord] = (),
) -> None:
    """Write a run's robustness.json: top-1 (%) and mean ESM by corruption and severity.

    The confidence is five points above the accuracy.
    """
    like: dict[str, Any] = {"num_classes": num_classes, "max_images": max_images}
    shifts = [shift_record("clean", None, clean, (0.1, 0.1), confidence_percent=clean + 5, **like)]
    for (name, severity), top1 in top1_percent.items():
        value = 0.5 if esm is None else esm[name, severity]
        confidence = top1 + 5
        shifts.append(
            shift_record(name, severity, top1, (value, value), confidence_percent=confidence, **like)
        )
    record = RobustnessRecord(step=1, data=run.data.name, shifts=tuple(shifts), test_time=tuple(test_time))
    write_robustness(RunPaths(root / run.folder_name), record)


def grid(corruptions: Sequence[str], severities: Sequence[int]) -> list[tuple[str, int]]:
    """All pairs, in order."""
    return list(product(corruptions, severities))
