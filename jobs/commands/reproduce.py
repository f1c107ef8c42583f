"""`shiftbench reproduce`: run and judge the paper's claims on this machine."""

import json
import shlex
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

from suite.experiment import Experiment, Run
from suite.terminal import prose_console

if TYPE_CHECKING:
    from jobs.local.process import StartProcess
    from jobs.trained.noise import NoisePlan
    from reports.claims import ClaimResult
    from reports.claims.registration import Registered
    from suite.specs.robustness import RobustnessPlan

# What is measured of trained networks, and for which claims.
NOISE, SHIFTS = ("D",), ("G", "H")
QUICK_IMAGES = 200  # of each shift


def reproduce(
    claims: Annotated[
        list[str] | None, typer.Argument(help="Letters, such as A C; all by default.", show_default=False)
    ] = None,
    quick: Annotated[
        bool, typer.Option("--quick", help="Smaller experiments of one seed, without verdicts.")
    ] = False,
    output_dir: Annotated[Path, typer.Option(help="Folder for the runs' folders.")] = Path("runs/reproduce"),
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder for the report.")] = Path("out/reproduce"),
    jobs: Annotated[int, typer.Option(min=1, help="Runs that train at the same time.")] = 1,
    show_list: Annotated[
        bool, typer.Option("--list", help="Show the claims and their cost, and exit.")
    ] = False,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print one JSON object for each claim, and progress on stderr.")
    ] = False,
) -> None:
    """Test the paper's claims by registered rules: train, judge, add seeds, and report.

    Seeds are added until each claim has a verdict, or its last look.

    Uses MNIST if its four IDX files are in mnist/ of the data folder ($SHIFTBENCH_DATA_DIR, else
    ~/.cache/shiftbench/data), else Fashion-MNIST; the table names it. Skips completed runs, and resumes
    interrupted ones. The exit code is 0 when all runs completed, whatever the verdicts, and 3 when some
    failed.
    """
    from jobs.reproduce.claim_experiments import PLANS, chosen
    from reports.claims import load_registration, register

    console = Console(soft_wrap=True, highlight=False, stderr=as_json)
    letters, registered = chosen(claims or []), load_registration()
    if show_list:
        for letter in letters:
            plan, claim = PLANS[letter], registered.content.claims[letter]
            if as_json:
                costs = {"minutes_at_first_look": plan.cost, "minutes_of_quick": plan.quick_cost}
                typer.echo(
                    json.dumps({"claim": letter, "says": claim.says, "seeds_at_looks": claim.looks, **costs})
                )
                continue
            looks = " or ".join(map(str, claim.looks))
            cost = f"about {plan.cost} minutes on two cores at the first look, {plan.quick_cost} with --quick"
            prose_console().print(f"{letter}  {claim.says}; {looks} seeds; {cost}", markup=False)
        return
    study = _Claims(registered, output_dir, quick)
    study.check_data(letters)
    if not quick:
        later = [letter for letter in SHIFTS if letter in registered.content.claims]
        register(output_dir, study.folders([*letters, *later]))
    code = study.run(letters, jobs, console)

    from jobs import exit_codes

    if code not in (exit_codes.DONE, exit_codes.SOME_RUNS_FAILED):
        raise typer.Exit(code)
    options = [*letters, *(["--quick"] if quick else []), "--output-dir", str(output_dir), "--out", str(out)]
    command = shlex.join(["shiftbench", "reproduce", *options])
    _report(study.experiments, output_dir, out, command, as_json=as_json)
    if quick:
        console.print("--quick runs one seed, which is too few for a verdict.")
    console.print(f"report: {out / 'index.html'}", markup=False)
    if code != exit_codes.DONE:
        raise typer.Exit(code)


class _Claims:
    """The claims of one call, each with the experiment of its last look in `experiments`."""

    def __init__(self, registered: "Registered", output_dir: Path, quick: bool) -> None:
        self.registered, self.output_dir, self.quick = registered, output_dir, quick
        self.experiments: dict[str, Experiment] = {}

    def check_data(self, letters: Sequence[str]) -> None:
        """Refuse, before anything starts, data that a run would refuse. Raises UserError."""
        from suite.data import check_data

        runs = [run for letter in letters for run in self._experiment(letter, 0).runs]
        for one in {(run.data, run.batch.global_batch_size): run for run in runs}.values():
            check_data(one)

    def folders(self, letters: Sequence[str]) -> list[Path]:
        """Return the folders of all runs of these claims, up to their last look."""
        runs = [run for letter in letters for run in self._experiment(letter, -1).runs]
        return [self.output_dir / run.folder_name for run in runs]

    def run(self, letters: Sequence[str], jobs: int, console: Console) -> int:
        """Train and judge until each claim has a verdict or its last look. Returns the exit code.

        A claim with a run that did not complete is not looked at again: the same command repeats the run.
        """
        from jobs import exit_codes
        from jobs.local.child import environment_of, threads_of_a_rank
        from jobs.local.fork_client import process_starter

        looks, code = dict.fromkeys(letters, 0), exit_codes.DONE
        runs = [run for letter in letters for run in self._experiment(letter, 0).runs]
        environment = environment_of(runs, threads_of_a_rank(jobs), {})
        starter: AbstractContextManager[StartProcess] = process_starter(len(runs) + 1, environment)
        with starter as start_process:
            while looks:
                found = {letter: self._experiment(letter, look) for letter, look in looks.items()}
                self.experiments |= found
                done = self._train_and_measure(console, found, jobs, start_process)
                if done not in (exit_codes.DONE, exit_codes.SOME_RUNS_FAILED):
                    return done
                code = max(code, done)
                looks = self._undecided(looks, console)
        return code

    def _undecided(self, looks: Mapping[str, int], console: Console) -> dict[str, int]:
        """Return the next look of each claim that has no verdict yet, and has one left."""
        if self.quick:
            return {}
        further = {}
        for letter, look in looks.items():
            result = self._judged(letter)
            seeds = self.registered.content.claims[letter].looks
            console.print(f"{letter}         {result.verdict} at {seeds[look]} seeds", markup=False)
            if result.verdict == "inconclusive" and result.is_complete and look + 1 < len(seeds):
                further[letter] = look + 1
        return further

    def _judged(self, letter: str) -> "ClaimResult":
        from reports.claims import gather, judge

        folders = [self.output_dir / run.folder_name for run in self.experiments[letter].runs]
        return judge(gather(letter, folders), self.registered)

    def _experiment(self, letter: str, look: int) -> Experiment:
        from jobs.reproduce.claim_experiments import QUICK_SEED, experiment_of

        claim = self.registered.content.claims[letter]
        seeds = [QUICK_SEED] if self.quick else claim.seeds(look)
        return experiment_of(letter, claim.experiment, seeds, self.quick)

    def _train_and_measure(
        self, console: Console, found: Mapping[str, Experiment], jobs: int, start_process: "StartProcess"
    ) -> int:
        """Train what is not complete, then measure what is missing of the trained networks of some claims.

        Returns the exit code: that of the signal that stopped the training, or whether anything failed.
        """
        from jobs import exit_codes
        from jobs.local.launcher import run_all
        from jobs.local.progress import ProgressView, busy
        from jobs.reproduce.claim_experiments import runs_of
        from jobs.trained.noise import measure_missing as measure_noise
        from jobs.trained.robustness import measure_missing as measure_robustness

        outcome = run_all(runs_of(found), self.output_dir, jobs, 1, ProgressView(console), start_process)
        console.print(f"{outcome}; records in {self.output_dir}")
        if outcome.stopped_by is not None:
            console.print("the same command continues")
            return outcome.exit_code
        failed = {folder for folder, _ in outcome.failed}

        def trained(letters: Sequence[str]) -> list[Run]:
            runs = runs_of({letter: found[letter] for letter in letters if letter in found})
            return [run for run in runs if self.output_dir / run.folder_name not in failed]

        # Noise on the layers that all norms have needs the norms of all planned runs.
        noise = self._noise_plan(runs_of({letter: found[letter] for letter in NOISE if letter in found}))
        where = (self.output_dir, jobs, start_process)
        measurements = {
            "noise": measure_noise(trained(NOISE), noise, *where),
            "shifts": measure_robustness(trained(SHIFTS), self._shifts_plan(), *where),
        }
        has_all = not failed
        for name, measured in measurements.items():
            with busy(console, f"measuring {name} of trained networks"):
                for run, error in measured:
                    has_all &= error is None
                    console.print(f"{name:<10}{run.label}" + (f": {error}" if error else ""), markup=False)
        return exit_codes.DONE if has_all else exit_codes.SOME_RUNS_FAILED

    def _shifts_plan(self) -> "RobustnessPlan":
        """Return the registered shifts."""
        plan = self.registered.content.shifts.plan()
        return plan.model_copy(update={"max_images": QUICK_IMAGES}) if self.quick else plan

    def _noise_plan(self, runs: Sequence[Run]) -> "NoisePlan":
        """Return the registered noise, with the norms of all planned runs, whether they completed or not."""
        from jobs.trained.noise import NoisePlan

        noise = self.registered.content.noise
        norms = tuple({run.model.norm.label: run.model.norm for run in runs}.values())
        return NoisePlan((0.0, *noise.magnitudes), noise.draws, noise.images, norms)


def _report(
    found: Mapping[str, Experiment], output_dir: Path, out: Path, command: str, *, as_json: bool
) -> None:
    """Write the report, and print each verdict with its evidence."""
    from jobs.reproduce.claim_experiments import runs_of
    from reports.claims import verdict_table
    from reports.tables.cell_tables import print_table
    from reports.write.report_folder import build_report

    planned = {letter: [output_dir / run.folder_name for run in one.runs] for letter, one in found.items()}
    folders = [output_dir / run.folder_name for run in runs_of(found)]
    begun = [folder for folder in folders if (folder / "run.json").exists()]
    files = build_report(begun, out, claims=planned, command=command)
    assert files.claim_table is not None
    if as_json:
        for one in files.claims:
            shown = ("says", "data", "seeds", "runs", "verdict", "evidence")
            typer.echo(json.dumps({"claim": one.letter, **{name: getattr(one, name) for name in shown}}))
        return
    print_table(Console(), verdict_table(files.claims))
    # The evidence of each claim, what ± and the rules mean, and how the paper's numbers were read.
    console = prose_console()
    for note in files.claim_table.notes:
        console.print(note, markup=False)
