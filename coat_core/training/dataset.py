"""Training examples as padded batches; each example is tokenized once and each clip decoded only when it must be."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from coat_core.backbones.base import SAMPLE_RATE_HZ, Backbone, Batch, Query
from coat_core.corpus.audio import decode
from coat_core.corpus.examples import Example
from coat_core.device import memory_watch
from coat_core.training.out_of_memory import tower_error
from coat_core.training.tower_cache import TowerCache

_WAVEFORMS = 32
_NO_WAVEFORM = np.zeros(0, dtype=np.float32)


class _Row(NamedTuple):
    """Ids `[L]` of one example, where its answer stands `[L]`, and how many answer tokens it has."""

    ids: Tensor
    answer: Tensor
    answer_tokens: int


class Questions:
    """The training split, read row by row.

    Args:
        backbone: with the template that the arm uses (the thinking block is installed before).
        examples: the training split, in manifest order.
        corpus: folder that the examples' audio paths are relative to.
        tower: cache of audio embeddings.
    """

    def __init__(self, backbone: Backbone, examples: Sequence[Example], corpus: Path, tower: TowerCache) -> None:
        self.examples = tuple(examples)
        self._backbone, self._corpus, self._tower = backbone, corpus, tower
        tokenizer = backbone.tokenizer
        padding = tokenizer.pad_token_id
        self._padding: int = tokenizer.convert_tokens_to_ids(backbone.end_of_turn) if padding is None else padding
        self._rows: dict[int, _Row] = {}
        self._waveforms: OrderedDict[str, NDArray[np.float32]] = OrderedDict()

    def batch(self, indices: Sequence[int], device: torch.device) -> Batch:
        """Return the padded batch of those examples, equal to what the backbone's `encode` makes of them.

        The queries' waveforms are left out (length 0): the audio comes from `audio`.
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
            OutOfMemoryError: the device is too small for the tower on one of them, which is named.
        """
        return [self._heard(self.examples[index], device) for index in indices]

    def _heard(self, example: Example, device: torch.device) -> Tensor:
        with memory_watch(device, lambda budget: tower_error(example, budget)):
            return self._tower.get(example.sha256, lambda: self._waveform(example)).to(device)

    def answer_tokens(self, indices: Sequence[int]) -> int:
        """Return how many tokens the answers of those examples have, end of turn included."""
        return sum(self._row(index).answer_tokens for index in indices)

    def _row(self, index: int) -> _Row:
        if (row := self._rows.get(index)) is None:
            batch = self._backbone.encode([self._query(index, self._waveform(self.examples[index]))])
            answer = batch.answer_mask[0].cpu()
            row = self._rows[index] = _Row(batch.input_ids[0].cpu(), answer, int(answer.sum()))
        return row

    def _query(self, index: int, waveform: NDArray[np.float32]) -> Query:
        example = self.examples[index]
        return Query(key=example.sha256, waveform=waveform, text=example.prompt, answer=example.answer, name=example.id)

    def _waveform(self, example: Example) -> NDArray[np.float32]:
        """Decode a clip; a few are kept, for tokenizing and the tower ask one after the other."""
        if (kept := self._waveforms.get(example.sha256)) is None:
            kept = self._waveforms[example.sha256] = decode(self._corpus / example.audio, sample_rate_hz=SAMPLE_RATE_HZ)
            if len(self._waveforms) > _WAVEFORMS:
                self._waveforms.popitem(last=False)
        return kept
