"""The training dataset: padded batches of the training split and cached audio embeddings."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from coat_core.audio_store.store import AudioStore
from coat_core.audio_store.tower import tower_error, tower_output
from coat_core.backbones.base import SAMPLE_RATE_HZ, Backbone, Batch, Query
from coat_core.corpus.audio import decode
from coat_core.corpus.examples import Example
from coat_core.device import explain_out_of_memory

_MB = 1 << 20
_CACHED_WAVEFORMS = 32
_NO_WAVEFORM = np.zeros(0, dtype=np.float32)


class AudioEmbeddingCache:
    """Audio embeddings `[A, D]` of the frozen audio tower, each clip computed alone (no gradient, evaluation mode).

    A value therefore depends neither on the other clips of a batch nor on whether it came from the cache. When `megabytes`
    are full, nothing is added and nothing is removed: every epoch reads every clip once, so a least-recently-used cache that
    is smaller than an epoch would have no hits. With a store, all values are read from it: nothing is computed or cached.
    """

    def __init__(self, backbone: Backbone, megabytes: int, store: AudioStore | None = None) -> None:
        self._backbone, self._limit, self.store = backbone, megabytes * _MB, store
        self._embeddings: dict[str, Tensor] = {}
        self._bytes = 0

    def __contains__(self, key: str) -> bool:
        return key in self._embeddings if self.store is None else key in self.store

    def get(self, key: str, waveform: Callable[[], NDArray[np.float32]]) -> Tensor:
        """Return a clip's embeddings `[A, D]`; `waveform` is called only if they are not cached.

        Raises:
            BackboneError: the output of the audio tower is not finite; the clip is named.
            AudioStoreError: the clip is not in the store.
        """
        if self.store is not None:
            return self.store.get(key)
        if (cached := self._embeddings.get(key)) is not None:
            return cached
        value = tower_output(self._backbone, waveform(), key)
        size = value.numel() * value.element_size()
        if self._bytes + size <= self._limit:
            self._embeddings[key] = value
            self._bytes += size
        return value


class _Row(NamedTuple):
    """Ids `[L]` of one example, the mask of its answer `[L]`, and its number of answer tokens."""

    ids: Tensor
    answer: Tensor
    answer_tokens: int


class TrainingDataset:
    """The training split; each example is tokenized once, and a clip is decoded only when needed.

    Args:
        backbone: backbone with the arm's template (the thinking block is already installed).
        examples: the training split, in manifest order; an unlabelled one is a prompt without an answer.
        corpus: folder that the examples' audio paths are relative to.
        embeddings: cache of audio embeddings.
        answers: example id → text to train instead of the example's own answer; None: no answer is replaced.
    """

    def __init__(
        self,
        backbone: Backbone,
        examples: Sequence[Example],
        corpus: Path,
        embeddings: AudioEmbeddingCache,
        answers: Mapping[str, str] | None = None,
    ) -> None:
        self.examples = tuple(examples)
        self._answers = dict(answers or {})
        self._backbone, self._corpus, self._embeddings = backbone, corpus, embeddings
        tokenizer = backbone.tokenizer
        padding = tokenizer.pad_token_id
        self._padding: int = tokenizer.convert_tokens_to_ids(backbone.end_of_turn) if padding is None else padding
        self._rows: dict[int, _Row] = {}
        self._waveforms: OrderedDict[str, NDArray[np.float32]] = OrderedDict()

    def batch(self, indices: Sequence[int], device: torch.device) -> Batch:
        """Return the padded batch of those examples, equal to the output of the backbone's `encode`.

        The waveforms of its queries are empty: `audio` returns the embeddings instead.
        """
        rows = [self._row(index) for index in indices]
        ids = pad_sequence([row.ids for row in rows], batch_first=True, padding_value=self._padding)
        lengths = torch.tensor([len(row.ids) for row in rows])
        attention = (torch.arange(ids.shape[1])[None] < lengths[:, None]).to(ids.dtype)
        answer = pad_sequence([row.answer for row in rows], batch_first=True)
        queries = tuple(self._query(index, _NO_WAVEFORM) for index in indices)
        return Batch(input_ids=ids.to(device), attention_mask=attention.to(device), answer_mask=answer.to(device), queries=queries)

    def audio(self, indices: Sequence[int], device: torch.device) -> list[Tensor]:
        """Return the audio embeddings `[A, D]` of those examples' clips.

        Raises:
            OutOfMemoryError: the device is too small for the audio tower on one of the clips, which is named.
        """
        return [self._embed(self.examples[index], device) for index in indices]

    def answer_tokens(self, indices: Sequence[int]) -> int:
        """Return the number of answer tokens of those examples, end of turn included."""
        return sum(self._row(index).answer_tokens for index in indices)

    def _embed(self, example: Example, device: torch.device) -> Tensor:
        with explain_out_of_memory(device, lambda budget: tower_error(example, budget)):
            return self._embeddings.get(example.sha256, lambda: self._waveform(example)).to(device)

    def _row(self, index: int) -> _Row:
        if (row := self._rows.get(index)) is None:
            query = self._query(index, self._waveform(self.examples[index]))
            batch = self._backbone.encode([query], generation=query.answer is None)
            answer = batch.answer_mask[0].cpu()
            row = self._rows[index] = _Row(batch.input_ids[0].cpu(), answer, int(answer.sum()))
        return row

    def _query(self, index: int, waveform: NDArray[np.float32]) -> Query:
        example = self.examples[index]
        answer = self._answers.get(example.id, example.answer)
        return Query(key=example.sha256, waveform=waveform, text=example.prompt, answer=answer, name=example.id)

    def _waveform(self, example: Example) -> NDArray[np.float32]:
        """Decode a clip; the last few are cached, because tokenizing and the audio tower read the same clip in succession.

        With a store, which holds the embeddings, only the length is needed (`AudioStore.waveform`).
        """
        if (store := self._embeddings.store) is not None:
            return store.waveform(example.sha256)
        if (waveform := self._waveforms.get(example.sha256)) is None:
            waveform = self._waveforms[example.sha256] = decode(self._corpus / example.audio, sample_rate_hz=SAMPLE_RATE_HZ)
            if len(self._waveforms) > _CACHED_WAVEFORMS:
                self._waveforms.popitem(last=False)
        return waveform
