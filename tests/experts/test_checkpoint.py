"""Checkpoints of neural experts: requirements, loading, and the recorded spec."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from coat_core.errors import CheckpointError, DeviceError, ExpertError, OutOfMemoryError
from coat_core.experts.catalogue import NEURAL, PACKAGED, build_expert, load_expert
from coat_core.experts.neural.base import NeuralExpert
from coat_core.experts.store.store import spec_from_json
from coat_core.settings import ExpertSettings
from tests.testing.expert_checkpoints import IMPLEMENTATIONS

TinyExpert = Callable[[str], NeuralExpert]
KINDS = {
    "speech_encoder": ("speech", "representation"),
    "audio_events": ("events", "posteriors"),
    "speech_emotion": ("affect", "regression"),
    "codec": ("reconstruction", "representation"),
    "lalm_tower": ("reconstruction", "representation"),
}
RATES_HZ = {"ast": 2.0, "mimi": 12.5, "encodec": 75.0, "qwen2_audio": 25.0, "audio_flamingo_3": 25.0}


def settings(implementation: str, folder: Path | str | None = None, **values: object) -> ExpertSettings:
    checkpoint = None if folder is None else str(folder)
    return ExpertSettings(**{"implementation": implementation, "checkpoint": checkpoint, "accept_licence": "MIT", **values})


def sound(samples: int = 20011) -> np.ndarray:
    return (0.1 * np.random.default_rng(1).standard_normal((1, samples))).astype(np.float32)


@pytest.mark.parametrize("name", IMPLEMENTATIONS)
def test_the_spec_describes_the_checkpoint_and_survives_json(name: str, checkpoints: dict[str, Path], tiny_expert: TinyExpert) -> None:
    spec = tiny_expert(name).spec
    assert (spec.kind, spec.target) == KINDS[IMPLEMENTATIONS[name]]
    assert (spec.implementation, spec.checkpoint) == (IMPLEMENTATIONS[name], str(checkpoints[name]))
    assert (spec.licence, spec.commercial_use, spec.precision) == ("MIT", True, "float32")
    assert spec.native_rate_hz == RATES_HZ.get(name, 50.0)
    assert spec.sample_rate_hz == (24000 if name in ("mimi", "encodec") else 16000)
    assert len(spec.dim_names) == spec.dim == len(set(spec.dim_names))
    assert bool(spec.layers) == (spec.implementation == "speech_encoder")
    assert spec_from_json(json.loads(json.dumps(spec.to_json()))) == spec


def test_specs_of_acoustic_experts_have_no_checkpoint_fields() -> None:
    spec = load_expert("log_mel").spec
    assert set(spec.to_json()) == {
        "implementation",
        "kind",
        "target",
        "dim",
        "native_rate_hz",
        "sample_rate_hz",
        "version",
        "licence",
        "commercial_use",
        "source",
        "dim_names",
    }
    assert spec_from_json(json.loads(json.dumps(spec.to_json()))) == spec


@pytest.mark.parametrize("name", ["hubert", "whisper", "emotion", "mimi"])
def test_a_spec_builds_its_expert_again(name: str, tiny_expert: TinyExpert) -> None:
    again = build_expert(spec_from_json(json.loads(json.dumps(tiny_expert(name).spec.to_json()))))
    assert again.spec == tiny_expert(name).spec
    lengths = np.array([20011])
    np.testing.assert_array_equal(again(sound(), lengths)[0], tiny_expert(name)(sound(), lengths)[0])
    assert build_expert(load_expert("log_mel").spec).spec.implementation == "log_mel"


def test_the_revision_is_recorded_and_the_default_is_pinned(checkpoints: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    from coat_core.experts.neural import checkpoint

    requested: list[tuple[str, str | None]] = []

    def folder(source: str, revision: str | None, **options: object) -> Path:
        requested.append((source, revision))
        return checkpoints["hubert"]

    monkeypatch.setattr(checkpoint, "checkpoint_folder", folder)
    spec = load_expert("speech_encoder").spec
    assert requested == [("facebook/hubert-base-ls960", "dba3bb02fda4248b6e082697eee756de8fe8aa8a")]
    assert (spec.checkpoint, spec.revision, spec.licence) == (*requested[0], "Apache-2.0")
    assert spec.fitted_on == "LibriSpeech 960 h, no labels"
    other = load_expert("speech_encoder", ExpertSettings(implementation="speech_encoder", revision="f" * 40)).spec
    assert other.revision == requested[1][1] == "f" * 40


@pytest.mark.parametrize("implementation", [name for name in NEURAL if name not in PACKAGED])
def test_a_missing_default_checkpoint_names_the_download_command(
    implementation: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(CheckpointError, match="hf download"):
        load_expert(implementation)


@pytest.mark.parametrize(
    ("implementation", "name", "found"),
    [
        ("speech_encoder", "ast", "audio-spectrogram-transformer"),
        ("speech_encoder", "mimi", "MimiModel"),
        ("audio_events", "hubert", "HubertModel"),
        ("speech_emotion", "whisper", "WhisperForConditionalGeneration"),
        ("codec", "wavlm", "'wavlm'"),
        ("lalm_tower", "whisper", "'whisper'"),
        ("speech_emotion", "hubert", "it has no emotion head"),
        ("speech_emotion", "wav2vec2", "it has no emotion head"),
    ],
)
def test_another_architecture_is_refused_by_name(implementation: str, name: str, found: str, checkpoints: dict[str, Path]) -> None:
    with pytest.raises(ExpertError, match=f"{implementation} cannot use this checkpoint.*{found}"):
        load_expert(implementation, settings(implementation, checkpoints[name]))


def test_a_folder_without_a_config_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ExpertError, match=r"has no readable config\.json"):
        load_expert("codec", settings("codec", tmp_path))


@pytest.mark.parametrize("name", ["hubert", "whisper", "ast", "qwen2_audio", "wav2vec2"])
def test_a_folder_without_a_front_end_is_refused(name: str, checkpoints: dict[str, Path], tmp_path: Path) -> None:
    shutil.copytree(checkpoints[name], tmp_path / name)
    for path in (tmp_path / name).glob("*processor_config.json"):
        path.unlink()
    with pytest.raises(ExpertError, match=r"it has no front end.*preprocessor_config\.json"):
        load_expert(IMPLEMENTATIONS[name], settings(IMPLEMENTATIONS[name], tmp_path / name))


@pytest.mark.parametrize("name", ["wavlm", "whisper", "ast", "dimensions", "mimi", "encodec", "qwen2_audio", "audio_flamingo_3"])
def test_missing_weights_are_refused(name: str, checkpoints: dict[str, Path], tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    shutil.copytree(checkpoints[name], tmp_path / name)
    path = tmp_path / name / "model.safetensors"
    weights = load_file(path)
    lost = next(key for key in sorted(weights) if ("encoder" in key or "tower" in key) and "decoder" not in key)
    del weights[lost]
    save_file(weights, path, metadata={"format": "pt"})
    with pytest.raises(ExpertError, match=r"cannot use this checkpoint.*a complete checkpoint"):
        load_expert(IMPLEMENTATIONS[name], settings(IMPLEMENTATIONS[name], tmp_path / name))


def test_a_folder_without_weights_is_refused(checkpoints: dict[str, Path], tmp_path: Path) -> None:
    for name in ("hubert", "whisper"):
        shutil.copytree(checkpoints[name], tmp_path / name)
        for path in [*(tmp_path / name).glob("*.safetensors"), *(tmp_path / name).glob("*.bin")]:
            path.unlink()
        with pytest.raises(ExpertError, match="a complete checkpoint"):
            load_expert("speech_encoder", settings("speech_encoder", tmp_path / name))


def test_only_the_tower_is_loaded(checkpoints: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    import safetensors

    read: list[str] = []

    class Spy:
        def __init__(self, *args: object, **options: object) -> None:
            self.file = original(*args, **options)

        def __enter__(self) -> Spy:
            self.inner = self.file.__enter__()
            return self

        def __exit__(self, *error: object) -> None:
            self.file.__exit__(*error)

        def keys(self) -> list[str]:
            return list(self.inner.keys())

        def get_tensor(self, name: str) -> object:
            read.append(name)
            return self.inner.get_tensor(name)

    original = safetensors.safe_open
    monkeypatch.setattr(safetensors, "safe_open", Spy)
    load_expert("lalm_tower", settings("lalm_tower", checkpoints["qwen2_audio"]))
    assert read
    assert all(name.startswith("audio_tower.") for name in read)


def test_weights_in_shards(checkpoints: dict[str, Path], tiny_expert: TinyExpert, tmp_path: Path) -> None:
    from transformers import Qwen2AudioForConditionalGeneration, WavLMModel

    for name, model_class, size in (("wavlm", WavLMModel, "40KB"), ("qwen2_audio", Qwen2AudioForConditionalGeneration, "1MB")):
        folder = tmp_path / name
        model_class.from_pretrained(checkpoints[name]).save_pretrained(folder, max_shard_size=size)
        shutil.copy(checkpoints[name] / "preprocessor_config.json", folder)
        assert len(list(folder.glob("model-*.safetensors"))) > 1
        again = load_expert(IMPLEMENTATIONS[name], settings(IMPLEMENTATIONS[name], folder))
        lengths = np.array([20011])
        np.testing.assert_array_equal(again(sound(), lengths)[0], tiny_expert(name)(sound(), lengths)[0])


def test_layers_are_checked_and_are_an_option_of_speech_encoder_only(checkpoints: dict[str, Path]) -> None:
    with pytest.raises(ExpertError, match=r"fewer hidden layers.*1 to 2"):
        load_expert("speech_encoder", settings("speech_encoder", checkpoints["hubert"], layers=(1, 3)))
    with pytest.raises(ExpertError, match=r"fewer hidden layers.*1 to 2"):
        load_expert("speech_encoder", settings("speech_encoder", checkpoints["whisper"], layers=(3,)))
    for name in ("ast", "emotion", "mimi", "qwen2_audio"):
        with pytest.raises(ExpertError, match="hidden layers cannot be chosen"):
            load_expert(IMPLEMENTATIONS[name], settings(IMPLEMENTATIONS[name], checkpoints[name], layers=(1,)))


def test_a_codec_that_is_not_causal_or_not_mono_is_refused(checkpoints: dict[str, Path], tmp_path: Path) -> None:
    from transformers import EncodecConfig, EncodecModel

    EncodecModel(EncodecConfig(num_filters=4, hidden_size=16, codebook_size=16, audio_channels=2)).save_pretrained(tmp_path / "stereo")
    with pytest.raises(ExpertError, match=r"a mono, causal codec is needed.*audio_channels 2"):
        load_expert("codec", settings("codec", tmp_path / "stereo"))
    EncodecModel(
        EncodecConfig(num_filters=4, hidden_size=16, codebook_size=16, normalize=True, chunk_length_s=1.0, overlap=0.01)
    ).save_pretrained(tmp_path / "cut")
    with pytest.raises(ExpertError, match="scales or cuts the clip"):
        load_expert("codec", settings("codec", tmp_path / "cut"))


def test_a_front_end_of_another_window_is_refused(checkpoints: dict[str, Path], tmp_path: Path) -> None:
    from transformers import WhisperFeatureExtractor

    shutil.copytree(checkpoints["whisper"], tmp_path / "whisper")
    WhisperFeatureExtractor(feature_size=80, chunk_length=5).save_pretrained(tmp_path / "whisper")
    with pytest.raises(ExpertError, match=r"do not match.*500 mel frames.*300 mel frames"):
        load_expert("speech_encoder", settings("speech_encoder", tmp_path / "whisper"))


@pytest.mark.parametrize("name", IMPLEMENTATIONS)
def test_bfloat16_is_close_and_returns_float32(name: str, checkpoints: dict[str, Path], tiny_expert: TinyExpert) -> None:
    half = load_expert(IMPLEMENTATIONS[name], settings(IMPLEMENTATIONS[name], checkpoints[name], dtype="bfloat16"))
    assert half.spec.precision == "bfloat16"
    lengths = np.array([20011])
    features, full = half(sound(), lengths)[0], tiny_expert(name)(sound(), lengths)[0]
    assert features.dtype == np.float32
    assert 0 < np.abs(features - full).max() < 0.15 * np.abs(full).max()


@pytest.mark.parametrize("name", IMPLEMENTATIONS)
def test_a_missing_gpu_is_an_error(name: str, checkpoints: dict[str, Path]) -> None:
    import torch

    if torch.cuda.is_available():
        pytest.skip("this host has a GPU")
    with pytest.raises(DeviceError, match="no such device here"):
        load_expert(IMPLEMENTATIONS[name], settings(IMPLEMENTATIONS[name], checkpoints[name], device="cuda"))


def test_an_out_of_memory_error_of_the_weights_names_the_settings_to_change(
    checkpoints: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    import torch

    def out_of_memory(*arguments: object, **options: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(torch.nn.Module, "to", out_of_memory)
    with pytest.raises(OutOfMemoryError, match=r"weights of codec do not fit.*dtype: bfloat16, or set device: cpu"):
        load_expert("codec", settings("codec", checkpoints["mimi"]))


def test_loading_draws_no_random_number(checkpoints: dict[str, Path]) -> None:
    import torch

    torch.manual_seed(7)
    expected = torch.random.get_rng_state()
    for name in ("hubert", "whisper", "ast", "mimi", "qwen2_audio"):
        load_expert(IMPLEMENTATIONS[name], settings(IMPLEMENTATIONS[name], checkpoints[name]))
    assert torch.equal(torch.random.get_rng_state(), expected)


@pytest.mark.parametrize("lengths", [[0], [20012], [1, 2]])
def test_lengths_out_of_range_are_refused(lengths: list[int], tiny_expert: TinyExpert) -> None:
    with pytest.raises(ExpertError, match="length"):
        tiny_expert("hubert")(sound(), np.array(lengths))


def test_a_release_records_its_experts() -> None:
    from coat_core.experts.base import ExpertSpec
    from coat_core.thinking.info import BaseInfo, ReleaseInfo

    spec = ExpertSpec(
        "speech_encoder", "speech", "representation", 2, 50.0, 16000, "1", "MIT", True, "a paper", ("a", "b"),
        checkpoint="owner/name", revision="a" * 40, layers=(6, 9), fitted_on="nothing", precision="bfloat16",
    )  # fmt: skip
    info = ReleaseInfo("qwen2_audio", "coat", 0, BaseInfo("base"), "f", experts={"speech": spec})
    assert ReleaseInfo.from_json(json.loads(json.dumps(info.to_json()))).experts == {"speech": spec}


def test_the_figure_of_an_answer_uses_each_experts_own_sample_rate(tiny_expert: TinyExpert, tmp_path: Path) -> None:
    from types import SimpleNamespace

    from coat_core.ask import build_stores
    from coat_core.corpus.audio import decode, write_flac

    write_flac(tmp_path / "clip.flac", sound()[0].astype(np.float64), 16000)
    experts = {name: tiny_expert(name) for name in ("mimi", "hubert")}
    release = SimpleNamespace(info=SimpleNamespace(experts={name: expert.spec for name, expert in experts.items()}))
    seen = build_stores(release, tmp_path / "clip.flac")
    for name, expert in experts.items():
        waveform = decode(tmp_path / "clip.flac", sample_rate_hz=expert.spec.sample_rate_hz)
        features, mask = seen[name].get("k")
        np.testing.assert_array_equal(features, expert(waveform[None], np.array([len(waveform)]))[0][0])
        assert mask.all()
        assert len(features) == np.ceil(20011 / 16000 * expert.spec.native_rate_hz)
