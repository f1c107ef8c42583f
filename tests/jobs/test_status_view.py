"""What `shiftbench status` prints on a narrow and on a wide terminal."""

from pathlib import Path

from rich.console import Console

from jobs.cluster.backend import RunStatus
from jobs.commands.status_view import table


def shown(runs: list[RunStatus], width: int, limit: int | None = None) -> list[str]:
    console = Console(width=width, force_terminal=False)
    with console.capture() as capture:
        console.print(table(runs, [], limit, width))
    return [line.rstrip() for line in capture.get().splitlines()]


def a_run(number: int, state: str, reason: str = "", **content: object) -> RunStatus:
    folder = Path(f"small_resnet20-xbn-p2-gn8-nb32-s{number}-{number:012d}")
    return RunStatus(folder, state, reason, f"40_{number}", None, "n1", content)  # type: ignore[arg-type]


def test_a_narrow_terminal_cuts_names_and_nothing_else() -> None:
    runs = [
        a_run(1, "running", evaluated_epoch=1, top1_percent=48.84, images_per_s=21_400.0),
        a_run(2, "completed", evaluated_epoch=3, top1_percent=66.2, images_per_s=260.0),
    ]
    _, header, first, second = shown(runs, 80)
    assert header.split() == ["run", "id", "state", "epoch", "acc.", "img/s", "node", "job"]
    assert first.split("  ")[0] == "small_resnet20-xbn-p2-g…"
    assert first.split()[1:] == ["00000000", "running", "1/?", "48.8", "%", "21,400", "n1", "40_1"]
    assert second.split()[1:] == ["00000000", "completed", "3/?", "66.2", "%", "260", "n1", "40_2"]
    assert "small_resnet20-xbn-p2-gn8-nb32-s1  " in shown(runs, 120)[2]


def test_each_reason_of_queued_runs_is_shown_once() -> None:
    runs = [a_run(number, "queued", f"Priority; stopped after step {number}") for number in range(3)]
    runs += [a_run(8, "queued", "Resources"), a_run(9, "failed", "job 40_9: TIMEOUT")]
    lines = shown(runs, 100)
    assert lines[0] == "5 runs: 1 failed, 4 queued"
    assert lines[-3:] == ["00000000  job 40_9: TIMEOUT", "3 queued  Priority", "1 queued  Resources"]


def test_runs_that_need_attention_come_first_and_the_others_are_counted() -> None:
    runs = [a_run(1, "completed"), a_run(2, "queued"), a_run(3, "failed")]
    lines = shown(runs, 100, limit=1)
    assert "-s3" in lines[2]
    assert lines[3] == "and 1 queued, 1 completed; --all shows them"
