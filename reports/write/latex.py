"""A Table to a LaTeX file that a paper can \\input: booktabs rules, siunitx numbers, the best in bold."""

import re
import textwrap
import unicodedata
from collections.abc import Iterator, Sequence

from pylatexenc import latexencode

from reports.numbers import Number, ascii_number
from reports.tables.table import Column, Table

PACKAGES = ("booktabs", "graphicx", "longtable", "siunitx")
# A float cannot break over pages.
FLOAT_ROWS = 20
HEADER_WIDTH = 14
_WIDE = r">{\raggedright\arraybackslash}p{0.32\linewidth}"


def to_latex(table: Table, label: str) -> str:
    """The text of a .tex file: a `table`, or a `longtable` where it has too many rows for a page.

    Numbers align at their decimal signs, `± half` is an uncertainty of siunitx's, and a remark in
    parentheses (`(2 seeds)`) becomes a mark that is explained below. `label` is what \\ref takes.
    """
    marks = _marks(table)
    columns = [_Cells(table, i, marks) for i in range(len(table.columns))]
    rows = [" & ".join(column.cell(i) for column in columns) + r" \\" for i in range(len(table.rows))]
    for i in sorted(table.breaks, reverse=True):
        rows.insert(i, r"\midrule")
    head = [r"\toprule", " & ".join(column.head() for column in columns) + r" \\", r"\midrule"]
    layout = "".join(column.layout() for column in columns)
    caption = rf"\caption{{{escape(f'{table.title}. {table.caption}')}}}\label{{{label}}}"
    notes = [escape(note) for note in table.notes]
    notes += [rf"\textsuperscript{{{mark}}} {escape(remark)}." for remark, mark in marks.items()]
    wrap = _float if len(table.rows) <= FLOAT_ROWS else _long
    return "\n".join([*_comments(table), *wrap(layout, head, rows, caption, notes), ""])


def _comments(table: Table) -> Iterator[str]:
    packages = "".join(rf"\usepackage{{{name}}}" for name in PACKAGES)
    yield f"% Made by shiftbench report. Needs {packages}"
    if table.best:
        yield "% Bold: the best mean of its block, where its interval is apart from those of all others."


def _float(
    layout: str, head: Sequence[str], rows: Sequence[str], caption: str, notes: Sequence[str]
) -> list[str]:
    return [
        r"\begin{table}",
        r"\centering\setlength{\belowcaptionskip}{\smallskipamount}",
        *_SETUP,
        caption,
        r"\resizebox{\ifdim\width>\linewidth\linewidth\else\width\fi}{!}{%",
        rf"\begin{{tabular}}{{{layout}}}",
        *head,
        *rows,
        r"\bottomrule",
        r"\end{tabular}}",
        *([r"\par\smallskip\raggedright\footnotesize"] if notes else []),
        *(rf"{note}\par" for note in notes),
        r"\end{table}",
    ]


def _long(
    layout: str, head: Sequence[str], rows: Sequence[str], caption: str, notes: Sequence[str]
) -> list[str]:
    return [
        r"\begingroup",
        r"\scriptsize\setlength{\tabcolsep}{3pt}",
        *_SETUP,
        rf"\begin{{longtable}}{{{layout}}}",
        rf"{caption} \\",
        *head,
        r"\endfirsthead",
        *head,
        r"\endhead",
        *rows,
        r"\bottomrule",
        r"\end{longtable}",
        *(rf"\noindent {note}\par" for note in notes),
        r"\endgroup",
    ]


_SETUP = (
    r"\sisetup{mode=text, reset-text-series=false, text-series-to-math=true,",
    r"  table-align-text-after=false, uncertainty-mode=separate, retain-zero-uncertainty=true}",
)


def _marks(table: Table) -> dict[str, str]:
    """A letter for each remark that stands behind a number, in the order of the rows."""
    of_numbers = [i for i, column in enumerate(table.columns) if column.kind == "number"]
    cells = [row[i] for row in table.rows for i in of_numbers]
    # Any other number is set as text, with its remark.
    aligned = [cell for cell in cells if isinstance(cell, Number) and _is_aligned(cell)]
    remarks = dict.fromkeys(cell.remark for cell in aligned if cell.remark)
    return {remark: _letters(i) for i, remark in enumerate(remarks)}


def _letters(index: int) -> str:
    """a … z, aa, ab …"""
    before, last = divmod(index, 26)
    return (_letters(before - 1) if before else "") + chr(ord("a") + last)


class _Cells:
    """One column of a table, in LaTeX."""

    def __init__(self, table: Table, index: int, marks: dict[str, str]) -> None:
        self._column: Column = table.columns[index]
        self._cells = [row[index] for row in table.rows]
        self._bold = {row for row, column in table.best if column == index}
        self._marks = marks
        self._numbers = {
            i: cell
            for i, cell in enumerate(self._cells)
            if self._column.kind == "number" and isinstance(cell, Number) and _is_aligned(cell)
        }

    def layout(self) -> str:
        """The column's letter in the argument of the tabular."""
        if self._column.kind == "sentence":
            return _WIDE
        if not self._numbers:
            return "r" if self._column.kind == "number" else "l"
        longest = max((self._behind(number) for number in self._numbers.values()), key=len)
        return f"S[table-format={{{_format(list(self._numbers.values()))}{longest}}}]"

    def head(self) -> str:
        lines = [escape(line) for line in textwrap.wrap(self._column.header, HEADER_WIDTH)]
        if len(lines) == 1:
            return f"{{{lines[0]}}}"
        place = "l" if self._column.kind != "number" else "c" if self._numbers else "r"
        stack = r"\\".join(lines)
        return rf"{{\shortstack[{place}]{{{stack}}}}}"

    def cell(self, row: int) -> str:
        bold = r"\bfseries " if row in self._bold else ""
        number = self._numbers.get(row)
        if number is None:
            text = bold + escape(str(self._cells[row]))
            return f"{{{text}}}" if self._numbers else text
        half = "" if number.half is None else f" +- {ascii_number(number.half, number.decimals)}"
        behind = self._behind(number)
        return f"{bold}{number.mean}{half}{' ' if behind else ''}{behind}"

    def _behind(self, number: Number) -> str:
        """What follows a number: an interval that is not symmetric, and the mark of its remark."""
        bounds = [rf"\num{{{ascii_number(bound, number.decimals)}}}" for bound in number.bounds or ()]
        interval = f"{{ [{', '.join(bounds)}]}}" if bounds else ""
        return interval + (rf"\textsuperscript{{{self._marks[number.remark]}}}" if number.remark else "")


def _is_aligned(number: Number) -> bool:
    """Whether siunitx takes it as one number: no pair, no exponent beside an uncertainty, and no prefix."""
    if number.both is not None:
        return False
    parts = [number.mean, "" if number.half is None else ascii_number(number.half, number.decimals)]
    return number.is_finite and not number.prefix and not (number.half is not None and "e" in "".join(parts))


def _format(numbers: Sequence[Number]) -> str:
    """siunitx's table-format: as many digits before and behind the point as any of the numbers has."""
    parts = [number.mean.partition("e") for number in numbers]
    wholes = [mantissa.partition(".")[0] for mantissa, _, _ in parts]
    decimals = max(len(mantissa.partition(".")[2]) for mantissa, _, _ in parts)
    text = "-" if any(whole[0] in "+-" for whole in wholes) else ""
    text += f"{max(len(whole.lstrip('+-')) for whole in wholes)}.{decimals}"
    halves = [ascii_number(n.half, n.decimals).partition(".")[0] for n in numbers if n.half is not None]
    if halves:
        text += f"({max(map(len, halves)) + decimals})"
    if exponents := [exponent for _, _, exponent in parts if exponent]:
        sign = "-" if any(exponent.startswith("-") for exponent in exponents) else ""
        text += f"e{sign}{max(len(exponent.lstrip('-')) for exponent in exponents)}"
    return text


_MATH_ACCENTS = {"\u0302": "hat", "\u0303": "tilde", "\u0304": "bar", "\u0307": "dot"}
# What pylatexenc writes with commands of LaTeX's kernel; its other commands need fonts that may be missing.
_KNOWN = (
    "\x20-\x7e\xa0-\xaa\xac\xae-\xb7\xb9\xba\xbc-\xcf\xd1-\xdd\xdf-\xef\xf1-\xfd\xff-\u0103\u0106-\u010f"
    "\u0112-\u0117\u011a-\u012d\u0130-\u0148\u014c-\u0171\u0174-\u017e\u0391-\u03a1\u03a3-\u03a9\u03b1-\u03c9"
    "\u2013\u2014\u2016\u2018\u2019\u201c\u201d\u2020-\u2022\u2026\u2032\u2070\u2074-\u2079\u207f\u2080-\u2089"
    "\u20ac\u2190-\u2194\u21d0-\u21d4\u2202\u2207\u2208\u220f\u2211-\u2213\u221a\u221d\u221e"
    "\u2248\u2260\u2261\u2264\u2265\u22c5\u27e8\u27e9"
)
_PATTERNS = [
    (re.compile(f"([α-ω])([{''.join(_MATH_ACCENTS)}])"), lambda found: _accented(*found.groups())),
    (re.compile("-(?=-)"), r"-{}"),  # two hyphens would be set as a dash
    (re.compile(f"[^{_KNOWN}]"), lambda found: f"{{[}}U+{ord(found[0]):04X}]"),
]
# Behind a row's end, a bracket or an asterisk would be read as its argument.
_CHARACTERS = {"[": "{[}", "*": "{*}", "|": r"\textbar", "`": r"\textasciigrave", "√": r"\ensuremath{\surd}"}
_CHARACTERS |= {"⟨": r"\ensuremath{\langle}", "⟩": r"\ensuremath{\rangle}"}
_CODES = {ord(character): command for character, command in _CHARACTERS.items()}
_Rule = latexencode.UnicodeToLatexConversionRule
_RULES = [_Rule(latexencode.RULE_REGEX, _PATTERNS), _Rule(latexencode.RULE_DICT, _CODES), "defaults"]
_ENCODER = latexencode.UnicodeToLatexEncoder(conversion_rules=_RULES)


def escape(text: str) -> str:
    """Text on one line. A character that LaTeX has no command for becomes its code point: [U+4E2D]."""
    flat = re.sub(r"[^\S\u00a0]+", " ", text).strip(" ")
    composed = unicodedata.normalize("NFC", re.sub(r"[\x00-\x1f\x7f]", "", flat))
    return str(_ENCODER.unicode_to_latex(composed))


def _accented(base: str, accent: str) -> str:
    return rf"\ensuremath{{\{_MATH_ACCENTS[accent]}{{{_ENCODER.unicode_to_latex(base)}}}}}"
