"""Random generators whose seed is a pure function of their purpose, so that no draw depends on another."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch


def make_generator(*purpose: object) -> torch.Generator:
    """Return a CPU generator whose seed is a pure function of the purpose, e.g. `("lora", seed, name)`."""
    import torch

    digest = hashlib.sha256(repr(purpose).encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:8], "little") & (2**63 - 1))
