"""Import mutated manifests and count the outcomes: every manifest is imported completely, or refused with a message.

    python -m benchmarks.fuzz_manifests [--cases 10000] [--seed 0] [--json docs/results/fuzz-manifests.json]

A case is a small valid manifest of one layout with one to three mutations of its bytes, lines, fields, encoding or values. It is a failure
if the import raises anything but a `CoatError`, if the message does not name the file, or if an imported corpus differs from what an
independent reader (`csv` and `json` of the standard library) finds in the file: another number of rows, or another answer.
"""

from __future__ import annotations

import argparse
import contextlib
import csv
import io
import json
import os
import random
import sys
import tempfile
import traceback
import unicodedata
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import soundfile

from coat_core.corpus.examples import read_manifest
from coat_core.corpus.imported.corpus import import_corpus
from coat_core.errors import CoatError
from coat_core.settings import CorpusSettings
from coat_core.storage import read_json, write_json

ROOT = Path(__file__).resolve().parent.parent
LAYOUTS = ("csv", "jsonl", "nemo", "segments", "chat", "array")
_CLIPS = ("a.wav", "b.wav", "c.flac", "d.wav")
_VALUES: tuple[Any, ...] = (
    None, True, -1, 0, 7, 1e308, float("nan"), float("inf"), 10**400,
    "", " ", "\u200b", "\ud83d", "\0", "x" * 140_000, "1e9", "a|b", "../a.wav",
    "b.wav", [], [[]], ["a.wav", "b.wav"], {}, {"a": 1}, [1, 2], "test", "\u202eabc", "/", ".", "n" * 300,
)  # fmt: skip
_KEYS = (
    "split", "group", "family", "id", "choices", "offset", "duration", "end", "channel", "speed", "messages", "audios", "source", "Text",
    "question", "answer", "text", "file_name", "audio_filepath", "", "\ud800", "unknown",
)  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path, default=ROOT / "docs/results/fuzz-manifests.json")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="coat-fuzz-") as folder:
        result, failures = run(Path(folder), options.cases, options.seed)
    write_json(options.json, result)
    print(json.dumps(result, indent=1))
    for failure in failures[:20]:
        print(failure, file=sys.stderr)
    sys.exit(1 if failures else 0)


def run(folder: Path, cases: int, seed: int) -> tuple[dict[str, Any], list[str]]:
    """Run cases in a folder; return the table of the outcomes by layout, and the failures."""
    counts: dict[str, Counter[str]] = {layout: Counter() for layout in LAYOUTS}
    data = folder / "data"
    data.mkdir()
    for number, name in enumerate(_CLIPS):
        soundfile.write(data / name, 0.2 * np.sin((0.1 + 0.05 * number) * np.arange(1600)), 8000)
    failures = []
    for case in range(cases):
        layout = LAYOUTS[case % len(LAYOUTS)]
        outcome, detail = _case(folder, data, layout, random.Random(f"{seed}/{case}"))
        counts[layout][outcome] += 1
        if outcome not in ("imported", "refused"):
            failures.append(f"case {case} ({layout}): {outcome}: {detail}")
    total = Counter[str]()
    for counter in counts.values():
        total.update(counter)
    table = {layout: dict(sorted(counter.items())) for layout, counter in counts.items()}
    return {"cases": cases, "seed": seed, "layouts": table, "total": dict(sorted(total.items())), "failures": len(failures)}, failures


def _case(folder: Path, data: Path, layout: str, rng: random.Random) -> tuple[str, str]:
    content = _mutated(layout, rng)
    name = {"csv": "metadata.csv", "jsonl": "metadata.jsonl", "array": "rows.json"}.get(layout, "rows.jsonl")
    for old in ("metadata.csv", "metadata.jsonl"):
        (data / old).unlink(missing_ok=True)
    (data / name).write_bytes(content)
    kind = "audiofolder" if name.startswith("metadata") else "manifest"
    shares = {"train": 6, "validation": 2, "test": 2}
    settings = CorpusSettings.model_validate({"kind": kind, "path": "x", "clips_per_family": shares})
    try:
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
            import_corpus(settings, data if kind == "audiofolder" else data / name, folder / "corpus")
    except CoatError as error:
        message = str(error)
        message.encode()
        return ("refused", "") if name in message else ("unclear message", message[:300])
    except Exception:  # every other exception is what this looks for
        return "traceback", traceback.format_exc()[-1500:]
    found = [example.answer for example in read_manifest(folder / "corpus/manifest.jsonl")]
    expected = _answers(content, name)
    aside = len(read_json(folder / "corpus/import.json").get("unlabelled_set_aside", ()))
    if len(found) + aside != len(expected):
        return "rows lost", f"{len(found)} of {len(expected)}: {content!r}"
    same = [unicodedata.normalize("NFC", text) for text in found if text is not None] == [text for text in expected if text is not None]
    return ("imported", "") if same else ("answer changed", f"{found} for {expected}: {content!r}")


def _rows(layout: str, rng: random.Random) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = []
    for number in range(rng.randint(2, 6)):
        clip, word = _CLIPS[number % len(_CLIPS)], f"word {number}"
        if layout in ("chat", "array"):
            turns = [{"role": "user", "content": f"<audio>What is {number}?"}, {"role": "assistant", "content": word}]
            rows.append({"messages": turns, "audios": [clip]})
        elif layout in ("csv", "jsonl"):
            row = {
                "file_name": clip,
                "question": f"Which one is {number}?",
                "answer": word,
                "choices": [word, "Hello, Kim"],
                "split": "test",
            }
            rows.append(row if number % 2 else {"file_name": clip, "transcription": word})
        elif layout == "segments":
            rows.append({"audio_filepath": clip, "text": word, "offset": 0.01 * number, "duration": 0.1, "channel": 0})
        else:
            rows.append({"audio_filepath": clip, "text": word, "duration": 0.2, "group": f"speaker+{number}", "lang": "en"})
    return rows


def _mutated(layout: str, rng: random.Random) -> bytes:
    rows = _rows(layout, rng)
    count = rng.randint(1, 3)
    for _ in range(count):
        if rng.random() < 0.4:
            rng.choice((_set_value, _set_value, _add_key, _drop_key, _swap_values, _copy_row, _nest))(rows, rng)
    content = _encoded(layout, rows)
    for _ in range(count):
        if rng.random() < 0.5:
            content = rng.choice(_BYTES)(content, rng)
    return content


def _encoded(layout: str, rows: list[dict[str, Any]]) -> bytes:
    if layout == "csv":
        stream = io.StringIO()
        columns = list(dict.fromkeys(key for row in rows for key in row))
        writer = csv.writer(stream, lineterminator="\n")
        writer.writerow(columns)
        writer.writerows([_cell(row.get(column)) for column in columns] for row in rows)
        return stream.getvalue().encode("utf-8", "surrogatepass")
    if layout == "array":
        return json.dumps(rows, indent=1).encode()
    return "".join(json.dumps(row) + "\n" for row in rows).encode()


def _cell(value: Any) -> str:
    if isinstance(value, list) and all(isinstance(item, str) for item in value):
        return "|".join(value)
    try:
        return "" if value is None else str(value)
    except ValueError:
        return "9" * 400


def _set_value(rows: list[dict[str, Any]], rng: random.Random) -> None:
    row = rng.choice(rows)
    if row:
        row[rng.choice(list(row))] = rng.choice(_VALUES)


def _add_key(rows: list[dict[str, Any]], rng: random.Random) -> None:
    rng.choice(rows)[rng.choice(_KEYS)] = rng.choice(_VALUES)


def _drop_key(rows: list[dict[str, Any]], rng: random.Random) -> None:
    row = rng.choice(rows)
    if row:
        del row[rng.choice(list(row))]


def _swap_values(rows: list[dict[str, Any]], rng: random.Random) -> None:
    row = rng.choice(rows)
    if row:
        one, other = rng.choice(list(row)), rng.choice(list(row))
        row[one], row[other] = row[other], row[one]


def _copy_row(rows: list[dict[str, Any]], rng: random.Random) -> None:
    rows.append({**rng.choice(rows), "id": "same"})


def _nest(rows: list[dict[str, Any]], rng: random.Random) -> None:
    row = rng.choice(rows)
    for turn in row.get("messages", []) if isinstance(row.get("messages"), list) else []:
        if isinstance(turn, dict) and turn:
            turn[rng.choice(list(turn))] = rng.choice(_VALUES)


def _flip(data: bytes, rng: random.Random) -> bytes:
    changed = bytearray(data)
    for _ in range(rng.randint(1, 3)):
        if changed:
            changed[rng.randrange(len(changed))] = rng.randrange(256)
    return bytes(changed)


def _insert(data: bytes, rng: random.Random) -> bytes:
    position = rng.randrange(len(data) + 1)
    pieces = (
        b'"',
        b'""',
        b",",
        b";",
        b"\t",
        b"\n",
        b"\r",
        b"\r\n",
        b"\n\n",
        b"\0",
        b"\xef\xbb\xbf",
        b"\xe9",
        b"|",
        b"{",
        b"[",
        b"]",
        b"}",
        b"\\",
    )
    return data[:position] + rng.choice(pieces) + data[position:]


def _delete(data: bytes, rng: random.Random) -> bytes:
    position = rng.randrange(len(data) + 1)
    return data[:position] + data[position + rng.randint(1, 20) :]


def _cut_line(data: bytes, rng: random.Random) -> bytes:
    lines = data.splitlines(keepends=True)
    if lines:
        number = rng.randrange(len(lines))
        lines[number] = rng.choice((lines[number][: rng.randrange(len(lines[number]) + 1)], b"", lines[number] * 2, b"\n"))
    return b"".join(lines)


def _swap_lines(data: bytes, rng: random.Random) -> bytes:
    lines = data.splitlines(keepends=True)
    rng.shuffle(lines)
    return b"".join(lines)


def _recode(data: bytes, rng: random.Random) -> bytes:
    text = data.decode("utf-8", "replace").replace("word", "wörd")
    return text.encode(rng.choice(("utf-8-sig", "utf-16", "utf-16-le", "utf-32", "cp1252", "utf-8")), "replace")


def _line_ends(data: bytes, rng: random.Random) -> bytes:
    return data.replace(b"\n", rng.choice((b"\r", b"\r\n", b"\n\n", b"\x0b")))


def _delimiters(data: bytes, rng: random.Random) -> bytes:
    return data.replace(b",", rng.choice((b";", b"\t", b"|", b", ")))


def _nothing(data: bytes, _: random.Random) -> bytes:
    return data


_BYTES: tuple[Callable[[bytes, random.Random], bytes], ...] = (
    _flip, _insert, _insert, _delete, _cut_line, _swap_lines, _recode, _line_ends, _delimiters, _nothing,
)  # fmt: skip


def _answers(content: bytes, name: str) -> list[str | None]:
    """Return the answers of all rows as an independent reader finds them; None for unlabelled rows."""
    text = content.decode("utf-8-sig")
    if name.endswith(".csv"):
        csv.field_size_limit(sys.maxsize)
        for delimiter in ",;\t":
            reader = csv.DictReader(io.StringIO(text, newline=""), delimiter=delimiter, skipinitialspace=True)
            reader.fieldnames = [field.strip() for field in reader.fieldnames or ()]
            if "file_name" in reader.fieldnames:
                break
        table = [{str(key): str(value or "") for key, value in row.items()} for row in reader]
        rows: list[dict[str, Any]] = [row for row in table if any(value.strip() for value in row.values())]
    elif text.lstrip().startswith("["):
        rows = json.loads(text)
    else:
        rows = [json.loads(line) for line in text.replace("\r\n", "\n").replace("\r", "\n").split("\n") if line.strip()]
    answers = map(_answer, rows)
    return [None if answer is None else unicodedata.normalize("NFC", answer).strip() for answer in answers]


def _answer(row: dict[str, Any]) -> str | None:
    if row.get("messages"):
        return str(row["messages"][-1]["content"])
    if row.get("answer", "") is None and row.get("transcription") is None and row.get("text") is None:
        return None
    return str(row.get("answer") or row.get("transcription") or row.get("text"))


if __name__ == "__main__":
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    main()
