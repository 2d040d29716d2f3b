"""Speech expert: hidden states of WavLM, HuBERT, wav2vec 2.0 or Whisper's encoder, selected by the checkpoint.

The default is layer 9 of HuBERT's 12 (three quarters of the depth in any model), where phonetic content is highest
(Pasad, Shi and Livescu, "Comparative layer-wise analysis of self-supervised speech models", arXiv:2211.03929).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from coat_core.errors import ExpertError
from coat_core.experts.neural.base import Encoder, NeuralExpert, Piece, Waveform
from coat_core.experts.neural.checkpoint import Checkpoint, numbered, open_checkpoint
from coat_core.experts.neural.licences import KnownCheckpoint
from coat_core.experts.neural.log_mel_windows import LogMelWindows
from coat_core.experts.neural.pooling import pooled
from coat_core.experts.neural.wav2vec import MODEL_TYPES, drop_layers, layer_mean, load_wav2vec
from coat_core.experts.neural.windowing import Windowing
from coat_core.settings import ExpertSettings

KNOWN = (
    KnownCheckpoint("facebook/hubert-base-ls960", "dba3bb02fda4248b6e082697eee756de8fe8aa8a", "Apache-2.0",
          "LibriSpeech 960 h, no labels", "Hsu et al., HuBERT, arXiv:2106.07447"),
    KnownCheckpoint("facebook/wav2vec2-base", "0b5b8e868dd84f03fd87d01f9c4ff0f080fecfe8", "Apache-2.0",
          "LibriSpeech 960 h, no labels", "Baevski et al., wav2vec 2.0, arXiv:2006.11477"),
    KnownCheckpoint("microsoft/wavlm-base-plus", "4c66d4806a428f2e922ccfa1a962776e232d487b", "CC-BY-SA-3.0",
          "Libri-Light, GigaSpeech, VoxPopuli (94,000 h), no labels", "Chen et al., WavLM, arXiv:2110.13900"),
    KnownCheckpoint("microsoft/wavlm-large", "c1423ed94bb01d80a3f5ce5bc39f6026a0f4828c", "CC-BY-SA-3.0",
          "Libri-Light, GigaSpeech, VoxPopuli (94,000 h), no labels", "Chen et al., WavLM, arXiv:2110.13900"),
    KnownCheckpoint("openai/whisper-base", "e37978b90ca9030d5170a5c07aadb050351a65bb", "Apache-2.0",
          "680,000 h of transcribed speech from the web", "Radford et al., Whisper, arXiv:2212.04356"),
    KnownCheckpoint("openai/whisper-small", "973afd24965f72e36ca33b3055d56a652f456b4d", "Apache-2.0",
          "680,000 h of transcribed speech from the web", "Radford et al., Whisper, arXiv:2212.04356"),
    KnownCheckpoint("openai/whisper-large-v3", "06f233fe06e710322aca913c1bc4249a0d71fce1", "Apache-2.0",
          "5,000,000 h of speech from the web, transcribed or pseudo-labelled", "Radford et al., Whisper, arXiv:2212.04356"),
)  # fmt: skip
"""Known checkpoints, the default first."""
WINDOWING = Windowing(frames=1500, context=250)
"""Windows of 30 s with 5 s on each side, at 50 Hz."""


class WhisperStates:
    """Whisper's encoder; frame t is its position t, centred on sample t · 320."""

    def __init__(self, model: Any, mel: LogMelWindows, layers: Sequence[int]) -> None:
        self.model, self.mel, self.read, self.hop = model, mel, layer_mean(layers), mel.hop

    def prepare(self, waveform: Waveform) -> Waveform:
        """Return the clip unchanged."""
        return waveform

    def samples(self, frames: int) -> int:
        """Return the number of samples of the model's window."""
        return self.mel.samples(frames)

    def encode(self, pieces: Sequence[Piece]) -> list[Tensor]:
        """Return features `[T, d]` of each piece."""
        output = self.model(self.mel.features(pieces, self.model.conv1.weight), output_hidden_states=True)
        features = self.read(output.hidden_states, output.last_hidden_state)
        return [row[: piece.stop - piece.start] for row, piece in zip(features, pieces, strict=True)]


def build(settings: ExpertSettings) -> NeuralExpert:
    """Return the expert `speech_encoder`.

    Raises:
        ExpertError: licence, architecture, weights, front end or layers are invalid.
        CheckpointError: the checkpoint is not on this disk and cannot be downloaded.
    """
    checkpoint = open_checkpoint("speech_encoder", settings, KNOWN, (*MODEL_TYPES, "whisper"), layers=True)
    if checkpoint.model_type == "whisper":
        return _whisper(checkpoint)
    count = int(checkpoint.config["num_hidden_layers"])
    layers = checkpoint.layers(count, max(1, round(0.75 * count)))
    encoder = load_wav2vec(checkpoint, layer_mean(layers))
    drop_layers(encoder.model.encoder, layers)
    return _expert(checkpoint, encoder, encoder.extractor.sampling_rate, encoder.model.config.hidden_size, layers, WINDOWING)


def _whisper(checkpoint: Checkpoint) -> NeuralExpert:
    from transformers import WhisperConfig
    from transformers.models.whisper.modeling_whisper import WhisperEncoder

    config = WhisperConfig.from_pretrained(checkpoint.folder, local_files_only=True)
    layers = checkpoint.layers(config.encoder_layers, max(1, round(0.75 * config.encoder_layers)))
    with torch.random.fork_rng(devices=[]):
        model = checkpoint.load_part(WhisperEncoder(config), r"(?:model\.)?encoder\.")
    mel = LogMelWindows(checkpoint, config.max_source_positions, hop=320, window_s=checkpoint.settings.window_s)
    _cut_positions(model, mel.window // mel.hop, checkpoint)
    if drop_layers(model, layers):
        # The final norm belongs to the published last layer, which is dropped.
        model.layer_norm = torch.nn.Identity()
    return _expert(checkpoint, WhisperStates(model, mel, layers), mel.extractor.sampling_rate, config.d_model, layers, mel.windowing)


def _cut_positions(model: Any, positions: int, checkpoint: Checkpoint) -> None:
    """Keep the first positions of Whisper's encoder: a clip shorter than the window is not padded to 30 s.

    Raises:
        ExpertError: the encoder has fewer positions, or there is none.
    """
    known = int(model.config.max_source_positions)
    if not 1 <= positions <= known:
        raise ExpertError("the window does not fit the encoder", field="experts.*.window_s", value=checkpoint.settings.window_s,
                          allowed=f"0.02 to {known / 50:g} seconds", next_step="fix params.yaml")  # fmt: skip
    model.config.max_source_positions = positions
    model.embed_positions.weight = torch.nn.Parameter(model.embed_positions.weight[:positions].clone(), requires_grad=False)
    model.embed_positions.num_embeddings = positions


def _expert(checkpoint: Checkpoint, encoder: Encoder, rate: int, width: int, layers: tuple[int, ...], windowing: Windowing) -> NeuralExpert:
    encoder, windowing = pooled(encoder, windowing, checkpoint.settings.pool_frames)
    spec = checkpoint.spec(
        "speech", "representation", rate_hz=rate / encoder.hop, sample_rate_hz=rate, dim_names=numbered("state", width), layers=layers
    )
    return NeuralExpert(spec, encoder, windowing, checkpoint.settings.seconds_per_batch(rate), checkpoint.settings.device)
