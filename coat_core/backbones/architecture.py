"""What one LALM's class differs in: the narrow part that each adapter writes."""

from __future__ import annotations

from typing import Any, Protocol

from torch import Tensor

from coat_core.backbones.base import Mel


class Architecture(Protocol):
    """The differences between the three LALMs; `Lalm` does everything else for all of them."""

    key: str
    """`qwen2_audio`, `qwen2_5_omni` or `audio_flamingo_3`."""
    audio_token: str
    """The placeholder of audio in a prompt."""
    template: str
    """The published chat template, for a checkpoint that comes without one."""
    tensor_prefix: str
    """What the names of the model's tensors begin with in a checkpoint that holds several models; empty: it holds one."""

    def model_class(self) -> Any:
        """Return the stock transformers class."""

    def model_config(self, config: Any) -> Any | None:
        """Return the configuration of that class from what `AutoConfig` read; None when it belongs to another LALM."""

    def window_samples(self, config: Any, extractor: Any) -> int | None:
        """Return the samples of the audio tower's window; None when it takes any length."""

    def limit_samples(self, config: Any, extractor: Any) -> int:
        """Return the samples of the longest clip that the model was published for."""

    def long_limit_samples(self, config: Any, extractor: Any) -> int:
        """Return the samples of the longest clip where `long_audio: windows` is chosen; `limit_samples` where there is no choice."""

    def embed_audio(self, model: Any, mel: Mel) -> list[Tensor]:
        """Run tower and projector; return per clip `[A, D]`."""

    def audio_inputs(self, model: Any, mel: Mel) -> dict[str, Tensor]:
        """Return the audio arguments of the stock `forward` and `generate`."""
