"""Random generators, each seeded by a hash of its purpose, so that draws for different purposes are independent."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch


def make_generator(*purpose: object) -> torch.Generator:
    """Return a CPU generator seeded by a hash of its purpose, e.g. `("lora", seed, name)`."""
    import torch

    digest = hashlib.sha256(repr(purpose).encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:8], "little") & (2**63 - 1))
