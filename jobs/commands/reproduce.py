"""`shiftbench reproduce`: the paper's claims, run and judged on this machine."""

import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from suite.experiment import Run

# The claim that noise on the estimates of trained networks decides.
NOISE = "D"


def reproduce(
    claims: Annotated[
        list[str] | None, typer.Argument(help="Letters, such as A C; default: all.", show_default=False)
    ] = None,
    quick: Annotated[
        bool, typer.Option("--quick", help="Smaller experiments of one seed: a look, without verdicts.")
    ] = False,
    output_dir: Annotated[Path, typer.Option(help="Where the runs' folders go.")] = Path("runs"),
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder for the report.")] = Path("out/reproduce"),
    jobs: Annotated[int, typer.Option(min=1, help="Runs at a time.")] = 1,
    show_list: Annotated[
        bool, typer.Option("--list", help="Show the claims and their cost, and leave.")
    ] = False,
) -> None:
    """Test the paper's claims: run their experiments, judge each by its rule, and draw its figures anew.

    On MNIST where its four IDX files lie in the data folder (~/.cache/shiftbench/data/mnist), else on
    Fashion-MNIST; the table says which. Completed runs are not run again, interrupted ones go on.
    Exit code 0 when all runs completed, whatever the verdicts; 3 when some failed.
    """
    from jobs.reproduce.claim_experiments import PLANS, chosen, experiments, runs_of
    from reports.claims import CLAIMS

    console = Console(soft_wrap=True, highlight=False)
    letters = chosen(claims or [])
    if show_list:
        for letter in letters:
            plan = PLANS[letter]
            cost = f"about {plan.cost} minutes on two cores with --jobs 2, {plan.quick_cost} with --quick"
            console.print(f"{letter}  {CLAIMS[letter].says}; {cost}", markup=False)
        return
    found = experiments(letters, quick)
    runs = runs_of(found)

    from jobs.exit_codes import DONE, SOME_RUNS_FAILED
    from jobs.local.launcher import run_all
    from jobs.local.progress import ProgressView
    from suite.data import check_data

    for one in {(run.data, run.batch.global_batch_size): run for run in runs}.values():
        check_data(one)
    outcome = run_all(runs, output_dir, jobs, 1, ProgressView(console))
    console.print(f"{outcome}; records in {output_dir}")
    if outcome.stopped_by is not None:
        console.print("the same command goes on")
        raise typer.Exit(outcome.exit_code)
    code = DONE if outcome.exit_code == DONE else SOME_RUNS_FAILED
    if NOISE in found:
        failed = {folder for folder, _ in outcome.failed}
        trained = [run for run in found[NOISE].runs if output_dir / run.folder_name not in failed]
        code = max(code, _perturb(console, trained, output_dir, jobs))

    from reports.tables.cell_tables import print_table
    from reports.write.report_folder import build_report

    planned = {letter: [output_dir / run.folder_name for run in one.runs] for letter, one in found.items()}
    begun = [folder for run in runs if ((folder := output_dir / run.folder_name) / "run.json").exists()]
    options = [*letters, *(["--quick"] if quick else []), "--output-dir", str(output_dir), "--out", str(out)]
    command = shlex.join(["shiftbench", "reproduce", *options])
    files = build_report(begun, out, claims=planned, command=command)
    assert files.claim_table is not None
    print_table(Console(), files.claim_table)
    # The evidence of each claim, what ± and the rules mean, and how the paper's numbers were read.
    for note in files.claim_table.notes:
        console.print(note, markup=False)
    if quick:
        console.print("--quick runs one seed: its numbers are a look, and no verdict can come of them.")
    console.print(f"report: {files.html}", markup=False)
    if code != DONE:
        raise typer.Exit(code)


def _perturb(console: Console, runs: Sequence[Run], output_dir: Path, jobs: int) -> int:
    """Put noise on the estimates of these runs where that was not done yet; the exit code."""
    from jobs.exit_codes import DONE, SOME_RUNS_FAILED
    from jobs.reproduce.perturb_trained import measure_missing

    code = DONE
    for run, trouble in measure_missing(runs, output_dir, jobs):
        if trouble is not None:
            code = SOME_RUNS_FAILED
        console.print(f"noise     {run.label}" + (f": {trouble}" if trouble else ""), markup=False)
    return code
