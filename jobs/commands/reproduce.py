"""`shiftbench reproduce`: run and judge the paper's claims on this machine."""

import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from suite.experiment import Run

NOISE = "D"  # the claim that is judged by noise on the estimates of trained networks


def reproduce(
    claims: Annotated[
        list[str] | None, typer.Argument(help="Letters, such as A C; all by default.", show_default=False)
    ] = None,
    quick: Annotated[
        bool, typer.Option("--quick", help="Smaller experiments of one seed, without verdicts.")
    ] = False,
    output_dir: Annotated[Path, typer.Option(help="Folder for the runs' folders.")] = Path("runs"),
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder for the report.")] = Path("out/reproduce"),
    jobs: Annotated[int, typer.Option(min=1, help="Runs that train at the same time.")] = 1,
    show_list: Annotated[
        bool, typer.Option("--list", help="Show the claims and their cost, and exit.")
    ] = False,
) -> None:
    """Test the paper's claims: run their experiments, judge each by its rule, and draw its figures.

    Uses MNIST if its four IDX files are in mnist/ of the data folder ($SHIFTBENCH_DATA_DIR, else
    ~/.cache/shiftbench/data), else Fashion-MNIST; the table names it. Skips completed runs, and resumes
    interrupted ones. The exit code is 0 when all runs completed, whatever the verdicts, and 3 when some
    failed.
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

    from jobs import exit_codes
    from suite.data import check_data

    for one in {(run.data, run.batch.global_batch_size): run for run in runs}.values():
        check_data(one)
    noise_runs = found[NOISE].runs if NOISE in found else ()
    code = _train_and_perturb(console, runs, noise_runs, output_dir, jobs)
    if code not in (exit_codes.DONE, exit_codes.SOME_RUNS_FAILED):
        raise typer.Exit(code)

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
        console.print("--quick runs one seed, which is too few for a verdict.")
    console.print(f"report: {files.html}", markup=False)
    if code != exit_codes.DONE:
        raise typer.Exit(code)


def _train_and_perturb(
    console: Console, runs: Sequence[Run], noise_runs: Sequence[Run], output_dir: Path, jobs: int
) -> int:
    """Train what is not complete, then put noise on the estimates of `noise_runs` where that is missing.

    Returns the exit code: that of the signal that stopped the training, or whether anything failed.
    """
    from jobs import exit_codes
    from jobs.local.child import environment_of, threads_of_a_rank
    from jobs.local.fork_client import process_starter
    from jobs.local.launcher import run_all
    from jobs.local.progress import ProgressView
    from jobs.reproduce.perturb_trained import measure_missing

    environment = environment_of(runs, threads_of_a_rank(jobs), {})
    with process_starter(len(runs) + len(noise_runs), environment) as start_process:
        outcome = run_all(runs, output_dir, jobs, 1, ProgressView(console), start_process)
        console.print(f"{outcome}; records in {output_dir}")
        if outcome.stopped_by is not None:
            console.print("the same command continues")
            return outcome.exit_code
        failed = {folder for folder, _ in outcome.failed}
        trained = [run for run in noise_runs if output_dir / run.folder_name not in failed]
        has_all = not failed
        for run, error in measure_missing(trained, output_dir, jobs, start_process):
            has_all &= error is None
            console.print(f"noise     {run.label}" + (f": {error}" if error else ""), markup=False)
    return exit_codes.DONE if has_all else exit_codes.SOME_RUNS_FAILED
