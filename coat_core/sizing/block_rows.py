"""Which embedding rows the thinking block takes in a published checkpoint, from sizes alone."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from coat_core.errors import BackboneError
from coat_core.settings import ThinkingSettings
from coat_core.sizing.published import Published


@dataclass(frozen=True)
class Rows:
    """Where the thinking block's ids come from.

    Attributes:
        think_tokens: K.
        needed: embedding rows that the block takes.
        matrix: rows of the embedding.
        tokens: the tokenizer's length, or the least it can be.
        exact: whether that is its length.
        source: `spare rows` or `reserved tokens`.
        taken: the reserved tokens that serve, in the order start, think…, end; empty for spare rows.
    """

    think_tokens: int
    needed: int
    matrix: int
    tokens: int
    exact: bool
    source: str
    taken: tuple[str, ...]

    @property
    def spare(self) -> int:
        """Rows beyond the tokenizer (at most, where its length is not confirmed)."""
        return max(0, self.matrix - self.tokens)


def block_rows(thinking: ThinkingSettings, checkpoint: Published, matrix: int, tokenizer: Any = None) -> Rows:
    """Say where the block's ids come from: spare embedding rows first, then reserved tokens (as `ThinkingBlock.install` does).

    Raises:
        BackboneError: neither suffices, or a tokenizer is at hand and lacks a reserved token.
    """
    needed = 2 + (1 if thinking.rows == "shared" else thinking.tokens)
    vocabulary = tokenizer.get_vocab() if tokenizer is not None else None
    known = checkpoint.tokenizer_length if vocabulary is None else max(vocabulary.values()) + 1
    rows = Rows(thinking.tokens, needed, matrix, known or checkpoint.least_tokens, known is not None, "spare rows", ())
    if rows.spare >= needed:
        return rows
    reserved = list(dict.fromkeys(thinking.reserved_tokens))
    if len(reserved) < needed:
        raise BackboneError(
            f"the block needs {needed} ids; there are {rows.spare} spare embedding rows and {len(reserved)} reserved tokens",
            field="thinking.reserved_tokens",
            value=reserved,
            allowed=f"at least {needed} tokens",
            next_step="use thinking.rows: shared, or name more reserved tokens",
        )
    taken = (reserved[0], *reserved[2:needed], reserved[1])
    absent = [token for token in taken if vocabulary is not None and token not in vocabulary]
    if absent:
        raise BackboneError("a reserved token is not in the tokenizer", field="thinking.reserved_tokens", value=absent)
    return replace(rows, source="reserved tokens", taken=taken)
