"""LaTeX tables: what is in them, and that pdflatex sets every one."""

import re
import subprocess
from pathlib import Path

import pytest

from reports.numbers import EMPTY, Number
from reports.tables.table import Cell, Column, Table
from reports.write.latex import PACKAGES, escape, to_latex
from reports.write.report_folder import ReportFiles
from suite.metrics import METRICS
from tests.helpers.composed import composed
from tests.helpers.nasty_text import NASTY
from tests.helpers.programs import required
from tests.helpers.records import expand_runs, write_run

SPECIAL = "<script>%_&#${}~^\\|\"'`*[ σ μ ± − × ‖x‖₂ σ̂² ≠ é Å ł … – — a--b 100\u00a0% 中 \x07\n"


def pdflatex() -> str:
    return required("pdflatex", "texlive-science", "no table was typeset")


def typeset(folder: Path, tables: list[Path], body: str = "") -> str:
    """What pdflatex says of a document with these tables, less what is harmless; its PDF is main.pdf."""
    program = pdflatex()
    packages = "".join(rf"\usepackage{{{name}}}" for name in PACKAGES)
    inputs = "\n".join(rf"\input{{{path}}}" for path in tables)
    text = rf"\documentclass{{article}}{packages}\begin{{document}}{body}{inputs}\end{{document}}"
    (folder / "main.tex").write_text(text)
    done = subprocess.run(
        [program, "-halt-on-error", "-interaction=nonstopmode", "main.tex"],
        cwd=folder,
        capture_output=True,
        encoding="latin-1",
        timeout=200,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-3000:]
    assert (folder / "main.pdf").stat().st_size > 1000
    return (folder / "main.log").read_text(encoding="latin-1")


# ---------------------------------------------------------------- text


@pytest.mark.parametrize(
    ("text", "latex"),
    [
        ("a_b & 50% #1 $x$ {y}", r"a\_b \& 50\% \#1 \$x\$ \{y\}"),
        ("~^\\", r"{\textasciitilde}{\textasciicircum}{\textbackslash}"),
        ("<script>", r"\ensuremath{<}script\ensuremath{>}"),
        ("ESM σ", r"ESM \ensuremath{\sigma}"),
        ("μ̂ − σ̃", r"\ensuremath{\hat{\ensuremath{\mu}}} \ensuremath{-} "
         r"\ensuremath{\tilde{\ensuremath{\sigma}}}"),
        ("‖x‖₂ ± 1 × 2²", r"\ensuremath{\Vert}x\ensuremath{\Vert}\ensuremath{_2} "
         r"\ensuremath{\pm} 1 {\texttimes} 2{\texttwosuperior}"),
        ("Zoë à Łódź", r"Zo\"e \`a {\L}\'od\'z"),
        ("95\u00a0%", r"95~\%"),
        ("--out", r"-{}-out"),
        ("[1] *", r"{[}1] {*}"),
        ("| ` √", r"{\textbar} {\textasciigrave} \ensuremath{\surd}"),
        ("a\n b\tc\x07", "a b c"),
        ("中 đ", "{[}U+4E2D] {[}U+0111]"),
    ],
)  # fmt: skip
def test_text_is_escaped(text: str, latex: str) -> None:
    assert escape(text) == latex


def test_every_formula_has_its_signs() -> None:
    assert not [m.formula for m in METRICS.values() if "U+" in escape(m.formula + m.title + m.unit)]


def test_pdflatex_sets_every_character_without_a_package(tmp_path: Path) -> None:
    characters = [chr(code) for code in (*range(0x20, 0x2300), 0x4E2D, 0x1F600)]
    escaped = [escape(f"x{character}x") for character in characters]
    assert all(text.isascii() for text in escaped)
    body = "\n".join(rf"{text}\par" for text in escaped if "U+" not in text)
    assert "Missing character" not in typeset(tmp_path, [], body)


# ---------------------------------------------------------------- tables


def example() -> Table:
    columns = [Column("Norm", "text"), Column("Top-1, final (%)", better="higher"), Column("Batch")]
    rows: list[list[Cell]] = [
        ["BN", Number(62, 2, half=4.97), Number(4)],
        ["XBN_%", Number(166.5, 2, half=1.5, remark="2 seeds"), Number(16)],
        ["GN", EMPTY, Number(4)],
        ["LN", Number(-1, 2, half=12.5, remark="2 seeds"), Number(4)],
        ["IN", Number(5, 2, remark="1 seed"), Number(4)],
    ]
    return Table("Summary & more", columns, rows, 0, "All rows: x.", ["100% of 3."], frozenset({3}))


def test_a_table_golden() -> None:
    assert to_latex(example(), "tab:x").splitlines() == [
        r"% Made by shiftbench report. Needs \usepackage{booktabs}\usepackage{graphicx}"
        r"\usepackage{longtable}\usepackage{siunitx}",
        "% Bold: the best mean of its block, where its interval is apart from those of all others.",
        r"\begin{table}",
        r"\centering\setlength{\belowcaptionskip}{\smallskipamount}",
        r"\sisetup{mode=text, reset-text-series=false, text-series-to-math=true,",
        r"  table-align-text-after=false, uncertainty-mode=separate, retain-zero-uncertainty=true}",
        r"\caption{Summary \& more. All rows: x.}\label{tab:x}",
        r"\resizebox{\ifdim\width>\linewidth\linewidth\else\width\fi}{!}{%",
        r"\begin{tabular}{lS[table-format={-3.2(4)\textsuperscript{a}}]S[table-format={2.0}]}",
        r"\toprule",
        r"{Norm} & {\shortstack[c]{Top-1, final\\(\%)}} & {Batch} \\",
        r"\midrule",
        r"BN & 62.00 +- 4.97 & 4 \\",
        r"XBN\_\% & \bfseries 166.50 +- 1.50 \textsuperscript{a} & 16 \\",
        r"GN & {{\textemdash}} & 4 \\",
        r"\midrule",
        r"LN & -1.00 +- 12.50 \textsuperscript{a} & 4 \\",
        r"IN & 5.00 \textsuperscript{b} & 4 \\",
        r"\bottomrule",
        r"\end{tabular}}",
        r"\par\smallskip\raggedright\footnotesize",
        r"100\% of 3.\par",
        r"\textsuperscript{a} 2 seeds.\par",
        r"\textsuperscript{b} 1 seed.\par",
        r"\end{table}",
    ]


def test_both_values_of_two_seeds_are_set_as_text() -> None:
    both = Number(-0.25, 2, both=(-1.0, 0.5), remark="2 seeds", signed=True)
    table = Table("T", [Column("N", "text"), Column("Value")], [["a", both], ["b", Number(3.5, 2)]])
    text = to_latex(table, "tab:x")
    assert r"a & {\ensuremath{-}1.00 and +0.50 (2 seeds)} \\" in text
    assert "S[table-format={1.2}]" in text
    assert "textsuperscript" not in text  # the remark stands in the cell


def test_many_rows_break_over_pages() -> None:
    table = Table(
        "Long", [Column("Run", "text"), Column("Value")], [[f"r{i}", Number(i + 0.5, 1)] for i in range(90)]
    )
    text = to_latex(table, "tab:long")
    assert r"\begin{longtable}{lS[table-format={2.1}]}" in text
    assert r"\begin{table}" not in text
    assert text.count(r"\toprule") == 2  # on the first page and on the others


def test_pdflatex_sets_every_table_of_a_report(sweep_report: ReportFiles, tmp_path: Path) -> None:
    tables = sorted((sweep_report.html.parent / "tables").glob("*.tex"))
    assert {"summary", "mean-estimation-shift", "throughput", "runs", "metrics"} <= {t.stem for t in tables}
    log = typeset(tmp_path, tables)
    assert "Missing character" not in log
    assert not re.findall(r"LaTeX Warning: .*(?:multiply|Float too large).*", log)


def test_pdflatex_sets_names_that_hold_anything(tmp_path: Path) -> None:
    data = {"name": SPECIAL, "path": "/data", "num_classes": 10, "image_size": 28}
    both = [data, {**data, "name": NASTY}]
    for run in expand_runs(name=NASTY, data=both, batch={"global_batch_size": 4}, seeds=[0]):
        write_run(tmp_path / "runs", run, reason=SPECIAL, layers=[NASTY], esm_sigma=[1.0])
    files = []
    for number, table in enumerate(composed(tmp_path / "runs").tables()):
        files.append(tmp_path / f"{number}.tex")
        files[-1].write_text(to_latex(table, f"tab:{number}"))
    log = typeset(tmp_path, files)
    assert "Missing character" not in log


def test_pdflatex_sets_numbers_of_every_kind_and_long_tables(tmp_path: Path) -> None:
    cells: list[Cell] = [Number(1.2e-8, 10, half=3e-9), Number(4.1e13), Number(1234, half=5)]
    cells += [Number(-0.5, 1, remark="1 seed"), "< 0.001", "[x]", "*", Number(0.4, 1, prefix="× ")]
    cells += [Number(71.2, 1, bounds=(-70.1, 72.3), remark="3 seeds"), "mixed hardware"]
    cells += [Number(71.2, 1, both=(-70.9, 71.5)), Number(71.2, 1, both=(70.9, 71.5), remark="2 seeds")]
    few = Table("Few", [Column("N", "text"), Column("Value", better="lower")], [[c, c] for c in cells])
    many = Table("Many", few.columns, [[SPECIAL, c] for c in cells * 30], notes=[SPECIAL])
    for name, table in (("few", few), ("many", many)):
        (tmp_path / f"{name}.tex").write_text(to_latex(table, f"tab:{name}"))
    log = typeset(tmp_path, [tmp_path / "few.tex", tmp_path / "many.tex"])
    assert "Missing character" not in log
    pages = re.search(r"Output written on main\.pdf \((\d+) pages", log)
    assert pages is not None
    assert int(pages[1]) >= 4


def test_a_missing_pdflatex_fails_in_ci_and_skips_elsewhere(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    monkeypatch.delenv("CI", raising=False)
    with pytest.raises(pytest.skip.Exception, match="pdflatex is not on the PATH"):
        pdflatex()
    monkeypatch.setenv("CI", "1")
    with pytest.raises(pytest.fail.Exception, match="pdflatex is not on the PATH"):
        pdflatex()
