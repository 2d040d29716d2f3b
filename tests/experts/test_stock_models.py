"""Neural experts equal the stock classes, clip by clip, on the same sound."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from coat_core.experts.catalogue import load_expert
from coat_core.experts.neural.base import NeuralExpert
from coat_core.settings import ExpertSettings

TinyExpert = Callable[[str], NeuralExpert]
LENGTHS = (9001, 30011, 44444)


def sound(samples: int, seed: int = 0) -> np.ndarray:
    time = np.arange(samples) / 16000
    return (0.2 * np.sin(2 * np.pi * 300 * time) + 0.1 * np.random.default_rng(seed).standard_normal(samples) + 0.03).astype(np.float32)


def batch(lengths: tuple[int, ...]) -> tuple[np.ndarray, np.ndarray, list[np.ndarray]]:
    clips = [sound(length, seed) * (seed + 1) for seed, length in enumerate(lengths)]
    rows = np.zeros((len(clips), max(lengths) + 555), dtype=np.float32)
    for row, clip in zip(rows, clips, strict=True):
        row[: len(clip)] = clip
    return rows, np.array(lengths), clips


def same(ours: np.ndarray, stock: torch.Tensor) -> None:
    assert ours.shape == tuple(stock.shape)
    expected = stock.detach().numpy()
    np.testing.assert_allclose(ours, expected, rtol=0, atol=1e-5 * max(1.0, float(np.abs(expected).max())))


def aligned(folder: Path, clip: np.ndarray) -> torch.Tensor:
    """Return a clip from its front end, with 40 samples of silence before it and enough after it for ceil(N / 320) frames."""
    from transformers import Wav2Vec2FeatureExtractor

    extractor = Wav2Vec2FeatureExtractor.from_pretrained(folder)
    values = extractor(clip, sampling_rate=16000, return_tensors="pt")["input_values"]
    frames = -(-len(clip) // 320)
    return torch.nn.functional.pad(values, (40, 320 * frames + 40 - len(clip)))


@pytest.mark.parametrize("layers", [None, (1,), (1, 2)])
@pytest.mark.parametrize("name", ["hubert", "wav2vec2", "wavlm"])
@pytest.mark.filterwarnings("ignore:Support for mismatched key_padding_mask")
def test_hidden_states_of_the_wav2vec_family(name: str, layers: tuple[int, ...] | None, checkpoints: dict[str, Path]) -> None:
    from transformers import AutoModel

    settings = ExpertSettings(implementation="speech_encoder", checkpoint=str(checkpoints[name]), accept_licence="MIT", layers=layers)
    expert = load_expert("speech_encoder", settings)
    assert expert.spec.layers == (layers or (2,))
    stock = AutoModel.from_pretrained(checkpoints[name]).eval()
    rows, lengths, clips = batch(LENGTHS)
    features, mask = expert(rows, lengths)
    for row, clip in enumerate(clips):
        states = stock(aligned(checkpoints[name], clip), output_hidden_states=True).hidden_states
        same(features[row, mask[row]], torch.stack([states[layer] for layer in expert.spec.layers]).mean(dim=0)[0])


@pytest.mark.parametrize("name", ["emotion"])
def test_the_mean_of_emotion_frames_is_the_checkpoints_output(name: str, checkpoints: dict[str, Path], tiny_expert: TinyExpert) -> None:
    from transformers import AutoModelForAudioClassification

    stock = AutoModelForAudioClassification.from_pretrained(checkpoints[name]).eval()
    rows, lengths, clips = batch(LENGTHS)
    features, mask = tiny_expert(name)(rows, lengths)
    for row, clip in enumerate(clips):
        same(features[row, mask[row]].mean(axis=0), stock(aligned(checkpoints[name], clip)).logits[0])
    assert tiny_expert(name).spec.dim_names == ("neu", "hap", "ang", "sad")


def test_the_dimensional_head_is_applied_to_every_frame(checkpoints: dict[str, Path], tiny_expert: TinyExpert) -> None:
    from safetensors.torch import load_file
    from transformers import Wav2Vec2Model

    weights = load_file(checkpoints["dimensions"] / "model.safetensors")
    stock = Wav2Vec2Model.from_pretrained(checkpoints["dimensions"]).eval()
    clip = sound(20011)
    states = stock(aligned(checkpoints["dimensions"], clip)).last_hidden_state[0]
    hidden = torch.tanh(states @ weights["classifier.dense.weight"].T + weights["classifier.dense.bias"])
    expected = hidden @ weights["classifier.out_proj.weight"].T + weights["classifier.out_proj.bias"]
    same(tiny_expert("dimensions")(clip[None], np.array([len(clip)]))[0][0], expected)
    assert tiny_expert("dimensions").spec.dim_names == ("arousal", "dominance", "valence")


@pytest.mark.parametrize("layer", [1, 2])
def test_whispers_encoder_on_its_own_front_end(layer: int, checkpoints: dict[str, Path]) -> None:
    from transformers import WhisperFeatureExtractor, WhisperModel

    extractor = WhisperFeatureExtractor.from_pretrained(checkpoints["whisper"])
    stock = WhisperModel.from_pretrained(checkpoints["whisper"]).eval()
    settings = ExpertSettings(
        implementation="speech_encoder", checkpoint=str(checkpoints["whisper"]), accept_licence="MIT", layers=(layer,)
    )
    rows, lengths, clips = batch(LENGTHS)
    features, mask = load_expert("speech_encoder", settings)(rows, lengths)
    for row, clip in enumerate(clips):
        mel = extractor(clip, sampling_rate=16000, return_tensors="pt")["input_features"]
        states = stock.encoder(mel, output_hidden_states=True).hidden_states[layer]
        same(features[row, mask[row]], states[0, : -(-len(clip) // 320)])


@pytest.mark.filterwarnings("ignore:At least one mel filter has all zero values")
def test_events_are_the_stock_classifiers_posteriors_of_each_window(checkpoints: dict[str, Path], tiny_expert: TinyExpert) -> None:
    from transformers import ASTFeatureExtractor, ASTForAudioClassification

    from tests.testing.expert_checkpoints import AUDIO_CLASSES

    extractor = ASTFeatureExtractor.from_pretrained(checkpoints["ast"])
    stock = ASTForAudioClassification.from_pretrained(checkpoints["ast"]).eval()
    expert = tiny_expert("ast")
    assert expert.spec.dim_names == AUDIO_CLASSES
    clip = sound(44444)
    features = expert(clip[None], np.array([len(clip)]))[0][0]
    assert len(features) == 6
    padded = np.concatenate([np.zeros(200, np.float32), clip, np.zeros(360, np.float32)])
    for frame, (start, stop) in enumerate([(-200, 8000), (0, 16000), (8000, 24000), (16000, 32000), (24000, 40000), (32000, 44804)]):
        values = extractor(padded[start + 200 : stop + 200], sampling_rate=16000, return_tensors="pt")["input_values"]
        same(features[frame], stock(values).logits[0].sigmoid())


def test_codec_latents_before_quantisation(checkpoints: dict[str, Path], tiny_expert: TinyExpert) -> None:
    from transformers import EncodecModel, MimiModel

    mimi = MimiModel.from_pretrained(checkpoints["mimi"]).eval()
    encodec = EncodecModel.from_pretrained(checkpoints["encodec"]).eval()
    latents = {"mimi": lambda samples: mimi.encoder(samples).latents, "encodec": encodec.encoder}
    for name, hop in (("mimi", 1920), ("encodec", 320)):
        rows, lengths, clips = batch(LENGTHS)
        features, mask = tiny_expert(name)(rows, lengths)
        for row, clip in enumerate(clips):
            whole = torch.nn.functional.pad(torch.from_numpy(clip), (0, -len(clip) % hop))
            same(features[row, mask[row]], latents[name](whole[None, None])[0].T)


@pytest.mark.parametrize("name", ["qwen2_audio", "audio_flamingo_3"])
def test_a_lalms_tower_equals_the_tower_in_the_lalm(name: str, checkpoints: dict[str, Path], tiny_expert: TinyExpert) -> None:
    from transformers import AudioFlamingo3ForConditionalGeneration, Qwen2AudioForConditionalGeneration, WhisperFeatureExtractor

    model_class = {"qwen2_audio": Qwen2AudioForConditionalGeneration, "audio_flamingo_3": AudioFlamingo3ForConditionalGeneration}[name]
    stock = model_class.from_pretrained(checkpoints[name], dtype=torch.float32).eval()
    extractor = WhisperFeatureExtractor.from_pretrained(checkpoints[name])
    states: list[torch.Tensor] = []
    stock.model.audio_tower.register_forward_hook(lambda module, args, output: states.append(output.last_hidden_state))
    clip = sound(44800)  # whole frames: at other lengths ours has one frame more, for the clip's last samples
    values = extractor(clip, sampling_rate=16000, padding="max_length", return_attention_mask=True, return_tensors="pt")
    frames = len(clip) // 640
    tokens = torch.full((1, frames), stock.config.audio_token_id)
    tokens = torch.cat([torch.tensor([[5]]), tokens, torch.tensor([[6]])], dim=1)
    mask_name = "feature_attention_mask" if name == "qwen2_audio" else "input_features_mask"
    stock(input_ids=tokens, input_features=values["input_features"], attention_mask=torch.ones_like(tokens),
          **{mask_name: values["attention_mask"]})  # fmt: skip
    features = tiny_expert(name)(clip[None], np.array([len(clip)]))[0][0]
    same(features, states[0][0, :frames])
