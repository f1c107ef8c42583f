"""The result of a diagnosis: accuracies, findings, remedies, and a verdict."""

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from suite.shift.diagnosis.causes import CAUSES
from suite.shift.diagnosis.paired import Change

if TYPE_CHECKING:
    import altair as alt
    import pandas as pd


@dataclass(frozen=True)
class Finding:
    """A cause that was found, named by its key in `suite.shift.diagnosis.causes.CAUSES`.

    `lost`: what it costs on the training images, in points of top-1: of the difference between batch
    statistics and estimates; None for the train/test gap, which is between other images. `gives_back`: what
    its remedy gives back on the evaluation images; None where only another training would. Both are in
    addition to the findings that were remedied before it, unless the sentence says otherwise. `is_harmful`:
    whether accuracy is shown to be lost.
    """

    cause: str
    title: str
    is_harmful: bool
    sentence: str
    remedy: str
    layers: tuple[str, ...]
    lost: Change | None
    gives_back: Change | None
    evidence: dict[str, Any]

    @property
    def points(self) -> float:
        """The points of top-1 by which findings are ordered."""
        return max(change.points for change in (self.lost, self.gives_back) if change is not None)


@dataclass(frozen=True)
class Accuracy:
    """Top-1 (%) of the same weights; `images` and `statistics` say on what, and normalised with what."""

    images: str
    statistics: str
    top1_percent: float


@dataclass(frozen=True)
class Tried:
    """A remedy that was tried on the evaluation images: its top-1 (%), and what it gives back."""

    name: str
    top1_percent: float
    gives_back: Change


@dataclass(frozen=True)
class Diagnosis:
    """Why evaluation is worse than training, as far as BN's estimates are the reason.

    `findings`: harmful ones first, by points. `lost`: top-1 with batch statistics minus that with the
    estimates, on the same training images. `unexplained`: the part of it that no estimates give back.
    `generalisation`: training minus evaluation images, both with the estimates.
    """

    findings: tuple[Finding, ...]
    accuracies: tuple[Accuracy, ...]
    lost: Change
    unexplained: Change
    generalisation: Change
    remedies: tuple[Tried, ...]
    num_layers: int
    num_training_images: int
    num_evaluation_images: int
    notes: tuple[str, ...] = ()

    @property
    def harmful(self) -> tuple[Finding, ...]:
        """The findings that are shown to cost accuracy."""
        return tuple(finding for finding in self.findings if finding.is_harmful)

    @property
    def defects(self) -> tuple[Finding, ...]:
        """The findings that are faults, whether or not they are shown to cost accuracy."""
        return tuple(finding for finding in self.findings if CAUSES[finding.cause].is_defect)

    @property
    def is_healthy(self) -> bool:
        """Whether the estimates have no defect, and are not shown to cost accuracy, for whatever reason."""
        return not (self.harmful or self.defects or self.lost.is_gain)

    @property
    def verdict(self) -> str:
        """What is wrong, and what to do about it, in a few sentences."""
        return " ".join(self.statements)

    @property
    def statements(self) -> tuple[str, ...]:
        """The verdict in parts: the loss, and each cause with its remedy."""
        if self.harmful:
            first, *others = (f"{one.title}. {one.remedy}{_gives_back(one)}" for one in self.harmful)
            causes = [f"{'The first cause' if others else 'The cause'}: {first}"]
            return (self._loss(), *causes, *(f"Another cause: {one}" for one in others))
        if self.lost.is_gain:
            suspected = [one.title for one in self.findings if one.lost is not None and one.lost.is_gain]
            likely = f" Suspected: {', '.join(suspected)}." if suspected else ""
            return (
                f"{self._loss()}{likely}",
                "No remedy whose signature holds is shown to give accuracy back on the evaluation images, so "
                "no cause is named.",
            )
        faults = tuple(f"{one.sentence} {one.remedy}" for one in self.defects)
        return (*(faults or ("A clean bill.",)), self._loss(), self._rest())

    def _loss(self) -> str:
        if not self.lost.is_gain:
            return f"On the training images, the estimates are not shown to cost accuracy ({self.lost})."
        return (
            f"On the same training images, inference with the estimates is {self.lost.points:.1f} points of "
            f"top-1 {_interval(self.lost)} worse than with batch statistics."
        )

    def _rest(self) -> str:
        rest = self.generalisation
        if not rest.is_gain:
            return "The evaluation images are not shown to do worse than the training images, either."
        return (
            f"The evaluation images do worse than the training images by {rest.points:.1f} points "
            f"{_interval(rest)}; that is generalisation, and no fault of BN."
        )

    def to_frame(self) -> "pd.DataFrame":
        """A row for each finding: cause, title, is_harmful, layers, sentence, remedy, and the two changes.

        The changes are lost and gives_back, each with _low and _high, in points; NaN where there is none.
        """
        import pandas as pd

        names = ["lost", "lost_low", "lost_high", "gives_back", "gives_back_low", "gives_back_high"]
        rows = [
            [one.cause, one.title, one.is_harmful, ", ".join(one.layers), one.sentence, one.remedy]
            + [number for change in (one.lost, one.gives_back) for number in _numbers(change)]
            for one in self.findings
        ]
        columns = ["cause", "title", "is_harmful", "layers", "sentence", "remedy", *names]
        return pd.DataFrame(rows, columns=columns)

    def plot(self) -> "alt.LayerChart | alt.FacetChart":
        """What each remedy that was tried gives back on the evaluation images, with its interval."""
        import pandas as pd

        from suite.shift.charts import gains_chart

        rows = [[one.name, *_numbers(one.gives_back)] for one in self.remedies]
        return gains_chart(pd.DataFrame(rows, columns=["remedy", "points", "low", "high"]))

    def to_dict(self) -> dict[str, Any]:
        """Return everything as plain values, for JSON."""
        return {"verdict": list(self.statements), "is_healthy": self.is_healthy, **asdict(self)}


def _gives_back(one: Finding) -> str:
    if one.gives_back is None:
        return ""
    points, interval = f"{one.gives_back.points:.1f}", _interval(one.gives_back)
    return f" On the evaluation images this gives back {points} points {interval}."


def _interval(change: Change) -> str:
    return f"[{change.low:.1f}, {change.high:.1f}]".replace("-", "−")


def _numbers(change: Change | None) -> tuple[float, float, float]:
    nan = float("nan")
    return (nan, nan, nan) if change is None else (change.points, change.low, change.high)
