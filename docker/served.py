"""Checks of a running `coat serve` from another host or container. Needs Python's standard library only.

    python served.py answers URL CLIP [REQUESTS]    both protocols answer; what is too large, invalid or too much is refused
    python served.py drain URL CLIP                 requests that are accepted before SIGTERM are answered; says when to send it

CLIP is an audio file of this host; REQUESTS is the server's `--requests` (64).
"""

from __future__ import annotations

import base64
import http.client
import json
import re
import sys
import time
import urllib.parse
from pathlib import Path
from typing import Any

COMPLETIONS, INVOCATIONS = "/v1/chat/completions", "/invocations"
LIMIT_S = 300.0
"""Longest wait for an answer or a state of the server."""


class Server:
    """The server at one address."""

    def __init__(self, url: str) -> None:
        self.host = urllib.parse.urlsplit(url).netloc

    def connection(self) -> http.client.HTTPConnection:
        """Return a new connection."""
        return http.client.HTTPConnection(self.host, timeout=LIMIT_S)

    def ask(self, method: str, path: str, body: bytes | None = None) -> tuple[int, bytes, http.client.HTTPMessage]:
        """Return status, body and headers of one request."""
        connection = self.connection()
        try:
            connection.request(method, path, body, {"Content-Type": "application/json"})
            reply = connection.getresponse()
            return reply.status, reply.read(), reply.headers
        finally:
            connection.close()

    def begin(self, path: str, body: bytes) -> http.client.HTTPConnection:
        """Send a request without the last byte of its body: the server has accepted it and waits."""
        connection = self.connection()
        connection.putrequest("POST", path)
        connection.putheader("Content-Type", "application/json")
        connection.putheader("Content-Length", str(len(body)))
        connection.endheaders(body[:-1])
        return connection

    def wait_for(self, in_flight: int) -> None:
        """Wait until this many requests are in the server."""
        end = time.monotonic() + LIMIT_S
        while (found := self._in_flight()) != in_flight:
            check(time.monotonic() < end, f"{found} requests are in the server, not {in_flight}")
            time.sleep(0.1)

    def _in_flight(self) -> int:
        text = self.ask("GET", "/metrics")[1].decode()
        return int(float(re.findall(r"^coat_requests_in_flight (\S+)", text, re.M)[0]))


def check(holds: bool, message: str) -> None:
    """End with a message if a condition is false."""
    if not holds:
        sys.exit(f"FAILED: {message}")


def chat(audio: bytes, **fields: Any) -> bytes:
    """Return the body of a chat completion about one clip."""
    parts = [
        {"type": "input_audio", "input_audio": {"data": base64.b64encode(audio).decode(), "format": "wav"}},
        {"type": "text", "text": "What do you hear?"},
    ]
    return json.dumps({"messages": [{"role": "user", "content": parts}], **fields}).encode()


def wav(seconds: int) -> bytes:
    """Return a silent WAV file: 8 bits, mono, 8 kHz."""
    size = 8000 * seconds
    numbers = [(36 + size, 4), b"WAVEfmt ", (16, 4), (1, 2), (1, 2), (8000, 4), (8000, 4), (1, 2), (8, 2), b"data", (size, 4)]
    head = b"".join(part if isinstance(part, bytes) else part[0].to_bytes(part[1], "little") for part in numbers)
    return b"RIFF" + head + b"\x80" * size


def answers(server: Server, audio: bytes, requests: int) -> None:
    """Check both protocols, and the refusals 413, 422 and 503."""
    status, body, _ = server.ask("POST", COMPLETIONS, chat(audio))
    check(status == 200, f"{COMPLETIONS}: status {status}: {body[:300]!r}")
    content = json.loads(body)["choices"][0]["message"]["content"]
    check(isinstance(content, str), f"{COMPLETIONS}: {body[:300]!r}")
    print(f"200  {COMPLETIONS}: {content!r}, {json.loads(body)['usage']['completion_tokens']} tokens")

    row = {"audio": base64.b64encode(audio).decode(), "question": "What do you hear?"}
    status, body, _ = server.ask("POST", INVOCATIONS, json.dumps({"dataframe_records": [row]}).encode())
    check(status == 200, f"{INVOCATIONS}: status {status}: {body[:300]!r}")
    predictions = json.loads(body)["predictions"]
    check(predictions == [{"answer": content}], f"the protocols differ: {predictions} and {content!r}")
    print(f"200  {INVOCATIONS}: the same answer")

    status, body, _ = server.ask("POST", COMPLETIONS, chat(audio, stream=True))
    events = [json.loads(line[6:]) for line in body.decode().splitlines() if line.startswith("data: {")]
    pieces = [choice["delta"].get("content", "") for event in events for choice in event["choices"]]
    check(status == 200 and "".join(pieces) == content, f"the stream differs: status {status}, {pieces}")
    print(f"200  {COMPLETIONS}, streamed: the same answer in {len(events)} events")

    expected = {
        "a body of 33 MB": (413, b"x" * 33_000_000),
        "a body that is no JSON": (422, b"{"),
        "an audio of 61 s": (422, chat(wav(61))),
        "audio that is none": (422, chat(b"no audio")),
        "temperature 0.5": (422, chat(audio, temperature=0.5)),
    }
    for what, (wanted, sent) in expected.items():
        status, body, _ = server.ask("POST", COMPLETIONS, sent)
        check(status == wanted, f"{what}: status {status}, not {wanted}: {body[:300]!r}")
        print(f"{status}  {what}: {json.loads(body)['error']['message'][:100]}")

    waiting = [server.begin(COMPLETIONS, chat(audio)) for _ in range(requests)]
    server.wait_for(requests)
    status, body, headers = server.ask("POST", COMPLETIONS, chat(audio))
    check((status, headers["Retry-After"]) == (503, "1"), f"one request too many: status {status}: {body[:300]!r}")
    print(f"503  request {requests + 1}, Retry-After 1")
    for connection in waiting:
        connection.close()
    server.wait_for(0)
    check(server.ask("POST", COMPLETIONS, chat(audio))[0] == 200, "no answer after the load is gone")
    print("200  after that")


def drain(server: Server, audio: bytes) -> None:
    """Check that accepted requests are answered after SIGTERM, and that no other is accepted."""
    body = chat(audio)
    waiting = [server.begin(COMPLETIONS, body) for _ in range(2)]
    server.wait_for(len(waiting))
    print("2 requests are accepted; now SIGTERM", flush=True)
    end = time.monotonic() + LIMIT_S
    while accepts(server):
        check(time.monotonic() < end, "no SIGTERM, or the server still accepts connections")
        time.sleep(0.1)
    print("new connections are refused", flush=True)
    for connection in waiting:
        connection.send(body[-1:])
    found = [connection.getresponse() for connection in waiting]
    texts = [json.loads(reply.read())["choices"][0]["message"]["content"] for reply in found if reply.status == 200]
    check(len(texts) == len(waiting), f"status {[reply.status for reply in found]} of the accepted requests")
    print(f"both answered: {texts}")


def accepts(server: Server) -> bool:
    """Return whether the server accepts a new connection."""
    connection = server.connection()
    try:
        connection.connect()
    except OSError:
        return False
    connection.close()
    return True


def main() -> None:
    """Run the checks named on the command line."""
    what, url, clip, *rest = sys.argv[1:]
    server, audio = Server(url), Path(clip).read_bytes()
    if what == "answers":
        answers(server, audio, int(rest[0]) if rest else 64)
    elif what == "drain":
        drain(server, audio)
    else:
        sys.exit(__doc__)


if __name__ == "__main__":
    main()
