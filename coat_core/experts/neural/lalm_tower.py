"""Reconstruction expert: states of a LALM's audio tower at 25 Hz, before the projector.

Only the tower's weights are read from the LALM's checkpoint. Qwen2-Audio's and Audio Flamingo 3's towers are Whisper encoders with
a mean over two positions: frame t is centred on sample 640 t + 160 at 16 kHz. A window is padded to the 30 s that the tower
requires, and the padding is masked, as in the stock forward.
Sources: Chu et al., "Qwen2-Audio Technical Report", arXiv:2407.10759; Goel et al., "Audio Flamingo 3", arXiv:2507.08128.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from coat_core.experts.neural.base import NeuralExpert, Piece, Waveform
from coat_core.experts.neural.checkpoint import Checkpoint, numbered, open_checkpoint
from coat_core.experts.neural.licences import KnownCheckpoint
from coat_core.experts.neural.log_mel_windows import LogMelWindows
from coat_core.settings import ExpertSettings

KNOWN = (
    KnownCheckpoint("Qwen/Qwen2-Audio-7B-Instruct", "0a095220c30b7b31434169c3086508ef3ea5bf0a", "Apache-2.0",
          "speech, sound and music with transcripts, captions and answers (not listed by its authors)",
          "Chu et al., Qwen2-Audio, arXiv:2407.10759"),
    KnownCheckpoint("nvidia/audio-flamingo-3-hf", "7d4bae64ee29878af6504ae6f6bb3e40492838ad", "NVIDIA OneWay Noncommercial License",
          "AudioSkills-XL, LongAudio-XL, AF-Chat and public corpora, with their labels (AudioSet, IEMOCAP, MELD, GTZAN, NSynth among them)",
          "Goel et al., Audio Flamingo 3, arXiv:2507.08128"),
)  # fmt: skip
"""Known checkpoints, the default first."""
_TENSORS = r"(?:model\.)?audio_tower\."
_MEL_FRAMES = 4
"""Mel frames (100 Hz) per frame of the tower (25 Hz)."""


class TowerStates:
    """A Whisper-like tower: `run(tower, mel [B, mels, M], mask [B, M])` returns states `[B, T, D]`."""

    def __init__(self, tower: Any, mel: LogMelWindows, run: Callable[[Any, Tensor, Tensor], Tensor]) -> None:
        self.tower, self.mel, self.run, self.hop = tower, mel, run, mel.hop

    def prepare(self, waveform: Waveform) -> Waveform:
        """Return the clip unchanged."""
        return waveform

    def samples(self, frames: int) -> int:
        """Return the number of samples of the model's window."""
        return self.mel.samples(frames)

    def encode(self, pieces: Sequence[Piece]) -> list[Tensor]:
        """Return states `[T, D]` of each piece; the tower attends to the mel frames of the piece."""
        counts = [piece.stop - piece.start for piece in pieces]
        mel = self.mel.features(pieces, self.tower.conv1.weight)
        mask = torch.arange(mel.shape[-1])[None] < _MEL_FRAMES * torch.tensor(counts)[:, None]
        states = self.run(self.tower, mel, mask.to(mel.device))
        return [row[:count] for row, count in zip(states, counts, strict=True)]


def build(settings: ExpertSettings) -> NeuralExpert:
    """Return the expert `lalm_tower`.

    Raises:
        ExpertError: licence, architecture, weights or front end are invalid.
        CheckpointError: the checkpoint is not on this disk and cannot be downloaded.
    """
    checkpoint = open_checkpoint("lalm_tower", settings, KNOWN, ("audioflamingo3", "qwen2_audio"), prefix="audio_tower.")
    with torch.random.fork_rng(devices=[]):
        tower, run = _qwen(checkpoint) if checkpoint.model_type == "qwen2_audio" else _flamingo(checkpoint)
    mel = LogMelWindows(checkpoint, int(tower.config.max_source_positions), hop=160 * _MEL_FRAMES)
    rate = int(mel.extractor.sampling_rate)
    names = numbered("tower", int(tower.layer_norm.normalized_shape[0]))
    spec = checkpoint.spec("reconstruction", "representation", rate_hz=rate / mel.hop, sample_rate_hz=rate, dim_names=names)
    return NeuralExpert(spec, TowerStates(tower, mel, run), mel.windowing, settings.seconds_per_batch(rate), settings.device)


def _qwen(checkpoint: Checkpoint) -> tuple[Any, Callable[[Any, Tensor, Tensor], Tensor]]:
    from transformers import Qwen2AudioConfig
    from transformers.masking_utils import create_bidirectional_mask
    from transformers.models.qwen2_audio.modeling_qwen2_audio import Qwen2AudioEncoder

    config = Qwen2AudioConfig.from_pretrained(checkpoint.folder, local_files_only=True)

    def run(tower: Any, mel: Tensor, mask: Tensor) -> Tensor:
        """Build the attention mask over positions (two mel frames each), which the stock model passes to its tower."""
        positions = mask[:, ::2]
        like = torch.zeros(*positions.shape, 1, dtype=mel.dtype, device=mel.device)
        attention = create_bidirectional_mask(config=tower.config, inputs_embeds=like, attention_mask=positions.long())
        states: Tensor = tower(mel, attention_mask=attention).last_hidden_state
        return states

    return checkpoint.load_part(Qwen2AudioEncoder(config.audio_config), _TENSORS), run


def _flamingo(checkpoint: Checkpoint) -> tuple[Any, Callable[[Any, Tensor, Tensor], Tensor]]:
    from transformers import AudioFlamingo3Config
    from transformers.models.audioflamingo3.modeling_audioflamingo3 import AudioFlamingo3Encoder

    config = AudioFlamingo3Config.from_pretrained(checkpoint.folder, local_files_only=True)

    def run(tower: Any, mel: Tensor, mask: Tensor) -> Tensor:
        states: Tensor = tower(mel, input_features_mask=mask.long()).last_hidden_state
        return states

    return checkpoint.load_part(AudioFlamingo3Encoder(config.audio_config), _TENSORS), run
