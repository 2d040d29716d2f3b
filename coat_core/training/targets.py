"""Targets of the heads: the experts' features of each clip of a batch, read from the stores."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import numpy as np
import torch

from coat_core.errors import ExpertError
from coat_core.experts.store.store import ExpertStore
from coat_core.thinking.losses import Target


class Targets:
    """Features of several experts, by clip.

    Args:
        stores: expert key → store; empty for arms without heads.
        substitutes: clip → clip whose features replace its own (arm `coat_shuffled`); empty: no clip is replaced.
    """

    def __init__(self, stores: Mapping[str, ExpertStore], substitutes: Mapping[str, str] | None = None) -> None:
        self._stores, self._substitutes = dict(stores), dict(substitutes or {})

    @property
    def experts(self) -> tuple[str, ...]:
        """Keys of the experts, in a fixed order."""
        return tuple(self._stores)

    def check(self, clips: Iterable[str]) -> None:
        """Read the features of every clip once, so that a fault is found before a long training starts.

        Raises:
            ExpertError: a clip is missing in a store, or a valid frame is not finite; expert, clip and stage to run are named.
        """
        for key, store in self._stores.items():
            for clip in sorted(set(clips)):
                if clip not in store:
                    raise ExpertError(
                        f"a training clip is missing in the store of expert {key}",
                        field=f"features/{key}",
                        value=clip,
                        next_step=f"run stage features@{key}",
                    )
                features, mask = store.get(clip)
                if not np.isfinite(np.asarray(features)[np.asarray(mask, dtype=bool)]).all():
                    raise ExpertError(
                        f"features of expert {key} are not finite",
                        field=f"features/{key}",
                        value=clip,
                        next_step=f"remove features/{key} and run stage features@{key}",
                    )

    def batch(self, clips: Sequence[str], device: torch.device) -> dict[str, list[Target | None]]:
        """Return for each expert and row the features `[T, d]` (float32, native rate) and mask `[T]`; None without a valid frame."""
        return {key: [self._read(store, clip, device) for clip in clips] for key, store in self._stores.items()}

    def _read(self, store: ExpertStore, clip: str, device: torch.device) -> Target | None:
        features, mask = store.get(self._substitutes.get(clip, clip))
        valid = torch.from_numpy(np.array(mask, dtype=bool))
        if not bool(valid.any()):
            return None
        frames = torch.from_numpy(np.array(features, dtype=np.float32))
        # Values of invalid frames are set to zero: a NaN there would make a product with the mask NaN.
        return frames.masked_fill_(~valid[:, None], 0.0).to(device), valid.to(device)
