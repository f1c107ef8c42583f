"""What `shiftbench status` prints on a narrow and on a wide terminal."""

from pathlib import Path

from rich.console import Console

from jobs.cluster.backend import RunStatus
from jobs.commands.status_view import details, table


def shown(runs: list[RunStatus], width: int, limit: int | None = None) -> list[str]:
    console = Console(width=width, force_terminal=False)
    with console.capture() as capture:
        console.print(table(runs, [], limit, width))
    return [line.rstrip() for line in capture.get().splitlines()]


def a_run(number: int, state: str, reason: str = "", **content: object) -> RunStatus:
    folder = Path(f"small_resnet20-xbn-p2-gn8-nb32-s{number}-{number:012d}")
    return RunStatus(folder, state, reason, f"40_{number}", None, "n1", content)  # type: ignore[arg-type]


def test_a_narrow_terminal_leaves_out_what_all_runs_share_and_cuts_nothing() -> None:
    runs = [
        a_run(1, "running", evaluated_epoch=1, top1_percent=48.84, images_per_s=21_400.0),
        a_run(2, "completed", evaluated_epoch=3, top1_percent=66.2, images_per_s=260.0),
    ]
    lines = shown(runs, 80)
    assert lines[1] == "every name begins with small_resnet20-xbn-p2-gn8-nb32-"
    header, first, second = lines[-3:]
    assert header.split() == ["run", "id", "state", "epoch", "acc.", "img/s", "node", "job"]
    assert first.split() == ["…s1", "00000000", "running", "1/?", "48.8", "%", "21,400", "n1", "40_1"]
    assert second.split() == ["…s2", "00000000", "completed", "3/?", "66.2", "%", "260", "n1", "40_2"]
    assert "small_resnet20-xbn-p2-gn8-nb32-s1  " in shown(runs, 120)[2]


def test_names_that_differ_are_whole_at_80_columns_and_the_ids_go_first() -> None:
    pace = {"started_at": 0.0, "updated_at": 600.0, "resumed_from_step": 0, "step": 1, "total_steps": 9}
    runs = [
        a_run(1, "running", images_per_s=21_400.0, evaluated_epoch=1, attempts=2, top1_percent=9.0, **pace)
    ]
    runs += [
        RunStatus(Path("small_resnet20-bn-nb2-s1-aaaa"), "failed", "out of memory", "40_2", None, "n1", {})
    ]
    lines = shown(runs, 80)
    assert lines[1:3] == ["every name begins with small_resnet20-", "node n1"]
    assert lines[3].split() == ["run", "state", "epoch", "acc.", "img/s", "left", "restarts", "job"]
    assert [line.split()[0] for line in lines[4:6]] == ["…bn-nb2-s1", "…xbn-p2-gn8-nb32-s1"]
    assert lines[5].split()[1:] == ["running", "1/?", "9.0", "%", "21,400", "80", "min", "1", "40_1"]
    assert lines[6] == "…bn-nb2-s1  out of memory"


def test_even_a_very_narrow_terminal_folds_names_and_keeps_their_letters() -> None:
    runs = [a_run(number, "running", images_per_s=1.0, evaluated_epoch=1) for number in (1, 22)]
    runs += [RunStatus(Path("resnet50-gn-s1-aaaa"), "queued", "", "9", None, "", {})]
    letters = "".join(line[:16].strip() for line in shown(runs, 50))
    assert letters.endswith("".join(run.label for run in runs))


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


def test_the_paths_of_one_run_are_whole() -> None:
    folder = Path("/scratch/projects/normalisation/experiments") / ("long-name-" * 6)
    console = Console(width=80, force_terminal=False)
    with console.capture() as capture:
        console.print(details(RunStatus(folder, "completed", "", "4", None, "n1", {}), []))
    lines = capture.get().splitlines()
    assert str(folder) in "".join(line[17:].strip() for line in lines)
