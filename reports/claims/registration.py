"""The claims as they were registered: `configs/claims.yaml`, its hash, and the folders of runs made under it.

The file holds rules, bounds, margins and seeds. `shiftbench reproduce` copies it into the folder of its runs
before the first of them starts. A folder whose copy differs from the file is refused: its rules have changed
after runs were made.
"""

import hashlib
import inspect
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from pydantic import Field, ValidationError, model_validator

from reports.claims import noise_loss
from reports.claims.check import P_PER_LOOK, Measured, Rule, Side
from reports.claims.measures import MEASURES
from reports.frames import Frames
from reports.stats import CONFIDENCE
from suite.config import SWEEPING
from suite.config_file import read_config
from suite.errors import UserError
from suite.files import write_atomically
from suite.paths import RunPaths
from suite.shipped import CLAIMS, PAPER
from suite.specs.base import Spec
from suite.specs.robustness import RobustnessPlan
from suite.wording import explain

FILE, EXPERIMENTS = CLAIMS, PAPER
COPY = Path(".shiftbench") / "claims.yaml"
LETTERS = "ABCDEFGHI"


# The arguments that a measure of robustness takes from the registered shifts.
_OF_SHIFTS = {"corruptions", "severities", "images"}


def _parameters(measure: str) -> list[str]:
    """Return the arguments of a measure's function behind the frames."""
    return list(inspect.signature(MEASURES[measure].function).parameters)[1:]


class RegisteredCheck(Spec):
    """A measure, and what its mean over the seeds is claimed to be."""

    measure: str = Field(description=", ".join(MEASURES))
    of: dict[str, int | float | str | list[float]] = Field(
        default_factory=dict, description="arguments of the measure"
    )
    side: Side = Field("above", description="of the bound on which the mean is claimed to lie")
    bound: float = 0.0
    margin: float | None = Field(
        None, gt=0, description="around the bound: no difference; null: none is named"
    )
    judged: bool = Field(True, description="false: shown beside the others, and decides nothing")

    @model_validator(mode="after")
    def _known(self) -> "RegisteredCheck":
        if self.measure not in MEASURES:
            raise ValueError(f"measure is {self.measure!r}; expected one of {', '.join(MEASURES)}")
        known = [name for name in _parameters(self.measure) if name not in _OF_SHIFTS]
        if sorted(known) != sorted(self.of):
            expected = ", ".join(known) or "none"
            raise ValueError(f"of: {self.measure} takes the arguments {expected}; got {', '.join(self.of)}")
        if self.of.get("scope", "all") not in noise_loss.SCOPES:
            raise ValueError(f"of.scope: expected {' or '.join(noise_loss.SCOPES)}, got {self.of['scope']!r}")
        return self

    def rule(self, shifts: "RegisteredShifts") -> Rule:
        """Return the check as a rule to apply to runs. `shifts`: for a measure of robustness."""
        measure, of = MEASURES[self.measure], dict(self.of)
        taken = _OF_SHIFTS & set(_parameters(self.measure))

        def metric(frames: Frames) -> Iterable[Measured]:
            return measure.function(frames, **of, **{name: getattr(shifts, name) for name in taken})

        text = (measure.text, measure.unit, measure.decimals)
        return Rule(*text, metric, self.side, self.bound, self.margin, self.judged)


class RegisteredClaim(Spec):
    """A claim of the paper. `remark`: what one must know of the rules before believing the verdict."""

    says: str
    experiment: str = Field(description="a file in configs/experiments/paper")
    experiment_sha256: str = Field(description="of its content without seeds and what is measured")
    first_seed: int = Field(ge=0, description="the seeds are this one and those that follow")
    looks: tuple[int, ...] = Field(min_length=1, description="seeds at each look")
    remark: str = ""
    checks: tuple[RegisteredCheck, ...] = Field(min_length=1)

    @model_validator(mode="after")
    def _rising(self) -> "RegisteredClaim":
        if list(self.looks) != sorted(set(self.looks)):
            raise ValueError(f"looks must rise, got {list(self.looks)}")
        return self

    def seeds(self, look: int) -> list[int]:
        """Return the seeds of a look, counted from 0."""
        return [self.first_seed + place for place in range(self.looks[look])]


class NoiseSpec(Spec):
    """The noise of claim D, and on how many test images of each seed it is measured."""

    magnitudes: tuple[float, ...]
    draws: int = Field(ge=1)
    images: int = Field(ge=1)


class RegisteredShifts(Spec):
    """The shifts of claims G and H, and on how many test images each is measured."""

    corruptions: tuple[str, ...] = Field(min_length=2)
    severities: tuple[int, ...] = Field(min_length=1)
    images: int = Field(ge=1)

    def plan(self) -> RobustnessPlan:
        """Return what is measured of each run."""
        return RobustnessPlan(
            corruptions=self.corruptions, severities=self.severities, max_images=self.images
        )


class RuleSpec(Spec):
    """The numbers of the rule of all checks. They are constants of the code, with which they must agree."""

    p_per_look: float
    confidence: float

    @model_validator(mode="after")
    def _agree(self) -> "RuleSpec":
        for name, value in (("p_per_look", P_PER_LOOK), ("confidence", CONFIDENCE)):
            if getattr(self, name) != value:
                raise ValueError(
                    f"{name} is {getattr(self, name):g}, but the rules of this version use {value:g}"
                )
        return self


class Registration(Spec):
    """All claims by letter, the rule that judges them, and how set-ups were chosen before (`pilots`)."""

    pilots: str
    rule: RuleSpec
    noise: NoiseSpec
    shifts: RegisteredShifts
    looked_at: tuple[int, ...] = Field(
        (), description="seeds whose results were seen before the rules were made"
    )
    claims: dict[str, RegisteredClaim]

    @model_validator(mode="after")
    def _fresh(self) -> "Registration":
        if missing := sorted(set(LETTERS) - set(self.claims)):
            raise ValueError(f"claims.{missing[0]} is missing")
        for letter, claim in self.claims.items():
            if seen := sorted(set(claim.seeds(-1)) & set(self.looked_at)):
                raise ValueError(f"claims.{letter}: seed {seen[0]} was looked at before; choose fresh ones")
        return self

    def rules(self, letter: str) -> list[Rule]:
        """Return the rules of a claim."""
        return [check.rule(self.shifts) for check in self.claims[letter].checks]


@dataclass(frozen=True)
class Registered:
    """The registration and the SHA-256 of its file."""

    content: Registration
    sha256: str


def load_registration(path: Path = FILE) -> Registered:
    """Read the registered claims. Raises UserError, with file and key, for a missing or malformed file."""
    file = read_config(path, "claims")
    file.check_kind("claims")
    try:
        content = Registration.model_validate(file.content)
    except ValidationError as error:
        raise UserError(f"{path}: {explain(error, Registration)}") from None
    for letter, claim in content.claims.items():
        found = experiment_sha256(EXPERIMENTS / claim.experiment)
        if found != claim.experiment_sha256:
            raise UserError(
                f"{path}: claims.{letter}.experiment_sha256: {claim.experiment} has changed since it was "
                f"registered: its hash is {found}; restore it"
            )
    return Registered(content, hashlib.sha256(path.read_bytes()).hexdigest())


def experiment_sha256(path: Path) -> str:
    """Return the hash of an experiment's content: of all that decides its results but the seeds."""
    content = read_config(path, "experiment").content
    decisive = {key: content[key] for key in SWEEPING if key in content}
    return hashlib.sha256(json.dumps(decisive, sort_keys=True).encode()).hexdigest()[:16]


def register(output_dir: Path, planned: Sequence[Path] = (), path: Path = FILE) -> None:
    """Copy the claims' file into a folder of runs, before the first of them starts. Raises UserError.

    Refuses a folder whose copy has other rules, and one without a copy in which one of the `planned` runs has
    begun: nobody knows under which rules it was made. A copy that lacks a claim gets it, unless what the
    claim is about was measured already.
    """
    check_registered(output_dir, path)
    copy = output_dir / COPY
    if not copy.exists() and (begun := [folder for folder in planned if (folder / "run.json").exists()]):
        raise UserError(
            f"{begun[0]} is a run of these claims that was made without registered rules ({copy} is "
            "missing): choose another --output-dir"
        )
    if copy.exists() and copy.read_bytes() == path.read_bytes():
        return
    if measured := [folder for folder in planned if copy.exists() and RunPaths(folder).robustness.exists()]:
        raise UserError(
            f"{measured[0]} was measured under shifts before their claims were registered in {copy}: choose "
            "another --output-dir"
        )
    copy.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(copy, path.read_text(encoding="utf-8"))


def check_registered(output_dir: Path, path: Path = FILE) -> None:
    """Raise UserError when the runs of a folder were made under other rules than those of the file.

    The copy in the folder may be older and lack claims that the file has.
    """
    copy = output_dir / COPY
    if not copy.exists() or copy.read_bytes() == path.read_bytes():
        return
    before, now = (read_config(one, "claims").content for one in (copy, path))
    claims = now.get("claims", {})
    is_extended = before.get("rule") == now.get("rule") and before.get("noise") == now.get("noise")
    for letter, claim in before.get("claims", {}).items():
        is_extended &= claims.get(letter) == claim
    is_extended &= before.get("shifts", now.get("shifts")) == now.get("shifts")
    if not is_extended:
        raise UserError(
            f"{path}: differs from {copy}, under which the runs of {output_dir} were made: restore it, or "
            "choose another --output-dir for runs under the new rules"
        )
