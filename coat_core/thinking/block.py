"""The thinking block: its token ids and its position in a prompt."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

import torch
from torch import Tensor

from coat_core.backbones.base import Backbone, Batch
from coat_core.errors import BackboneError
from coat_core.settings import ThinkingSettings
from coat_core.thinking.template import rewrite_template

Placement = Literal["before_answer", "after_audio"]
Rows = Literal["shared", "distinct"]


@dataclass(frozen=True)
class ThinkingBlock:
    """`<start> <think> … <think> <end>` with K think tokens: a fixed part of every prompt.

    Attributes:
        tokens: K, the number of think tokens.
        placement: where the template writes the block.
        start_id: id of the start token.
        think_ids: ids of the think tokens: one (used K times) or K.
        end_id: id of the end token.
        start_token: text of the start token.
        think_tokens: texts of the think tokens, as many as `think_ids`.
        end_token: text of the end token.
        read_layer: index of the decoder layer whose output is read at the think positions (1 = first).
        row_noise: standard deviation of the noise on initial embeddings, relative to their norm over √D.
    """

    tokens: int
    placement: Placement
    start_id: int
    think_ids: tuple[int, ...]
    end_id: int
    start_token: str
    think_tokens: tuple[str, ...]
    end_token: str
    read_layer: int
    row_noise: float = 0.0

    @classmethod
    def install(cls, backbone: Backbone, settings: ThinkingSettings) -> ThinkingBlock:
        """Choose the block's ids and add the block to the backbone's tokenizer and chat template.

        The ids are those of spare embedding rows (beyond the tokenizer's length). If there are too few, they are those of the
        reserved tokens in the settings. With `rows: auto`, the think tokens have K ids if either has enough, otherwise one. The
        embedding matrix never grows. Everything is checked before anything is changed.

        Args:
            backbone: its tokenizer and chat template are changed in place.
            settings: the thinking section.

        Raises:
            BackboneError: there are too few ids for the block, the read layer cannot reach the answer, or the template cannot be rewritten.
        """
        read_layer = choose_read_layer(settings.read_layer, backbone.layer_count)
        tokenizer = backbone.tokenizer
        vocabulary = tokenizer.get_vocab()
        spare = backbone.embedding.num_embeddings - _next_id(vocabulary)
        texts = _new_texts(settings.tokens, choose_rows(settings, spare))
        present = [text for text in texts if text in vocabulary]
        if present:
            raise BackboneError(
                "the tokenizer already has a thinking block",
                field="tokenizer",
                value=present[0],
                next_step="load the untouched base and try again",
            )
        uses_spare_rows = spare >= len(texts)
        if not uses_spare_rows:
            texts = _reserved_texts(settings, tokenizer, len(texts), spare)
        first = _next_id(vocabulary)
        ids = list(range(first, first + len(texts))) if uses_spare_rows else [vocabulary[text] for text in texts]
        block = cls(
            tokens=settings.tokens,
            placement=settings.placement,
            start_id=ids[0],
            think_ids=tuple(ids[1:-1]),
            end_id=ids[-1],
            start_token=texts[0],
            think_tokens=tuple(texts[1:-1]),
            end_token=texts[-1],
            read_layer=read_layer,
            row_noise=settings.row_noise,
        )
        template = rewrite_template(backbone, block.text, settings.placement)
        if uses_spare_rows:
            _add_tokens(copy.deepcopy(tokenizer), texts, ids)
            _add_tokens(tokenizer, texts, ids)
        tokenizer.chat_template = template
        return block

    @property
    def rows(self) -> Rows:
        """Whether the think tokens have one embedding (`shared`) or K (`distinct`); a single token counts as `distinct`."""
        return "distinct" if len(self.think_ids) == self.tokens else "shared"

    @property
    def text(self) -> str:
        """The block as text."""
        thinks = self.think_tokens * self.tokens if len(self.think_tokens) == 1 else self.think_tokens
        return self.start_token + "".join(thinks) + self.end_token

    @property
    def ids(self) -> list[int]:
        """The block as K + 2 token ids."""
        thinks = self.think_ids * self.tokens if len(self.think_ids) == 1 else self.think_ids
        return [self.start_id, *thinks, self.end_id]

    @property
    def trainable_token_ids(self) -> tuple[int, ...]:
        """The distinct ids in ascending order, one embedding each (PEFT: `trainable_token_indices`)."""
        return tuple(sorted({self.start_id, *self.think_ids, self.end_id}))

    def positions(self, input_ids: Tensor, names: Sequence[str] = ()) -> Tensor:
        """Return the think positions `[B, K]` of a batch of prompts `[B, L]`.

        Args:
            input_ids: token ids, padded on either side.
            names: names of the examples for error messages, in batch order.

        Raises:
            BackboneError: a row does not contain the block exactly once, complete and contiguous; the row is named.
        """
        ids = torch.tensor(self.ids, device=input_ids.device)
        in_block = torch.isin(input_ids, ids)
        starts = []
        for row in range(input_ids.shape[0]):
            found = in_block[row].nonzero().flatten()
            if len(found) != len(ids) or not torch.equal(input_ids[row, found], ids) or int(found[-1] - found[0]) != len(ids) - 1:
                name = f" ({names[row]})" if row < len(names) else ""
                raise BackboneError(
                    f"row {row}{name} does not contain the thinking block exactly once, complete and in order",
                    field="input_ids",
                    value=f"{len(found)} block ids",
                    allowed=f"{len(ids)} contiguous ids",
                    next_step="make the prompt with the release's tokenizer and chat template",
                )
            starts.append(int(found[0]))
        first = torch.tensor(starts, device=input_ids.device)[:, None] + 1
        return first + torch.arange(self.tokens, device=input_ids.device)[None, :]

    def remove_from(self, batch: Batch) -> Batch:
        """Return the batch without the block, equal to one that was made with the template of the untouched base.

        Raises:
            BackboneError: a row does not contain the block exactly once, complete and contiguous; the row is named.
        """
        rows = batch.input_ids.shape[0]
        self.positions(batch.input_ids, [query.name for query in batch.queries])
        kept = ~torch.isin(batch.input_ids, torch.tensor(self.ids, device=batch.input_ids.device))
        return replace(
            batch,
            input_ids=batch.input_ids[kept].view(rows, -1),
            attention_mask=batch.attention_mask[kept].view(rows, -1),
            answer_mask=batch.answer_mask[kept].view(rows, -1),
        )

    def to_json(self) -> dict[str, Any]:
        """Return the block as JSON values."""
        return asdict(self)

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> ThinkingBlock:
        """Parse what `to_json` returned."""
        fields: dict[str, Any] = {key: tuple(item) if isinstance(item, list) else item for key, item in value.items()}
        return cls(**fields)


def choose_read_layer(requested: int | None, layers: int) -> int:
    """Return the layer to read: the requested one, or round(2/3 · layers); always below the last.

    Later tokens attend to keys and values computed from the *previous* layer's states, so the last layer's output at a
    think position never reaches the answer.

    Raises:
        BackboneError: the requested layer is not below the last, or the model has one layer only.
    """
    layer = requested if requested is not None else min(max(1, round(2 / 3 * layers)), layers - 1)
    if not 1 <= layer < layers:
        raise BackboneError(
            "states read at this layer cannot reach the answer",
            field="thinking.read_layer",
            value=layer,
            allowed=f"1 … {layers - 1}",
            next_step="choose a layer below the last, or null",
        )
    return layer


def choose_rows(settings: ThinkingSettings, spare: int) -> Rows:
    """Return `thinking.rows`; for `auto`, `distinct` if the spare rows or the reserved tokens are enough for it, otherwise `shared`.

    Args:
        settings: the thinking section.
        spare: number of embedding rows beyond the tokenizer's length.
    """
    if settings.rows != "auto":
        return settings.rows
    return "distinct" if max(spare, len(set(settings.reserved_tokens))) >= ids_needed(settings, "distinct") else "shared"


def ids_needed(settings: ThinkingSettings, rows: Rows) -> int:
    """Return the number of ids of the block: start, end, and one or K think tokens."""
    return 2 + (1 if rows == "shared" else settings.tokens)


def _new_texts(tokens: int, rows: Rows) -> list[str]:
    thinks = ["<|think|>"] if rows == "shared" else [f"<|think_{k}|>" for k in range(tokens)]
    return ["<|think_start|>", *thinks, "<|think_end|>"]


def _next_id(vocabulary: dict[str, int]) -> int:
    return int(max(vocabulary.values())) + 1


def _reserved_texts(settings: ThinkingSettings, tokenizer: Any, needed: int, spare: int) -> list[str]:
    """Return the reserved tokens as start, think…, end, after checking them against tokenizer and template."""
    field = "thinking.reserved_tokens"
    reserved = list(dict.fromkeys(settings.reserved_tokens))
    if len(reserved) < needed:
        raise BackboneError(
            f"the block needs {needed} ids; there are {max(spare, 0)} spare embedding rows and {len(reserved)} reserved tokens",
            field=field,
            value=reserved,
            allowed=f"at least {needed} tokens",
            next_step="use thinking.rows: auto or shared, or list more reserved tokens",
        )
    chosen = [reserved[0], *reserved[2:needed], reserved[1]]
    vocabulary = tokenizer.get_vocab()
    template = str(tokenizer.chat_template or "")
    for text in chosen:
        if text not in vocabulary or tokenizer.encode(text, add_special_tokens=False) != [vocabulary[text]]:
            raise BackboneError(
                "a reserved token is not one token of this tokenizer",
                field=field,
                value=text,
                next_step="list special tokens of the tokenizer",
            )
        if text in template:
            raise BackboneError(
                "a reserved token is used by the chat template", field=field, value=text, next_step="list tokens that prompts never contain"
            )
    return chosen


def _add_tokens(tokenizer: Any, texts: list[str], ids: list[int]) -> None:
    from transformers import AddedToken

    tokenizer.add_tokens([AddedToken(text, special=True, normalized=False) for text in texts], special_tokens=True)
    added = tokenizer.convert_tokens_to_ids(texts)
    if added != ids:
        raise BackboneError("the tokenizer added the block with unexpected ids", field="tokenizer", value=added, allowed=ids)
