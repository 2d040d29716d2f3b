"""The served model, as MLflow runs it (models from code): a table of `audio` and `question` in, a table of `answer` out.

MLflow copies this file beside the release and executes it; nothing of ours imports it, which is why it may import MLflow at
its top. The release is merged once, at load.
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
"""What the base64 form of `RIFF` begins with; no sensible path does."""


class AudioAnswerer(PythonModel):  # type: ignore[misc]
    """Answers questions about audio."""

    def load_context(self, context: PythonModelContext) -> None:
        """Load the release and merge its adapter, on `COAT_DEVICE` (cpu) in `COAT_DTYPE` (what the release was trained on).

        Raises:
            RegistryError: `COAT_DTYPE` is no number format.
        """
        import os

        from coat_core.thinking.release import load_release

        artifacts, dtype = context.artifacts, os.environ.get("COAT_DTYPE")
        if dtype is not None and dtype not in _DTYPES:
            raise RegistryError("no such number format", field="COAT_DTYPE", value=dtype, allowed=_DTYPES)
        self._release = load_release(
            Path(artifacts["release"]), merge=True, device=os.environ.get("COAT_DEVICE", "cpu"), dtype=dtype, base=artifacts.get("base")
        )

    def predict(self, context: PythonModelContext, model_input: pd.DataFrame, params: dict[str, Any] | None = None) -> pd.DataFrame:
        """Answer every row; a row that cannot be read is named and refuses the table.

        Args:
            context: unused, the release is loaded already.
            model_input: pandas table with the columns `audio` (a path, or a WAV file in base64) and `question`.
            params: unused.

        Returns:
            A pandas table with the column `answer`, row by row.

        Raises:
            RegistryError: a row lacks a question or its audio cannot be decoded.
        """
        from coat_core.evaluation.generate import generate_texts, length_batches

        queries = read_table(model_input)
        answers = [""] * len(queries)
        for batch in length_batches([len(query.waveform) for query in queries], _BATCH):
            texts = generate_texts(self._release.backbone, [queries[i] for i in batch], _MAX_NEW_TOKENS)
            for i, text in zip(batch, texts, strict=True):
                answers[i] = text
        return pd.DataFrame({"answer": answers}, index=model_input.index, dtype=object)


def read_table(table: pd.DataFrame) -> list[Any]:
    """Return a query per row.

    Raises:
        RegistryError: a row lacks a question or its audio cannot be decoded; it is named.
    """
    rows = zip(table["audio"].tolist(), table["question"].tolist(), strict=True)
    return [_query(number, audio, question) for number, (audio, question) in enumerate(rows)]


def _query(number: int, audio: Any, question: Any) -> Any:
    from coat_core.backbones.base import Query
    from coat_core.storage import sha256_bytes

    where = f"row {number}"
    if not isinstance(question, str) or not question.strip():
        raise RegistryError(f"{where} asks nothing", field="question", value=question, allowed="a text that is not empty")
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
        raise RegistryError(f"{where}: the audio is no base64: {error}", field="audio", value=f"{text[:24]}…") from error
    except CoatError as error:
        raise RegistryError(f"{where}: {error}", field="audio", value=audio[:80]) from error


set_model(AudioAnswerer())
