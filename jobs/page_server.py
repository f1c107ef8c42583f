"""Serves a report's page on this machine alone, for a browser at the other end of an SSH tunnel."""

import secrets
import socket
from collections.abc import Sequence
from http import HTTPStatus
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any
from urllib.parse import quote, unquote, urlsplit

from suite.errors import UserError
from suite.paths import RunPaths
from suite.user import user_name

# Of a run, what a page links to.
_OF_RUNS = {RunPaths("").log.name, RunPaths("").run.name}
DEFAULT_PORT = 8765
_TRIED = 20  # ports from the default one on, as others on a login node serve pages too


class PageServer:
    """Serves a report's folder, and the logs and configurations of its runs, until it is closed.

    Others who are logged in to this machine can reach its ports: the address has a secret part, without which
    nothing is answered. Raises UserError when the port is taken.
    """

    def __init__(self, out: Path, runs: Sequence[Path], port: int | None = None) -> None:
        self._out = out.resolve()
        self._secret = secrets.token_urlsafe(9)
        self._way_in = self._out / "way-to-the-page.html"  # here, as browsers in a sandbox read no /tmp
        roots, secret = [self._out, *(root.resolve() for root in runs)], self._secret

        class Handler(_Handler):
            """Answers for this server's files."""

        Handler.secret, Handler.out, Handler.roots = secret, self._out, roots
        self._server = _bound(Handler, port)
        self._thread = Thread(target=self._server.serve_forever, daemon=True)
        self._thread.start()

    @property
    def port(self) -> int:
        return int(self._server.server_address[1])

    @property
    def address(self) -> str:
        """Of the page, as the browser takes it."""
        path = quote(str(self._out / "index.html"))
        return f"http://localhost:{self.port}/{self._secret}{path}"

    @property
    def tunnel(self) -> str:
        """The command that leads there from another machine."""
        return f"ssh -N -L {self.port}:localhost:{self.port} {user_name()}@{socket.gethostname()}"

    def way_in(self) -> Path:
        """Write a page that leads to the address, which this user alone can read, and return its path.

        A browser's arguments are seen by all who are logged in, and so would be the address's secret.
        """
        path = self._way_in
        path.unlink(missing_ok=True)
        path.touch(0o600, exist_ok=False)
        path.write_text(f'<!doctype html><meta http-equiv="refresh" content="0; url={self.address}">\n')
        return path

    def wait(self) -> None:
        """Return when it is closed."""
        self._thread.join()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._way_in.unlink(missing_ok=True)


def _bound(handler: type["_Handler"], port: int | None) -> ThreadingHTTPServer:
    ports = range(DEFAULT_PORT, DEFAULT_PORT + _TRIED) if port is None else [port]
    for one in ports:
        try:
            return ThreadingHTTPServer(("127.0.0.1", one), handler)
        except OSError as error:
            reason = error.strerror
    named = f"--port {ports[0]}" if port is not None else f"ports {ports[0]} to {ports[-1]}"
    raise UserError(f"{named}: cannot listen there: {reason}; name another with --port, 0 for any free one")


class _Handler(SimpleHTTPRequestHandler):
    """Files by their full path behind the secret: so links that lead up from the report's folder hold too."""

    secret = ""
    out = Path()
    roots: Sequence[Path] = ()

    def translate_path(self, path: str) -> str:
        """Return the file that is meant, or a path at which there is none."""
        nowhere = "/nowhere/at/all"
        first, _, rest = unquote(urlsplit(path).path).lstrip("/").partition("/")
        if not secrets.compare_digest(first.encode(), self.secret.encode()) or "\0" in rest:
            return nowhere
        file = Path(f"/{rest}").resolve()
        is_own = file.is_relative_to(self.out)
        is_of_run = file.name in _OF_RUNS and any(file.is_relative_to(root) for root in self.roots)
        return str(file) if is_own or is_of_run else nowhere

    def list_directory(self, path: Any) -> None:
        self.send_error(HTTPStatus.NOT_FOUND)

    def end_headers(self) -> None:
        self.send_header("Cache-Control", "no-store")  # a page that is rewritten loads itself again
        super().end_headers()

    def log_message(self, format: str, *args: Any) -> None:
        """Stay silent: the terminal is the report's."""
