"""Length-sorted and padding-limited batches, for training, feature extraction and generation."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TypeVar

Item = TypeVar("Item")


def length_sorted_batches(lengths: Sequence[float], size: int) -> Iterator[list[int]]:
    """Yield the indices of all items in batches of at most `size` items of similar length.

    The longest items come first, so that a batch that does not fit into memory fails at once.

    Args:
        lengths: length of each item, in any unit.
        size: most items in a batch.
    """
    order = sorted(range(len(lengths)), key=lambda i: (-lengths[i], i))
    for start in range(0, len(order), size):
        yield order[start : start + size]


def padded_batches(items: Iterable[Item], length: Callable[[Item], float], limit: float) -> list[tuple[Item, ...]]:
    """Cut a sequence, in its order, into batches whose padded length is at most `limit`.

    The padded length of a batch is its number of items times the length of its longest item. An item that is longer than `limit` is a
    batch of its own.

    Args:
        items: the sequence; sort it by length to keep the padding small.
        length: returns the length of an item.
        limit: most padded length of a batch, in the unit of `length`.
    """
    batches: list[list[Item]] = []
    longest = 0.0
    for item in items:
        longest_with_item = max(longest, length(item))
        if batches and (len(batches[-1]) + 1) * longest_with_item <= limit:
            batches[-1].append(item)
            longest = longest_with_item
        else:
            batches.append([item])
            longest = length(item)
    return [tuple(batch) for batch in batches]
