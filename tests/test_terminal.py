"""Tables on narrow terminals."""

import io

import pytest
from rich.console import Console

from suite.errors import UserError
from suite.terminal import print_rows
from website.terminal import Screen

HEADINGS = ["layer", "of", "scaled ESM", "±", "own", "±", "inherited", "±"]
ROWS = [["layer4.2.downsample.norm1", "μ", *["-1234.5678"] * 6], ["mean", "σ", *["0.1"] * 6]]


def printed(width: int) -> list[str]:
    out = io.StringIO()
    console = Console(file=out, width=width)
    print_rows(console, HEADINGS, ROWS, numbers=range(2, 8))
    assert console.width == width
    return out.getvalue().splitlines()


def test_a_number_is_never_cut_and_a_name_is_folded() -> None:
    for width in (60, 80, 200):
        lines = printed(width)
        text = "\n".join(lines)
        assert "…" not in text
        assert text.count("-1234.5678") == 6
        folded = "".join(line[1:13].strip() for line in lines)
        assert "layer4.2.downsample.norm1" in (folded if width < 100 else text)
        assert all(word in text for word in ("scaled", "ESM", "inherited"))
    assert "layer4.2.downsample.norm1" in "\n".join(printed(200))


def test_two_numbers_take_two_lines_before_a_table_is_wider_than_its_terminal() -> None:
    out = io.StringIO()
    rows = [["BN", "66.60 and 67.90", "0.0434 and 0.0588"], ["GN", "76.6 ± 2.2", "0.01"]]
    print_rows(Console(file=out, width=32), ["Norm", "Top-1 (%)", "Shift"], rows, numbers=(1, 2))
    lines = out.getvalue().splitlines()
    assert max(map(len, lines)) <= 32
    assert [line.split() for line in lines[1:]] == [
        ["BN", "66.60", "and", "0.0434", "and"],
        ["67.90", "0.0588"],
        ["GN", "76.6", "±", "2.2", "0.01"],
    ]


def test_a_recorded_screen_shows_what_a_terminal_would() -> None:
    screen = Screen(10)
    screen.write("\x1b[?25lloading\r\n\x1b[31m  1 %\x1b[0m")
    screen.write("\r\x1b[2K\x1b[1A\x1b[2Kepoch 1\r\nbar  2 %\r\x1b]8;;file:///x\x1b\\ok\x1b]8;;\x1b\\")
    screen.write("\r\na line of 20 letters.\x1b[?25h")
    assert screen.text.splitlines() == ["epoch 1", "okr  2 %", "a line of", "20 letters", "."]
    with pytest.raises(UserError, match=r"no screen here for the control sequence ESC \[ 2J"):
        screen.write("\x1b[2J")
