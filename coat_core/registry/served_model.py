"""The served model (MLflow: models from code). Its input is a table of `audio` and `question`, its output a table of `answer`.

MLflow copies this file next to the release and executes it. No other module imports it, so it imports MLflow at module level. The release
is merged once, at load.
"""

from __future__ import annotations

import base64
import re
import tempfile
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import pandas as pd
from mlflow.models import set_model
from mlflow.pyfunc import PythonModel, PythonModelContext

from coat_core.errors import CoatError, RegistryError

_BATCH = 8
_MAX_NEW_TOKENS = 64
_DTYPES = ("float32", "bfloat16", "float16")
_ALLOWED = "the path of an audio file that the server can read, or an audio file in base64, also as data:audio/…;base64,…"
_URL_SAFE = str.maketrans("-_", "+/")
_BASE64 = re.compile(r"[A-Za-z0-9+/]+={0,2}")
_SHOWN = 80


class AudioAnswerer(PythonModel):  # type: ignore[misc]
    """Answers questions about audio."""

    def load_context(self, context: PythonModelContext) -> None:
        """Load the release and merge its adapter, on `COAT_DEVICE` (default: cpu) in `COAT_DTYPE` (default: as in training).

        Raises:
            RegistryError: `COAT_DTYPE` is not a supported dtype.
        """
        import os

        from coat_core.thinking.release import load_release

        artifacts, dtype = context.artifacts, os.environ.get("COAT_DTYPE")
        if dtype is not None and dtype not in _DTYPES:
            raise RegistryError("unknown dtype", field="COAT_DTYPE", value=dtype, allowed=_DTYPES)
        self._release = load_release(
            Path(artifacts["release"]), merge=True, device=os.environ.get("COAT_DEVICE", "cpu"), dtype=dtype, base=artifacts.get("base")
        )

    def predict(self, context: PythonModelContext, model_input: pd.DataFrame, params: dict[str, Any] | None = None) -> pd.DataFrame:
        """Answer every row. If a row is invalid, no row is answered, and the error names it.

        Args:
            context: unused; the release is already loaded.
            model_input: pandas table with the columns `audio` (a path, or an audio file in base64) and `question`.
            params: unused.

        Returns:
            A pandas table with the column `answer`, in the order of the rows.

        Raises:
            RegistryError: a row has no question, or its audio cannot be decoded.
        """
        from coat_core.batching import length_sorted_batches
        from coat_core.description import DESCRIPTION_TOKENS, split_description
        from coat_core.evaluation.generate import generate_texts
        from coat_core.settings import ARMS

        described = ARMS[self._release.info.arm].described
        limit = _MAX_NEW_TOKENS + (DESCRIPTION_TOKENS if described else 0)
        queries = read_table(model_input)
        answers = [""] * len(queries)
        for batch in length_sorted_batches([len(query.waveform) for query in queries], _BATCH):
            texts = generate_texts(self._release.backbone, [queries[i] for i in batch], limit)
            for i, text in zip(batch, texts, strict=True):
                answers[i] = split_description(text)[1] if described else text
        return pd.DataFrame({"answer": answers}, index=model_input.index, dtype=object)


def read_table(table: pd.DataFrame) -> list[Any]:
    """Return one query for each row.

    Raises:
        RegistryError: a row has no question, or its audio cannot be decoded; the error names the row.
    """
    rows = zip(table["audio"].tolist(), table["question"].tolist(), strict=True)
    return [_query(number, audio, question) for number, (audio, question) in enumerate(rows)]


def _query(number: int, audio: Any, question: Any) -> Any:
    from coat_core.backbones.base import Query
    from coat_core.corpus.normal_form import is_blank
    from coat_core.storage import sha256_bytes

    where = f"row {number}"
    if not isinstance(question, str) or is_blank(question):
        raise RegistryError(f"{where} has no question", field="question", value=question, allowed="a text that is not empty")
    if not isinstance(audio, str) or not audio.strip():
        raise RegistryError(f"{where} has no audio", field="audio", value=audio, allowed=_ALLOWED)
    waveform = _decode(where, audio.strip())
    return Query(key=sha256_bytes(waveform.tobytes()), waveform=waveform, text=question, name=where)


def _decode(where: str, audio: str) -> Any:
    from coat_core.corpus.audio import decode, is_file
    from coat_core.corpus.containers.scan import recognise

    try:
        if audio[:5].lower() == "data:":
            return _decode_bytes(_data_uri(audio))
        if is_file(Path(audio)):
            return decode(Path(audio))
        # Some paths are valid base64: only the bytes of an audio file are audio.
        data = _from_base64(audio)
        if data is not None and recognise(data) is not None:
            return _decode_bytes(data)
    except CoatError as error:
        raise RegistryError(f"{where}: {error}", field="audio", value=_shown(audio)) from error
    reason = "the audio is not base64, and" if data is None else "the audio is base64, but not of an audio file, and"
    raise RegistryError(f"{where}: {reason} no file has this path", field="audio", value=_shown(audio), allowed=_ALLOWED)


def _decode_bytes(data: bytes) -> Any:
    from coat_core.corpus.audio import decode

    with tempfile.NamedTemporaryFile() as file:
        file.write(data)
        file.flush()
        try:
            return decode(Path(file.name))
        except CoatError as error:
            # The temporary name tells the caller nothing.
            reason = str(error).replace(file.name, "the audio in base64").replace(Path(file.name).name, "base64")
            raise RegistryError(reason) from error


def _data_uri(audio: str) -> bytes:
    """Return the bytes of a data URI (RFC 2397) of any media type. Parameters may stand before `;base64`."""
    head, comma, text = audio.partition(",")
    parts = [part.strip().lower() for part in head.split(";")]
    data = _from_base64(text) if comma and parts[-1] == "base64" else None
    if data is None:
        raise RegistryError("the data URI contains no base64", field="audio", value=_shown(audio), allowed="data:audio/…;base64,…")
    return data


def _from_base64(text: str) -> bytes | None:
    """Decode base64 of the standard or the URL-safe alphabet, with white space, with or without padding; None if it is invalid."""
    compact = unquote("".join(text.split())).translate(_URL_SAFE) if "%" in text else "".join(text.split()).translate(_URL_SAFE)
    if not _BASE64.fullmatch(compact):
        return None
    bare = compact.rstrip("=")
    try:
        return base64.b64decode(bare + "=" * (-len(bare) % 4), validate=True)
    except ValueError:
        return None


def _shown(audio: str) -> str:
    return audio if len(audio) <= _SHOWN else f"{audio[:_SHOWN]}…"


set_model(AudioAnswerer())
