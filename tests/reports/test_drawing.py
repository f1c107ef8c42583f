"""The processes that draw, which a report that is written again and again keeps."""

import json
import os
from collections.abc import Iterator
from subprocess import Popen

import pytest

from reports.write import drawing
from reports.write.drawing import keeping_drawers

SPEC = json.loads(drawing._SMALLEST)


def drawn() -> str:
    """The SVG; the fonts of the PDF are numbered in any order."""
    ((svg, _),) = drawing.draw([SPEC], lambda: None)
    return svg


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[Popen[str]]]:
    """The processes that this test has started, while none is kept at first."""
    found: list[Popen[str]] = []
    start = drawing._start_drawer

    def noted(what: str) -> Popen[str]:
        found.append(start(what))
        return found[-1]

    monkeypatch.setattr(drawing, "_start_drawer", noted)
    monkeypatch.setattr(drawing, "_kept", None)
    yield found
    assert all(process.returncode is not None for process in found)


def test_a_process_is_kept_while_it_may_draw_again(started: list[Popen[str]]) -> None:
    first = drawn()
    assert len(started) == 1
    assert started[0].returncode is not None
    with keeping_drawers():
        assert drawn() == drawn() == first
        assert len(started) == 2
        assert started[1].poll() is None
        started[1].kill()
        started[1].wait()
        assert drawn() == first
        assert len(started) == 3


def test_a_process_that_has_drawn_much_is_replaced(
    started: list[Popen[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(drawing, "_MOST_FIGURES", 2)
    with keeping_drawers():
        for _ in range(3):
            drawn()
    assert len(started) == 2


def test_a_figure_that_cannot_be_drawn_ends_its_process(started: list[Popen[str]]) -> None:
    with keeping_drawers():
        with pytest.raises(RuntimeError, match="a figure cannot be drawn: "):
            drawing.draw([{"mark": 7}], lambda: None)
        assert started[0].returncode is not None


def test_a_fork_does_not_draw_with_its_parents_process(started: list[Popen[str]]) -> None:
    with keeping_drawers():
        drawn()
        if (child := os.fork()) == 0:
            os._exit(len(drawing._kept or ()))
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
        drawn()
    assert len(started) == 1
