"""The served model (MLflow: models from code). Its input is a table of `audio` and `question`, its output a table of `answer`.

MLflow copies this file next to the release and executes it. No other module imports it, so it imports MLflow at module level. The release
is merged once, at load.
"""

from __future__ import annotations

import base64
import binascii
import tempfile
from pathlib import Path
from typing import Any

import pandas as pd
from mlflow.models import set_model
from mlflow.pyfunc import PythonModel, PythonModelContext

from coat_core.errors import CoatError, RegistryError

_BATCH = 8
_MAX_NEW_TOKENS = 64
_DTYPES = ("float32", "bfloat16", "float16")
_WAV = "UklGR"
"""First characters of `RIFF` in base64; paths do not begin like this."""


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
            model_input: pandas table with the columns `audio` (a path, or a WAV file in base64) and `question`.
            params: unused.

        Returns:
            A pandas table with the column `answer`, in the order of the rows.

        Raises:
            RegistryError: a row has no question, or its audio cannot be decoded.
        """
        from coat_core.batching import length_sorted_batches
        from coat_core.evaluation.generate import generate_texts

        queries = read_table(model_input)
        answers = [""] * len(queries)
        for batch in length_sorted_batches([len(query.waveform) for query in queries], _BATCH):
            texts = generate_texts(self._release.backbone, [queries[i] for i in batch], _MAX_NEW_TOKENS)
            for i, text in zip(batch, texts, strict=True):
                answers[i] = text
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
    from coat_core.storage import sha256_bytes

    where = f"row {number}"
    if not isinstance(question, str) or not question.strip():
        raise RegistryError(f"{where} has no question", field="question", value=question, allowed="a text that is not empty")
    if not isinstance(audio, str) or not audio.strip():
        raise RegistryError(
            f"{where} has no audio", field="audio", value=audio, allowed="the path of an audio file, or a WAV file in base64"
        )
    waveform = _decode(where, audio.strip())
    return Query(key=sha256_bytes(waveform.tobytes()), waveform=waveform, text=question, name=where)


def _decode(where: str, audio: str) -> Any:
    from coat_core.corpus.audio import decode

    text = audio.partition("base64,")[2] if audio.startswith("data:audio/") else audio
    try:
        if not text.startswith(_WAV):
            return decode(Path(audio))
        with tempfile.NamedTemporaryFile(suffix=".wav") as file:
            file.write(base64.b64decode("".join(text.split()), validate=True))
            file.flush()
            return decode(Path(file.name))
    except binascii.Error as error:
        raise RegistryError(f"{where}: the audio is not base64: {error}", field="audio", value=f"{text[:24]}…") from error
    except CoatError as error:
        raise RegistryError(f"{where}: {error}", field="audio", value=audio[:80]) from error


set_model(AudioAnswerer())
