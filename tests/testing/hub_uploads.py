"""A hub on loopback that takes uploads from the real client library: accounts, repositories, large files, commits."""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import unquote, urlsplit

import yaml

from tests.testing.http_server import QuietHandler, serving

TOKEN = "hf_writes"
LARGE = (".safetensors", ".bin", ".pt", "tokenizer.json")


@dataclass
class Repo:
    """A repository: its commits, each with all files of its revision."""

    private: bool = True
    commits: list[dict[str, bytes]] = field(default_factory=lambda: [{".gitattributes": b"*.safetensors filter=lfs\n"}])
    messages: list[str] = field(default_factory=lambda: ["initial commit"])
    writers: tuple[str, ...] = ("me",)

    @property
    def sha(self) -> str:
        return hashlib.sha1(str(len(self.commits)).encode()).hexdigest()

    @property
    def files(self) -> dict[str, bytes]:
        return self.commits[-1]


@dataclass
class UploadHub:
    """The hub. `repos` is by type and id; `refuse` gives a status for paths that contain a text."""

    repos: dict[tuple[str, str], Repo] = field(default_factory=dict)
    roles: dict[str, str] = field(default_factory=lambda: {TOKEN: "write", "hf_reads": "read"})
    refuse: dict[str, int] = field(default_factory=dict)
    large: dict[str, bytes] = field(default_factory=dict)
    requests: list[str] = field(default_factory=list)
    tokens: set[str] = field(default_factory=set)
    url: str = ""

    def answer(self, method: str, path: str, token: str, body: bytes) -> tuple[int, dict[str, Any]]:
        for part, status in self.refuse.items():
            if part in path:
                return status, {"error": "refused"}
        if path.startswith("/large/"):
            assert hashlib.sha256(body).hexdigest() == path.rpartition("/")[2]
            self.large[path.rpartition("/")[2]] = body
            return 200, {}
        if path == "/api/validate-yaml":
            return self._validate(json.loads(body)["content"])
        if token not in self.roles:
            return 401, {"error": "Invalid credentials in Authorization header"}
        if path == "/api/whoami-v2":
            return 200, {"name": "me", "orgs": [{"name": "team"}], "auth": {"accessToken": {"role": self.roles[token]}}}
        if path == "/api/repos/create":
            return self._create(json.loads(body), token)
        if path.endswith("/info/lfs/objects/batch"):
            return 200, {"transfer": "basic", "objects": [self._object(entry) for entry in json.loads(body)["objects"]]}
        return self._repository(path, token, body)

    def _repository(self, path: str, token: str, body: bytes) -> tuple[int, dict[str, Any]]:
        _, _, kind, owner, name, *rest = path.split("/")
        repo = self.repos.get((kind, f"{owner}/{name}"))
        if repo is None or (repo.private and "me" not in repo.writers):
            return 404, {"error": "Repository not found"}
        writes = self.roles[token] == "write" and "me" in repo.writers
        if not rest:
            rows = [{"rfilename": file} for file in repo.files]
            return 200, {"id": f"{owner}/{name}", "sha": repo.sha, "private": repo.private, "siblings": rows}
        if rest[0] == "auth-check":
            return (200, {}) if writes else (403, {"error": "no write access"})
        if not writes:
            return 403, {"error": "no write access"}
        if rest[0] == "preupload":
            rows = [
                {"path": f["path"], "uploadMode": "lfs" if f["path"].endswith(LARGE) else "regular", "shouldIgnore": False, "oid": None}
                for f in json.loads(body)["files"]
            ]
            return 200, {"files": rows}
        assert rest[0] == "commit", path
        return self._commit(repo, f"{owner}/{name}", [json.loads(line) for line in body.splitlines()])

    def _validate(self, content: str) -> tuple[int, dict[str, Any]]:
        fields = yaml.safe_load(content.split("---")[1])
        if isinstance(fields.get("license"), str) and isinstance(fields.get("pipeline_tag"), str):
            return 200, {"errors": [], "warnings": []}
        return 400, {"errors": [{"message": '"license" must be a string'}], "warnings": []}

    def _create(self, wanted: dict[str, Any], token: str) -> tuple[int, dict[str, Any]]:
        owner = wanted.get("organization") or "me"
        if self.roles[token] != "write" or owner not in ("me", "team"):
            return 403, {"error": "no write access"}
        identity = f"{owner}/{wanted['name']}"
        if ("models", identity) in self.repos:
            return 409, {"error": "You already created this model repo"}
        self.repos["models", identity] = Repo(private=wanted.get("visibility") == "private" or wanted.get("private") is True)
        return 200, {"url": f"{self.url}/{identity}"}

    def _object(self, entry: dict[str, Any]) -> dict[str, Any]:
        if entry["oid"] in self.large:
            return entry
        return {**entry, "actions": {"upload": {"href": f"{self.url}/large/{entry['oid']}"}}}

    def _commit(self, repo: Repo, identity: str, lines: list[dict[str, Any]]) -> tuple[int, dict[str, Any]]:
        header = lines[0]["value"]
        if header.get("parentCommit") not in (None, repo.sha):
            return 412, {"error": "A commit has happened since"}
        files = dict(repo.files)
        for line in lines[1:]:
            value = line["value"]
            if line["key"] == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif line["key"] == "lfsFile":
                files[value["path"]] = self.large[value["oid"]]
            else:
                assert line["key"] == "deletedFile"
                del files[value["path"]]
        repo.commits.append(files)
        repo.messages.append(header["summary"])
        return 200, {"commitUrl": f"{self.url}/{identity}/commit/{repo.sha}", "commitOid": repo.sha}


@contextmanager
def serve_uploads(hub: UploadHub) -> Iterator[UploadHub]:
    """Serve on a free port until the block ends."""

    class Handler(QuietHandler):
        protocol_version = "HTTP/1.1"

        def _chunks(self) -> bytes:
            parts = []
            while size := int(self.rfile.readline(), 16):
                parts.append(self.rfile.read(size))
                self.rfile.readline()
            self.rfile.readline()
            return b"".join(parts)

        def _answer(self) -> None:
            path = unquote(urlsplit(self.path).path)
            hub.requests.append(f"{self.command} {path}")
            token = (self.headers["Authorization"] or "").removeprefix("Bearer ")
            hub.tokens.add(token)
            body = self._chunks() if self.headers["Transfer-Encoding"] else self.rfile.read(int(self.headers["Content-Length"] or 0))
            status, content = hub.answer(self.command, path, token, body)
            data = json.dumps(content).encode()
            self.send_response(status)
            if status == 401:
                self.send_header("X-Error-Message", "Invalid credentials in Authorization header")
            elif status == 404:
                self.send_header("X-Error-Code", "RepoNotFound")
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        do_GET = do_POST = do_PUT = _answer  # noqa: N815

    with serving(Handler) as hub.url:
        yield hub
