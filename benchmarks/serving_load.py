"""Load a running `coat serve` and print requests per second, latency and memory for several numbers of clients.

    coat serve models:/coat-qwen2-audio@champion --port 5000 &
    python -m benchmarks.serving_load --server http://127.0.0.1:5000 --audio data/corpus/audio [--requests 200] [--json FILE]
        [--clients 1,4,16] [--model models:/coat-qwen2-audio@champion]

The clips are asked one after the other first, by one client; every later answer must be equal to that of the same clip. With 1, 4 and 16
clients, each client sends its next question when it has the answer to the last one. With `--model`, questions are also asked by the command
`coat ask`, alternately with and without `--server`: the seconds of the whole command, start of Python included.
"""

from __future__ import annotations

import argparse
import base64
import json
import statistics
import subprocess
import sys
import time
import urllib.request
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from benchmarks.machine import describe_machine
from coat_core.storage import write_json

ASKS = 5
"""Pairs of commands."""
QUESTION = "What do you hear?"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--server", default="http://127.0.0.1:5000")
    parser.add_argument("--audio", type=Path, required=True, help="folder of clips")
    parser.add_argument("--clips", type=int, default=20)
    parser.add_argument("--requests", type=int, default=200, help="requests for each number of clients")
    parser.add_argument("--clients", type=lambda text: [int(part) for part in text.split(",")], default=[1, 4, 16])
    parser.add_argument("--model", help="of the server; run this in its workspace")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    clips = sorted(path for path in options.audio.iterdir() if path.is_file())[: options.clips]
    if not clips:
        parser.error(f"no clips in {options.audio}")
    bodies = [_body(clip) for clip in clips]
    expected = [_ask(options.server, body)[0] for body in bodies]
    rows = [_load(options.server, bodies, expected, clients, options.requests) for clients in options.clients]
    for row in rows:
        sys.stdout.write(
            f"{row['clients']:>2} clients  {row['requests_per_s']:6.2f} requests/s  p50 {row['p50_s']:.3f} s  p99 {row['p99_s']:.3f} s  "
            f"wrong {row['wrong']}  failed {row['failed']}  server {row['server_mb']:.0f} MB\n"
        )
    commands = _commands(options.model, options.server, clips) if options.model else {}
    for name, seconds in commands.items():
        sys.stdout.write(f"coat ask, {name}: first {seconds[0]:.2f} s, then {', '.join(f'{value:.2f}' for value in seconds[1:])} s\n")
    if options.json:
        content = {"machine": describe_machine(), "clips": len(clips), "question": QUESTION, "rows": rows, "commands_s": commands}
        write_json(options.json, content)


def _commands(model: str, server: str, clips: Sequence[Path]) -> dict[str, list[float]]:
    """Return the seconds of `coat ask`, with the running server and with a model of its own, in alternation."""
    seconds: dict[str, list[float]] = {"with the server": [], "alone": []}
    for number in range(ASKS):
        for name, options in (("with the server", ["--server", server]), ("alone", [])):
            command = [Path(sys.executable).parent / "coat", "ask", model, clips[number % len(clips)], QUESTION, *options]
            begin = time.perf_counter()
            subprocess.run(command, check=True, capture_output=True)
            seconds[name].append(time.perf_counter() - begin)
    return seconds


def _load(server: str, bodies: Sequence[bytes], expected: Sequence[str], clients: int, requests: int) -> dict[str, Any]:
    def one(number: int) -> tuple[float, bool | None]:
        at = number % len(bodies)
        begin = time.perf_counter()
        try:
            text, _ = _ask(server, bodies[at])
        except OSError:
            return time.perf_counter() - begin, None
        return time.perf_counter() - begin, text == expected[at]

    begin = time.perf_counter()
    with ThreadPoolExecutor(clients) as pool:
        results = list(pool.map(one, range(requests)))
    seconds = time.perf_counter() - begin
    times = sorted(duration for duration, _ in results)
    return {
        "clients": clients, "requests": requests, "requests_per_s": requests / seconds, "p50_s": statistics.median(times),
        "p99_s": times[min(len(times) - 1, round(0.99 * len(times)))], "wrong": sum(right is False for _, right in results),
        "failed": sum(right is None for _, right in results), "server_mb": _memory_mb(server),
    }  # fmt: skip


def _body(clip: Path) -> bytes:
    audio = {"type": "input_audio", "input_audio": {"data": base64.b64encode(clip.read_bytes()).decode(), "format": clip.suffix[1:]}}
    return json.dumps({"messages": [{"role": "user", "content": [audio, {"type": "text", "text": QUESTION}]}]}).encode()


def _ask(server: str, body: bytes) -> tuple[str, int]:
    request = urllib.request.Request(f"{server}/v1/chat/completions", body, {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=600) as reply:
        found = json.loads(reply.read())
    return str(found["choices"][0]["message"]["content"]), int(found["usage"]["completion_tokens"])


def _memory_mb(server: str) -> float:
    """Return the resident memory of the local process that has the server's port open, in MB (10⁶ bytes)."""
    import psutil

    port = int(server.rsplit(":", 1)[1].strip("/"))
    for connection in psutil.net_connections("tcp"):
        if not connection.raddr and connection.laddr.port == port and connection.pid:
            return psutil.Process(connection.pid).memory_info().rss / 1e6
    return float("nan")


if __name__ == "__main__":
    main()
