"""The synthesiser process: reads requests from stdin and writes samples to stdout.

This file is run as a script and never imported by the package: espeak-ng is GPL-3.0 and therefore runs in a separate process. The
library keeps state between utterances (flutter phase, random breath). Each utterance is therefore spoken by a fork of the
initialised process, so that it depends only on its request.

Request: one JSON object per line (`text`, `voice`, `rate` words/min, `pitch` 0-99, `range` 0-99). Reply: a header of two
little-endian int32 (status, byte count), then that many bytes: 16-bit samples, or the error message if the status is not 0.
"""

from __future__ import annotations

import ctypes
import json
import os
import signal
import struct
import sys
from pathlib import Path
from typing import Any

_SYNCHRONOUS, _CHARACTERS_UTF8 = 2, 1
_RATE, _PITCH, _RANGE = 1, 3, 4
_CALLBACK = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.POINTER(ctypes.c_short), ctypes.c_int, ctypes.c_void_p)


def _load() -> tuple[ctypes.CDLL, Path, int]:
    """Load and initialise the library. Return it, its data folder and its sample rate in Hz."""
    import espeakng_loader

    library = ctypes.CDLL(espeakng_loader.get_library_path())
    data = Path(espeakng_loader.get_data_path())
    rate = library.espeak_Initialize(_SYNCHRONOUS, 0, os.fsencode(data), 0)
    if rate <= 0:
        raise RuntimeError(f"espeak_Initialize returned {rate}")
    return library, data, rate


def _speak(library: ctypes.CDLL, data: Path, request: dict[str, Any]) -> bytes:
    """Return the 16-bit samples of one utterance."""
    chunks: list[bytes] = []

    def collect(samples: Any, count: int, events: Any) -> int:
        if samples and count > 0:
            chunks.append(ctypes.string_at(samples, 2 * count))
        return 0

    callback = _CALLBACK(collect)
    library.espeak_ng_SetRandSeed(ctypes.c_long(1))
    library.espeak_SetSynthCallback(callback)
    # espeak-ng ignores an unknown variant and uses the default voice.
    variant = request["voice"].partition("+")[2]
    if not (data / "voices" / "!v" / variant).exists() or library.espeak_SetVoiceByName(request["voice"].encode()) != 0:
        raise ValueError(f"unknown voice {request['voice']!r}")
    for parameter, name in ((_RATE, "rate"), (_PITCH, "pitch"), (_RANGE, "range")):
        library.espeak_SetParameter(parameter, int(request[name]), 0)
    text = request["text"].encode()
    library.espeak_Synth(text, ctypes.c_size_t(len(text) + 1), 0, 1, 0, _CHARACTERS_UTF8, None, None)
    library.espeak_Synchronize()
    return b"".join(chunks)


def _reply(library: ctypes.CDLL, data: Path, line: bytes) -> bytes:
    """Return the reply to one request, including its header."""
    try:
        status, body = 0, _speak(library, data, json.loads(line))
    except Exception as error:  # the reply reports the error to the parent
        status, body = 1, f"{type(error).__name__}: {error}".encode()
    return struct.pack("<ii", status, len(body)) + body


def main() -> int:
    """Serve requests until stdin closes. The first reply contains the sample rate, or the error if the library does not load."""
    # Ctrl-C is sent to the whole process group. This process ends when its parent closes stdin.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    out = sys.stdout.buffer
    try:
        library, data, rate = _load()
    except Exception as error:
        body = f"{type(error).__name__}: {error}".encode()
        out.write(struct.pack("<ii", -1, len(body)) + body)
        out.flush()
        return 1
    out.write(struct.pack("<ii", 0, rate))
    out.flush()
    for line in sys.stdin.buffer:
        child = os.fork()
        if child == 0:
            out.write(_reply(library, data, line))
            out.flush()
            os._exit(0)
        if os.waitpid(child, 0)[1] != 0:
            body = b"the synthesiser crashed"
            out.write(struct.pack("<ii", 1, len(body)) + body)
            out.flush()
    return 0


if __name__ == "__main__":
    sys.exit(main())
