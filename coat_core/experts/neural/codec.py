"""Reconstruction expert: the latents of a neural codec before quantisation, Mimi (12.5 Hz) or EnCodec (75 Hz), at 24 kHz.

Both encoders are causal: frame t covers the samples [t · hop, (t + 1) · hop) and depends on no later sample.
Padding after a clip therefore has no effect, and a sound first changes the frame in which it begins. The exception is the start of a
clip in EnCodec: its convolutions pad on the left by reflection, so its first frames (80 ms) depend on up to six later frames.
Sources: Défossez et al., "Moshi", arXiv:2410.00037; Défossez et al., "High Fidelity Neural Audio Compression", arXiv:2210.13438.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import prod

import torch
from torch import Tensor, nn

from coat_core.experts.neural.base import NeuralExpert, Piece, Waveform, cut_padded, pad_signals
from coat_core.experts.neural.checkpoint import Checkpoint, numbered, open_checkpoint
from coat_core.experts.neural.licences import KnownCheckpoint
from coat_core.experts.neural.windowing import Windowing
from coat_core.settings import ExpertSettings

KNOWN = (
    KnownCheckpoint("kyutai/mimi", "89091b3e466eb6a9d11e537bf26b144f194978f7", "CC-BY-4.0",
          "7,000,000 h of speech from the web; WavLM's states as a second target", "Défossez et al., Moshi, arXiv:2410.00037"),
    KnownCheckpoint("facebook/encodec_24khz", "c1dbe2ae3f1de713481a3b3e7c47f357092ee040", "CC-BY-NC-4.0",
          "DNS challenge, Common Voice, AudioSet, FSD50K, Jamendo; no labels", "Défossez et al., EnCodec, arXiv:2210.13438"),
)  # fmt: skip
"""Known checkpoints, the default first. EnCodec's card names no licence for its weights, so a non-commercial one is recorded."""
_WINDOW_S, _CONTEXT_S = 60, 12
_LEAST_FRAMES = 16
"""Shorter clips are padded with silence to this length: EnCodec's reflection must be the same alone and in a batch."""


class CodecLatents:
    """A causal encoder from samples `[B, 1, N]` to latents `[B, d, T]`."""

    def __init__(self, model: nn.Module, encode: Callable[[Tensor], Tensor], hop: int) -> None:
        self.model, self.latents, self.hop = model, encode, hop

    def prepare(self, waveform: Waveform) -> Waveform:
        """Return the clip unchanged."""
        return waveform

    def samples(self, frames: int) -> int:
        """Return the number of samples of `frames` frames."""
        return frames * self.hop

    def encode(self, pieces: Sequence[Piece]) -> list[Tensor]:
        """Return latents `[T, d]` of each piece; windows are whole frames, so that no layer pads them at the end."""
        weight = next(self.model.parameters())
        ends = [max(piece.stop, piece.start + _LEAST_FRAMES) for piece in pieces]
        signals = [cut_padded(piece.clip, piece.start * self.hop, end * self.hop) for piece, end in zip(pieces, ends, strict=True)]
        latents = self.latents(torch.from_numpy(pad_signals(signals))[:, None].to(weight.device, weight.dtype)).transpose(1, 2)
        return [row[: piece.stop - piece.start] for row, piece in zip(latents, pieces, strict=True)]


def build(settings: ExpertSettings) -> NeuralExpert:
    """Return the expert `codec`.

    Raises:
        ExpertError: licence, architecture or weights are invalid, or the codec is not mono and causal.
        CheckpointError: the checkpoint is not on this disk and cannot be downloaded.
    """
    checkpoint = open_checkpoint("codec", settings, KNOWN, ("mimi", "encodec"))
    encoder, width, rate = _mimi(checkpoint) if checkpoint.model_type == "mimi" else _encodec(checkpoint)
    frames_a_second = rate / encoder.hop
    spec = checkpoint.spec(
        "reconstruction", "representation", rate_hz=frames_a_second, sample_rate_hz=rate, dim_names=numbered("latent", width)
    )
    windowing = Windowing(round(_WINDOW_S * frames_a_second), round(_CONTEXT_S * frames_a_second))
    return NeuralExpert(spec, encoder, windowing, settings.seconds_per_batch(rate), settings.device)


def _mimi(checkpoint: Checkpoint) -> tuple[CodecLatents, int, int]:
    try:
        from transformers.models.mimi.modeling_mimi import MimiEncoderModel
    except ImportError as error:
        raise checkpoint.refuse(
            "transformers is too old", "no MimiEncoderModel", "transformers 5.23, the version of the lock file"
        ) from error

    model = checkpoint.load(MimiEncoderModel)
    _check(checkpoint, model.config)
    hop = prod(model.config.upsampling_ratios) * (1 if model.downsample is None else int(model.config.latent_stride))
    return CodecLatents(model, lambda samples: model(samples).latents, hop), int(model.config.latent_dim), int(model.config.sampling_rate)


def _encodec(checkpoint: Checkpoint) -> tuple[CodecLatents, int, int]:
    from transformers import EncodecModel

    codec = checkpoint.load(EncodecModel)
    _check(checkpoint, codec.config)
    if codec.config.normalize or codec.config.chunk_length_s is not None:
        raise checkpoint.refuse("it scales or cuts the clip before encoding", "normalize or chunk_length_s is set", "the 24 kHz EnCodec")
    model = codec.encoder
    return CodecLatents(model, model, prod(codec.config.upsampling_ratios)), int(codec.config.hidden_size), int(codec.config.sampling_rate)


def _check(checkpoint: Checkpoint, config: object) -> None:
    channels, causal = getattr(config, "audio_channels", None), getattr(config, "use_causal_conv", None)
    if channels != 1 or not causal:
        raise checkpoint.refuse("a mono, causal codec is needed", f"audio_channels {channels}, use_causal_conv {causal}", "1, true")
