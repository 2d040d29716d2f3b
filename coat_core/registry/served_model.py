"""The served model (MLflow: models from code). Its input is a table of `audio` and `question`, its output a table of `answer`.

MLflow copies this file next to the release and executes it. No other module imports it, so it imports MLflow at module level. The release
is merged once, at load.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd
from mlflow.models import set_model
from mlflow.pyfunc import PythonModel, PythonModelContext

from coat_core.errors import CoatError, RegistryError

_BATCH = 8
_MAX_NEW_TOKENS = 64
_DTYPES = ("float32", "bfloat16", "float16")
_ALLOWED = "the path of an audio file that the server can read, or an audio file in base64, also as data:audio/…;base64,…"


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
        self.release = load_release(
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

        described = ARMS[self.release.info.arm].described
        limit = _MAX_NEW_TOKENS + (DESCRIPTION_TOKENS if described else 0)
        queries = read_table(model_input)
        answers = [""] * len(queries)
        for batch in length_sorted_batches([len(query.waveform) for query in queries], _BATCH):
            texts = generate_texts(self.release.backbone, [queries[i] for i in batch], limit)
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
    from coat_core.corpus.audio_text import base64_bytes, data_uri_bytes, decode_bytes, is_data_uri, shown
    from coat_core.corpus.containers.scan import recognise

    try:
        if is_data_uri(audio):
            return decode_bytes(data_uri_bytes(audio))
        if is_file(Path(audio)):
            return decode(Path(audio))
        # Some paths are valid base64: only the bytes of an audio file are audio.
        data = base64_bytes(audio)
        if data is not None and recognise(data) is not None:
            return decode_bytes(data)
    except CoatError as error:
        raise RegistryError(f"{where}: {error}", field="audio", value=shown(audio)) from error
    reason = "the audio is not base64, and" if data is None else "the audio is base64, but not of an audio file, and"
    raise RegistryError(f"{where}: {reason} no file has this path", field="audio", value=shown(audio), allowed=_ALLOWED)


set_model(AudioAnswerer())
