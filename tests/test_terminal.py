"""Tables on narrow terminals."""

import io

from rich.console import Console

from suite.terminal import print_rows

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
