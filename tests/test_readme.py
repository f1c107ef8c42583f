"""README is short and its blocks hold; the commands that all pages show exist, with their options."""

import re
import shlex
import tomllib
from pathlib import Path
from typing import Any

import pytest
import typer
import yaml

from jobs.cli import app
from suite import __version__
from suite.config import load_experiment

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
MAX_WORDS = 1000


def blocks(page: Path, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", page.read_text(), re.MULTILINE | re.DOTALL)


def shown_commands(page: Path) -> list[str]:
    """Return the lines behind a prompt, without their comments; a backslash continues a line."""
    text = "".join(blocks(page, "console")).replace("\\\n", " ")
    return [line[2:].split("  #")[0].strip() for line in text.splitlines() if line.startswith("$ ")]


def test_it_is_short() -> None:
    assert len(README.split()) < MAX_WORDS


def test_one_version_is_stated_everywhere() -> None:
    of_package = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    (of_bibtex,) = re.findall(r"version = \{(.*)\}", (ROOT / "docs/citing.md").read_text())
    newest = re.findall(
        r"^## ([\d.]+) \((\d{4}-\d\d-\d\d)\)$", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE
    )[0]
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert {__version__, of_package, of_bibtex, citation["version"]} == {newest[0]}
    assert str(citation["date-released"]) == newest[1]


@pytest.mark.parametrize("number", range(len(blocks(ROOT / "README.md", "python"))))
def test_its_python_runs(number: int, capsys: pytest.CaptureFixture[str]) -> None:
    exec(compile(blocks(ROOT / "README.md", "python")[number], "README.md", "exec"), {})
    assert "layer4.1.bn2" in capsys.readouterr().out


def test_its_experiment_is_valid(tmp_path: Path) -> None:
    (text,) = blocks(ROOT / "README.md", "yaml")
    (tmp_path / "mine.yaml").write_text(text)
    runs = load_experiment(tmp_path / "mine.yaml").runs
    # BN and XBN at two norm batches, and GN, which has none.
    assert len(runs) == 5 * len(yaml.safe_load(text)["seeds"])


def find_command(words: list[str]) -> Any:
    """Return the command that words begin with."""
    command: Any = typer.main.get_command(app)
    while hasattr(command, "commands"):
        assert words, "no command is named"
        assert words[0] in command.commands, f"no command: {words}"
        command, words = command.commands[words[0]], words[1:]
    return command


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_commands_and_their_options_exist(page: Path) -> None:
    makefile = (ROOT / "Makefile").read_text()
    for line in shown_commands(page):
        for part in re.split(r" && | \| ", line):
            words = shlex.split(part.replace("…", ""), comments=True)
            if words[0] == "make":
                assert re.search(rf"^{re.escape(words[1])}:", makefile, re.MULTILINE), line
            if words[0] != "shiftbench":
                continue
            command = find_command([word for word in words[1:] if word.isalpha() and word.islower()])
            known = {name for one in command.params for name in (*one.opts, *one.secondary_opts)}
            given = set(re.findall(r"(?:^|[\s\[])(-[a-z]\b|--[a-z0-9-]+)", part))
            assert given <= known | {"--help"}, f"{page.name}: {line}: {given - known}"


def test_the_files_that_it_links_to_exist() -> None:
    for page in PAGES:
        for target in re.findall(r"\]\(([^)#:\s]+)(?:#[^)]*)?\)", page.read_text()):
            assert (page.parent / target).exists(), f"{page.name}: {target}"
