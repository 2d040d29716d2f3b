"""A hub on loopback: serves the files of one repository to the real client library."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from urllib.parse import unquote, urlsplit

from tests.testing.http_server import QuietHandler, serving


@dataclass
class FakeHub:
    """The repository that the server serves, and the requests that it received."""

    repository: str
    commit: str
    files: dict[str, bytes]
    gated: bool = False
    sizes: dict[str, int] = field(default_factory=dict)
    """Reported sizes that differ from the true ones."""
    broken: str | None = None
    """A file whose connection ends after half of its bytes."""
    kind: str = "models"
    url: str = ""
    requests: list[str] = field(default_factory=list)

    def answer(self, path: str) -> tuple[int, dict[str, str], bytes]:
        api = f"/api/{self.kind}/{self.repository}"
        if self.repository not in path:
            return 404, {"X-Error-Code": "RepoNotFound"}, b"{}"
        if self.gated:
            return 403, {"X-Error-Code": "GatedRepo", "X-Error-Message": "Access to this model is restricted"}, b"{}"
        if self.commit not in path:
            return 404, {"X-Error-Code": "RevisionNotFound"}, b"{}"
        if path.startswith(f"{api}/revision/"):
            rows = [{"rfilename": name} for name in self.files]
            return 200, {}, json.dumps({"id": self.repository, "sha": self.commit, "siblings": rows}).encode()
        if path.startswith(f"{api}/tree/"):
            rows = [
                {"type": "file", "path": name, "size": self.sizes.get(name, len(data)), "oid": hashlib.sha1(data).hexdigest()}
                for name, data in self.files.items()
            ]
            return 200, {}, json.dumps(rows).encode()
        name = path.partition(f"/resolve/{self.commit}/")[2]
        if name not in self.files:
            return 404, {"X-Error-Code": "EntryNotFound", "X-Repo-Commit": self.commit}, b""
        data = self.files[name]
        hub_size = self.sizes.get(name, len(data))
        headers = {"X-Repo-Commit": self.commit, "ETag": f'"{hashlib.sha1(data).hexdigest()}"', "X-Linked-Size": str(hub_size)}
        return 200, headers, data


@contextmanager
def serve(hub: FakeHub) -> Iterator[FakeHub]:
    """Serve on a free port until the block ends."""

    class Handler(QuietHandler):
        protocol_version = "HTTP/1.1"

        def _answer(self, body: bool) -> None:
            hub.requests.append(f"{self.command} {urlsplit(self.path).path}")
            status, headers, data = hub.answer(unquote(urlsplit(self.path).path))
            self.send_response(status)
            for name, value in headers.items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            if body and hub.broken is not None and self.path.endswith(hub.broken):
                self.wfile.write(data[: len(data) // 2])
                self.close_connection = True
            elif body:
                self.wfile.write(data)

        def do_GET(self) -> None:  # noqa: N802
            self._answer(True)

        def do_HEAD(self) -> None:  # noqa: N802
            self._answer(False)

    with serving(Handler) as hub.url:
        yield hub
