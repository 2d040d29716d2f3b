"""Tiny checkpoints with random weights in the published layouts, one folder each."""

from __future__ import annotations

import warnings
from pathlib import Path

import torch

IMPLEMENTATIONS = {
    "hubert": "speech_encoder",
    "wav2vec2": "speech_encoder",
    "wavlm": "speech_encoder",
    "whisper": "speech_encoder",
    "ast": "audio_events",
    "emotion": "speech_emotion",
    "dimensions": "speech_emotion",
    "mimi": "codec",
    "encodec": "codec",
    "qwen2_audio": "lalm_tower",
    "audio_flamingo_3": "lalm_tower",
}
"""Checkpoint → implementation."""

AUDIO_CLASSES = ("Speech", "Dog", "Siren", "Music", "Click", "Rain")


def save_hubert(folder: Path) -> None:
    """Save the layout of `facebook/hubert-base-ls960`: group norm, `pytorch_model.bin` with the old names of the weight norm."""
    from transformers import HubertConfig, HubertModel

    model = HubertModel(HubertConfig(**_wav2vec(), feat_extract_norm="group"))
    _old_weight_norm(model, folder)
    _front_end(folder, do_normalize=True, return_attention_mask=False)


def save_wav2vec2(folder: Path) -> None:
    """Save the layout of the large models: layer norm in every convolution, pre-norm layers, a CTC head on top."""
    from transformers import Wav2Vec2Config, Wav2Vec2ForCTC

    config = Wav2Vec2Config(**_wav2vec(), feat_extract_norm="layer", do_stable_layer_norm=True, conv_bias=True, vocab_size=12)
    Wav2Vec2ForCTC(config).save_pretrained(folder)
    _front_end(folder, do_normalize=True, return_attention_mask=True)


def save_wavlm(folder: Path) -> None:
    """Save the layout of `microsoft/wavlm-base-plus`: group norm, waveforms not normalised."""
    from transformers import WavLMConfig, WavLMModel

    WavLMModel(WavLMConfig(**_wav2vec(), feat_extract_norm="group", num_buckets=16, max_bucket_distance=40)).save_pretrained(folder)
    _front_end(folder, do_normalize=False, return_attention_mask=True)


def save_emotion(folder: Path) -> None:
    """Save the layout of `superb/wav2vec2-base-superb-er`: a weighted sum of layers, projector, linear classifier."""
    from transformers import Wav2Vec2Config, Wav2Vec2ForSequenceClassification

    labels = {0: "neu", 1: "hap", 2: "ang", 3: "sad"}
    model = Wav2Vec2ForSequenceClassification(
        Wav2Vec2Config(
            **_wav2vec(), use_weighted_layer_sum=True, classifier_proj_size=8, id2label=labels, label2id={v: k for k, v in labels.items()}
        )
    )
    with torch.no_grad():
        model.layer_weights.copy_(torch.tensor([0.3, -0.2, 0.5]))
    _old_weight_norm(model, folder)
    _front_end(folder, do_normalize=True, return_attention_mask=False)


def save_dimensions(folder: Path) -> None:
    """Save the layout of audEERING's dimensional model: a regression head without a class in transformers."""
    from safetensors.torch import save_file
    from transformers import Wav2Vec2Config, Wav2Vec2Model

    config = Wav2Vec2Config(**_wav2vec(), feat_extract_norm="layer", do_stable_layer_norm=True, conv_bias=True)
    config.id2label = {0: "arousal", 1: "dominance", 2: "valence"}
    config.architectures = ["Wav2Vec2ForSpeechClassification"]
    model = Wav2Vec2Model(config)
    head = {"classifier.dense": torch.nn.Linear(32, 32), "classifier.out_proj": torch.nn.Linear(32, 3)}
    weights = {f"wav2vec2.{name}": tensor.contiguous() for name, tensor in model.state_dict().items()}
    weights |= {f"{name}.{part}": getattr(layer, part).detach() for name, layer in head.items() for part in ("weight", "bias")}
    folder.mkdir(parents=True)
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    config.save_pretrained(folder)
    _front_end(folder, do_normalize=True, return_attention_mask=True)


def save_whisper(folder: Path, *, seconds: int = 3) -> None:
    """Save the layout of `openai/whisper-small`: encoder and decoder, with a window of `seconds` instead of 30."""
    from transformers import WhisperConfig, WhisperFeatureExtractor, WhisperForConditionalGeneration

    config = WhisperConfig(
        vocab_size=64,
        num_mel_bins=80,
        d_model=32,
        encoder_layers=2,
        decoder_layers=1,
        encoder_attention_heads=2,
        decoder_attention_heads=2,
        encoder_ffn_dim=64,
        decoder_ffn_dim=64,
        max_source_positions=seconds * 50,
        max_target_positions=16,
        pad_token_id=0,
        bos_token_id=1,
        eos_token_id=2,
        decoder_start_token_id=3,
        suppress_tokens=None,
        begin_suppress_tokens=None,
    )
    WhisperForConditionalGeneration(config).save_pretrained(folder)
    WhisperFeatureExtractor(feature_size=80, chunk_length=seconds).save_pretrained(folder)


def save_ast(folder: Path) -> None:
    """Save the layout of `MIT/ast-finetuned-audioset-10-10-0.4593`: 10.24 s of 128 mel bands, with few patches."""
    from transformers import ASTConfig, ASTFeatureExtractor, ASTForAudioClassification

    config = ASTConfig(
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=64,
        patch_size=16,
        frequency_stride=16,
        time_stride=16,
        max_length=1024,
        num_mel_bins=128,
        id2label=dict(enumerate(AUDIO_CLASSES)),
        label2id={name: i for i, name in enumerate(AUDIO_CLASSES)},
        initializer_range=0.2,
    )
    ASTForAudioClassification(config).save_pretrained(folder)
    with warnings.catch_warnings():
        # The published extractor has this warning too.
        warnings.filterwarnings("ignore", message="At least one mel filter has all zero values")
        ASTFeatureExtractor().save_pretrained(folder)


def save_mimi(folder: Path) -> None:
    """Save the layout of `kyutai/mimi`: the whole codec, 12.5 Hz."""
    from transformers import EncodecFeatureExtractor, MimiConfig, MimiModel

    config = MimiConfig(
        hidden_size=32,
        num_filters=4,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=2,
        intermediate_size=64,
        sliding_window=6,
        codebook_size=16,
        codebook_dim=8,
        vector_quantization_hidden_dimension=8,
        num_quantizers=4,
        upsample_groups=32,
        layer_scale_initial_scale=0.5,
    )
    MimiModel(config).save_pretrained(folder)
    EncodecFeatureExtractor(feature_size=1, sampling_rate=24000).save_pretrained(folder)


def save_encodec(folder: Path) -> None:
    """Save the layout of `facebook/encodec_24khz`: 75 Hz, with a final LSTM."""
    from transformers import EncodecConfig, EncodecFeatureExtractor, EncodecModel

    EncodecModel(EncodecConfig(num_filters=4, hidden_size=16, codebook_size=16)).save_pretrained(folder)
    EncodecFeatureExtractor(feature_size=1, sampling_rate=24000).save_pretrained(folder)


CHECKPOINTS = {
    "hubert": save_hubert,
    "wav2vec2": save_wav2vec2,
    "wavlm": save_wavlm,
    "whisper": save_whisper,
    "ast": save_ast,
    "emotion": save_emotion,
    "dimensions": save_dimensions,
    "mimi": save_mimi,
    "encodec": save_encodec,
}


def save_all(root: Path) -> dict[str, Path]:
    """Save every checkpoint under `root`, each with its own seed."""
    for seed, (name, save) in enumerate(CHECKPOINTS.items()):
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(100 + seed)
            save(root / name)
    return {name: root / name for name in CHECKPOINTS}


def _wav2vec() -> dict[str, object]:
    """Return a configuration with the published strides and kernels, few channels and two layers."""
    return {
        "hidden_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "intermediate_size": 64,
        "conv_dim": (32,) * 7,
        "num_conv_pos_embeddings": 8,
        "num_conv_pos_embedding_groups": 4,
    }


def _front_end(folder: Path, *, do_normalize: bool, return_attention_mask: bool) -> None:
    from transformers import Wav2Vec2FeatureExtractor

    Wav2Vec2FeatureExtractor(do_normalize=do_normalize, return_attention_mask=return_attention_mask).save_pretrained(folder)


def _old_weight_norm(model: torch.nn.Module, folder: Path) -> None:
    """Save a model with the tensor names of checkpoints from before 2023."""
    model.config.architectures = [type(model).__name__]
    model.config.save_pretrained(folder)
    names = {"parametrizations.weight.original0": "weight_g", "parametrizations.weight.original1": "weight_v"}
    weights = {}
    for name, tensor in model.state_dict().items():
        for new, old in names.items():
            name = name.replace(new, old)
        weights[name] = tensor
    torch.save(weights, folder / "pytorch_model.bin")
