"""The step times of every rank over an epoch, in `ranks.json`: they show which node is slow."""

import json
from dataclasses import asdict, dataclass

from suite.errors import UserError
from suite.files import parse_json, read_whole
from suite.paths import RunPaths
from suite.record.shapes import COUNT, NUMBER, TEXT, Shape, fault_in, known, list_of

_SHAPES: dict[str, Shape] = {
    "epoch": COUNT.required(),
    "step": COUNT.required(),
    "nodes": list_of(TEXT).required(),
    "step_ms": list_of(NUMBER).required(),
    "data_wait_ms": list_of(NUMBER).required(),
    "communication_ms": list_of(NUMBER).required(),
}
_LISTS = ("nodes", "step_ms", "data_wait_ms", "communication_ms")


@dataclass(frozen=True)
class RankTimes:
    """Means over an epoch's timed steps, one for each rank (ms), and each rank's node.

    `communication_ms`: from the rank's last gradient to those of all ranks. Ranks wait for one another there,
    so that a step takes equally long on all of them, and the slowest rank has the shortest exchange.
    """

    epoch: int
    step: int
    nodes: list[str]
    step_ms: list[float]
    data_wait_ms: list[float]
    communication_ms: list[float]

    @property
    def work_ms(self) -> list[float]:
        """What each rank takes for itself: the step without the exchange of gradients."""
        return [step - wait for step, wait in zip(self.step_ms, self.communication_ms, strict=True)]

    def text(self) -> str:
        """Return the content of the file, with three decimals."""
        content = asdict(self)
        for name in _LISTS[1:]:
            content[name] = [round(value, 3) for value in content[name]]
        return json.dumps(content) + "\n"


def read_rank_times(paths: RunPaths) -> RankTimes | None:
    """Return the newest epoch's times; None where none were written. Raises UserError for another content."""
    try:
        data = read_whole(paths.ranks)
    except OSError as error:
        raise UserError(f"{paths.ranks}: cannot be read: {error.strerror}") from None
    if data is None:
        return None
    content = parse_json(data)
    fault = fault_in(content, _SHAPES)
    if fault is None and len({len(content[name]) for name in _LISTS}) > 1:
        fault = "expected one entry for each rank in every list"
    if fault:
        raise UserError(f"{paths.ranks}: not as shiftbench writes it: {fault}")
    return RankTimes(**known(content, _SHAPES))
