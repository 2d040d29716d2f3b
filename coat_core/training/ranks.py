"""The processes of one training, and what they exchange."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TypeVar

import torch
import torch.distributed
from accelerate import Accelerator
from torch import Tensor, nn

T = TypeVar("T")


class Ranks:
    """The processes of a training, by rank; rank 0 writes the checkpoints and the release.

    Every method is called by all ranks at the same point. With one process, none of them communicates.

    Args:
        accelerator: the accelerator of this process, which has initialised the process group.
    """

    def __init__(self, accelerator: Accelerator) -> None:
        self._accelerator = accelerator

    @property
    def count(self) -> int:
        """Number of processes."""
        return int(self._accelerator.num_processes)

    @property
    def rank(self) -> int:
        """Rank of this process, 0 … count - 1."""
        return int(self._accelerator.process_index)

    def sum(self, value: Tensor) -> Tensor:
        """Return the sum of a tensor over all ranks."""
        return value if self.count == 1 else self._accelerator.reduce(value, reduction="sum")

    def largest(self, value: int) -> int:
        """Return the largest of the ranks' numbers."""
        return value if self.count == 1 else int(self._accelerator.gather(torch.tensor([value], device=self._accelerator.device)).max())

    def all(self, value: T) -> list[T]:
        """Return the value of every rank, in order; a value is any object that pickle can store."""
        values: list[T] = [value] * self.count
        if self.count > 1:
            torch.distributed.all_gather_object(values, value)
        return values

    def first(self, value: T) -> T:
        """Return the value of rank 0; those of the other ranks are not read."""
        values = [value]
        if self.count > 1:
            torch.distributed.broadcast_object_list(values, src=0)
        return values[0]

    @torch.no_grad()
    def copy_first(self, tensors: Iterable[Tensor]) -> None:
        """Replace tensors, in place, by those of rank 0."""
        if self.count > 1:
            for tensor in tensors:
                torch.distributed.broadcast(tensor.detach(), src=0)

    @torch.no_grad()
    def sum_gradients(self, parameters: Sequence[nn.Parameter]) -> None:
        """Replace the gradient of each parameter, in place, by its sum over all ranks, in one collective."""
        if self.count == 1:
            return
        gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
        assert len(gradients) == len(parameters), "every trainable parameter has a gradient in every step"
        flat = torch.cat([gradient.reshape(-1) for gradient in gradients])
        torch.distributed.all_reduce(flat)
        parts = flat.split([gradient.numel() for gradient in gradients])  # type: ignore[no-untyped-call]
        for gradient, part in zip(gradients, parts, strict=True):
            gradient.copy_(part.view_as(gradient))
