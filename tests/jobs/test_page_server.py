"""The server of a report's page: its files and those of its runs, behind a secret, and nothing else."""

import re
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from jobs.commands.report import report
from jobs.page_server import PageServer
from suite.errors import UserError
from tests.helpers.records import expand_runs, write_run


@pytest.fixture
def server(tmp_path: Path) -> Iterator[PageServer]:
    run = tmp_path / "runs" / "one"
    run.mkdir(parents=True)
    for name in ("log.txt", "run.json", "secret.txt"):
        (run / name).write_text(f"content of {name}")
    out = tmp_path / "my out"
    (out / "figures").mkdir(parents=True)
    (out / "index.html").write_text("the page")
    (out / "figures" / "a.svg").write_text("a figure")
    (tmp_path / "private").write_text("private")
    (out / "leads-out").symlink_to(tmp_path / "private")
    made = PageServer(out, [tmp_path / "runs"], 0)
    yield made
    made.close()


def fetched(address: str) -> str:
    with urllib.request.urlopen(address, timeout=10) as answer:
        return str(answer.read().decode())


def test_the_page_its_files_and_the_logs_of_runs_are_served(server: PageServer) -> None:
    assert fetched(server.address) == "the page"
    beside = server.address.removesuffix("index.html")
    assert fetched(f"{beside}figures/a.svg") == "a figure"
    # As a browser resolves ../runs/one/log.txt from the page.
    assert fetched(f"{beside.removesuffix('my%20out/')}runs/one/log.txt") == "content of log.txt"


@pytest.mark.parametrize(
    "path",
    ["{out}/../runs/one/secret.txt", "{out}/../private", "{out}/leads-out", "{out}/figures", "/etc/passwd"],
)
def test_nothing_else_is_served(server: PageServer, tmp_path: Path, path: str) -> None:
    secret = server.address.split("/")[3]
    meant = path.format(out=str(tmp_path / "my%20out"))
    with pytest.raises(urllib.error.HTTPError) as caught:
        fetched(f"http://localhost:{server.port}/{secret}{meant}")
    assert caught.value.code == 404


def test_without_the_secret_nothing_is_served(server: PageServer) -> None:
    parts = server.address.split("/")
    for secret in ("", "guessed", "%F0%9F%98%80"):
        with pytest.raises(urllib.error.HTTPError):
            fetched("/".join([*parts[:3], secret, *parts[4:]]))


def test_a_port_that_is_taken_is_refused_in_a_sentence(server: PageServer, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=f"--port {server.port}: cannot listen there: Address already in use"):
        PageServer(tmp_path, [], server.port)
    assert f"-L {server.port}:localhost:{server.port} " in server.tunnel


def test_the_command_writes_serves_and_ends_with_ctrl_c(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run, *_ = expand_runs(model={"arch": "small_resnet20"}, batch={"global_batch_size": 4}, seeds=[0])
    write_run(tmp_path / "runs", run)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    pages, opened, ways = [], [], []

    def wait(server: PageServer) -> None:
        pages.append(fetched(server.address))
        way = Path(opened[0].removeprefix("file://"))
        ways.append((way.stat().st_mode & 0o777, f"url={server.address}" in way.read_text()))
        raise KeyboardInterrupt

    monkeypatch.setattr(PageServer, "wait", wait)
    monkeypatch.setattr("webbrowser.open", lambda address: opened.append(address) or True)
    report([tmp_path / "runs"], tmp_path / "out", serve=True, port=0, open_page=True)
    said = capsys.readouterr().out
    (page,) = pages
    assert "Estimation shift: synthetic-sweep" in page
    assert "on your own machine: ssh -N -L " in said
    (address,) = re.findall(r"then open (http://localhost:\S+)", said)
    # All who are logged in see a browser's arguments: the secret is in a file that they cannot read.
    assert address.split("/")[3] not in opened[0]
    assert ways == [(0o600, True)]
    assert not list((tmp_path / "out").glob("way*"))
    with pytest.raises(UserError, match="--port is that of --serve"):
        report([tmp_path / "runs"], tmp_path / "out", port=8000)
