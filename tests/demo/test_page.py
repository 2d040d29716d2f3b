"""The page and its files: complete, without foreign addresses, for those who may see them."""

from __future__ import annotations

import base64
import io
import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest
import soundfile
from starlette.testclient import TestClient

from coat_core.demo.access import VARIABLE, is_loopback, read_credentials
from coat_core.demo.app import STATIC
from coat_core.demo.sound import sound_response
from coat_core.errors import CoatError
from tests.report.page import assert_accessible

CREDENTIALS = "ann:a long password"


def basic(text: str) -> dict[str, str]:
    return {"Authorization": f"Basic {base64.b64encode(text.encode()).decode()}"}


def config_of(page: str) -> dict[str, object]:
    found = re.search(r'<script type="application/json" id="config">(.*?)</script>', page, re.DOTALL)
    assert found is not None
    return dict(json.loads(found[1]))


def test_the_page_lists_models_examples_and_limits(client: TestClient) -> None:
    page = client.get("/").text
    assert_accessible(page)
    config = config_of(page)
    assert [model["label"] for model in config["models"]] == ["base", "sft", "coat"]  # type: ignore[attr-defined]
    assert config["limits"] == {"audio_s": 5.0, "file_bytes": 740_000, "tokens": 12}
    assert {sample["id"].split("-")[0] for sample in config["samples"]} == {"test"}  # type: ignore[attr-defined]
    assert "tiny" in page


def test_every_file_comes_from_this_server(client: TestClient) -> None:
    page = client.get("/").text
    texts = {"page": page}
    for name in re.findall(r'(?:src|href)="/static/([^"]+)"', page):
        reply = client.get(f"/static/{name}")
        assert reply.status_code == 200
        texts[name] = reply.text
    for path in STATIC.glob("*.js"):
        for name in re.findall(r'from "\./([^"]+)"', path.read_text()):
            assert client.get(f"/static/{name}").headers["content-type"].startswith("text/javascript")
        texts[path.name] = path.read_text()
    assert len(texts) == 10
    for name, text in texts.items():
        assert not re.search(r"https?://|//cdn|innerHTML|insertAdjacentHTML|\beval\(", text), name
    for name in ("absent.js", "..%2Fapp.py", "demo.py", "report.html.j2"):
        assert client.get(f"/static/{name}").status_code == 404
    headers = client.get("/").headers
    assert "default-src 'self'" in headers["content-security-policy"]
    assert headers["x-content-type-options"] == "nosniff"


def test_clips_are_flac_in_parts_and_only_those_of_the_manifest(client: TestClient) -> None:
    whole = client.get("/api/clip", params={"id": "test-music-2"})
    samples, rate = soundfile.read(io.BytesIO(whole.content))
    assert (rate, len(samples)) == (16_000, 9_600 + 2 * 1_600)
    part = client.get("/api/clip", params={"id": "test-music-2"}, headers={"Range": "bytes=10-19"})
    assert (part.status_code, part.content) == (206, whole.content[10:20])
    assert part.headers["content-range"] == f"bytes 10-19/{len(whole.content)}"
    assert client.get("/api/clip", params={"id": "../accepted.jsonl"}).status_code == 404


@pytest.mark.parametrize(
    ("wanted", "status", "body"),
    [
        (None, 200, b"0123456789"), ("bytes=0-", 206, b"0123456789"), ("bytes=3-5", 206, b"345"), ("bytes=8-99", 206, b"89"),
        ("bytes=-2", 206, b"89"), ("bytes=-99", 206, b"0123456789"), ("bytes=10-", 416, b""), ("bytes=5-3", 416, b""),
        ("bytes=-0", 416, b""),
        ("bytes=-", 200, b"0123456789"), ("bytes=0-1,4-5", 200, b"0123456789"), ("lines=1-2", 200, b"0123456789"),
    ],
)  # fmt: skip
def test_ranges(wanted: str | None, status: int, body: bytes) -> None:
    reply = sound_response(b"0123456789", wanted)
    assert (reply.status_code, bytes(reply.body)) == (status, body)


def test_with_credentials_every_address_needs_them(open_client: Callable[..., TestClient]) -> None:
    client = open_client(credentials=CREDENTIALS)
    for path in ("/", "/static/main.js", "/api/items", "/api/clip?id=test-music-2"):
        refused = client.get(path)
        assert refused.status_code == 401
        assert refused.headers["www-authenticate"].startswith("Basic")
        for wrong in ("ann:another password", "ann", "", "bob:a long password"):
            assert client.get(path, headers=basic(wrong)).status_code == 401
        assert client.get(path, headers={"Authorization": "Bearer x"}).status_code == 401
        assert client.get(path, headers=basic(CREDENTIALS)).status_code == 200
    assert client.post("/api/ask", json={}).status_code == 401
    assert client.post("/api/ask", json={}, headers=basic(CREDENTIALS)).status_code == 422


def test_a_loopback_server_answers_to_loopback_names_only(open_client: Callable[..., TestClient]) -> None:
    client = open_client()
    for name in ("127.0.0.1:7860", "localhost:7860", "[::1]:7860", "localhost", "127.0.0.1"):
        assert client.get("/", headers={"Host": name}).status_code == 200, name
    for name in ("evil.example:7860", "127.0.0.1.evil.example", "", "10.0.0.1"):
        assert client.get("/", headers={"Host": name}).status_code == 421, name
    public = open_client(host="0.0.0.0", credentials=CREDENTIALS)
    assert public.get("/", headers={"Host": "gpu.example", **basic(CREDENTIALS)}).status_code == 200


def test_another_host_needs_credentials_from_a_file_or_the_environment(tmp_path: Path) -> None:
    file = tmp_path / "secret"
    file.write_text(f"{CREDENTIALS}\n")
    for host in ("127.0.0.1", "127.8.8.8", "::1", "localhost"):
        assert is_loopback(host)
        assert read_credentials(host, None, {}) is None
        assert read_credentials(host, file, {}) == CREDENTIALS
    for host in ("0.0.0.0", "::", "192.168.0.4", "gpu.example"):
        with pytest.raises(CoatError, match="needs credentials"):
            read_credentials(host, None, {})
        with pytest.raises(CoatError, match="needs credentials"):
            read_credentials(host, None, {VARIABLE: ""})
        assert read_credentials(host, None, {VARIABLE: CREDENTIALS}) == CREDENTIALS
        assert read_credentials(host, file, {VARIABLE: "bob:another password"}) == CREDENTIALS
    for text in ("", "ann", "ann:short", ":a long password", "ann:a long\npassword"):
        file.write_text(text)
        with pytest.raises(CoatError, match="another form") as caught:
            read_credentials("0.0.0.0", file, {})
        assert "short" not in str(caught.value)
    with pytest.raises(CoatError, match="cannot be read"):
        read_credentials("0.0.0.0", tmp_path / "absent", {})
    file.write_bytes(b"\xff\xfe:\x80")
    with pytest.raises(CoatError, match="no text"):
        read_credentials("0.0.0.0", file, {})
