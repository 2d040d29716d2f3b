from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from coat_core.backbones.catalogue import load_architecture
from coat_core.backbones.lalm import Lalm
from coat_core.corpus.examples import Example
from coat_core.errors import NonFiniteError
from coat_core.tiny_bases.dataset import TrainingItem, audio_items, text_items
from coat_core.tiny_bases.encoding import EncodedClips
from coat_core.tiny_bases.mapping import assemble, projector_of
from coat_core.tiny_bases.parts import load_encoder, load_language_model
from coat_core.tiny_bases.projector import ProjectorConfig, default_training, pretrain_projector

SHORT = ProjectorConfig(probe_steps=3, probe_batch_size=4, steps=6, batch_size=4, warmup=1, text_only_share=0.25, checkpoint_every=2)


class Killed(Exception):  # noqa: N818 - not an error
    """Stands for a kill."""


@pytest.fixture
def assembled(backbone_key: str, encoder_folder: Path, language_model_folder: Path) -> Lalm:
    return assembled_backbone(backbone_key, encoder_folder, language_model_folder)


def assembled_backbone(key: str, encoder: Path, language_model: Path) -> Lalm:
    torch.set_num_threads(1)
    parts = load_encoder(str(encoder)), load_language_model(str(language_model))
    return Lalm(load_architecture(key), *assemble(key, *parts, window_s=10, seed=3))


def encoded(backbone: Lalm, corpus: tuple[Path, list[Example]], scratch: Path | None = None) -> tuple[EncodedClips, list[TrainingItem]]:
    folder, examples = corpus
    audio, items = audio_items(examples)
    return EncodedClips(backbone, folder, audio, scratch), items


def weights_of(backbone: Lalm) -> dict[str, torch.Tensor]:
    return {name: tensor.detach().clone() for name, tensor in backbone.model.state_dict().items()}


def test_projected_stored_outputs_equal_the_embedded_audio(assembled: Lalm, corpus: tuple[Path, list[Example]]) -> None:
    from coat_core.corpus.audio import decode

    clips, _ = encoded(assembled, corpus)
    waveforms = [decode(corpus[0] / example.audio) for example in corpus[1]]
    parent, name = projector_of(assembled.model)
    with torch.no_grad():
        live = assembled.embed_audio(assembled.mel(waveforms))
        stored = [getattr(parent, name)(row) for row in clips.batch(range(8), "cpu")]
    assert clips.samples == [len(waveform) for waveform in waveforms]
    for one, other in zip(live, stored, strict=True):
        assert float((one - other).abs().max()) < 0.1 * float(one.std())
        assert float((one - one.flip(0)).abs().max()) > 0.5 * float(one.std())


def test_encoder_outputs_are_read_again(
    corpus: tuple[Path, list[Example]], encoder_folder: Path, language_model_folder: Path, tmp_path: Path
) -> None:
    backbone = assembled_backbone("qwen2_audio", encoder_folder, language_model_folder)
    (tmp_path / "scratch").mkdir()
    first, _ = encoded(backbone, corpus, tmp_path / "scratch")
    model: Any = backbone.model
    model.model.audio_tower.conv1.weight.data.zero_()
    second, _ = encoded(backbone, corpus, tmp_path / "scratch")
    assert first.samples == second.samples
    assert all(torch.equal(one, other) for one, other in zip(first.states, second.states, strict=True))


@pytest.mark.parametrize("trained", ["projector", "lora", "full"])
def test_only_the_chosen_parts_change(trained: Any, assembled: Lalm, corpus: tuple[Path, list[Example]]) -> None:
    clips, items = encoded(assembled, corpus)
    before, losses = weights_of(assembled), []
    config = ProjectorConfig(**{**vars(SHORT), "trained": trained, "steps": 12, "learning_rate": 1e-2, "question_weight": 0.0})
    pretrain_projector(assembled, clips, items, text_items(corpus[1][:2]), config, 0, report=lambda step, loss: losses.append(loss))
    after = weights_of(assembled)
    assert after.keys() == before.keys()
    changed = {name for name, tensor in after.items() if not torch.equal(tensor, before[name])}
    parent, name = projector_of(assembled.model)
    prefix = next(path for path, module in assembled.model.named_modules() if module is getattr(parent, name))
    language = {name for name in changed if name.startswith(("model.language_model.", "lm_head."))}
    assert {name for name in changed if name.startswith(f"{prefix}.")} == {path for path in after if path.startswith(f"{prefix}.")}
    assert {name for name in changed - language if not name.startswith(f"{prefix}.")} == set()
    matrices = {name for name in after if name.startswith("model.language_model.layers.") and name.endswith("_proj.weight")}
    if trained == "full":
        assert language == {path for path in after if path.startswith(("model.language_model.", "lm_head."))}
    else:
        assert language == (matrices if trained == "lora" else set())
    assert len(losses) == 15
    assert losses[-1] < losses[3]


@pytest.mark.parametrize("trained", ["lora", "full"])
@pytest.mark.parametrize("at", [1, 6])
def test_a_stopped_training_continues_with_the_same_weights(
    trained: Any, at: int, corpus: tuple[Path, list[Example]], encoder_folder: Path, language_model_folder: Path, tmp_path: Path
) -> None:
    config = ProjectorConfig(**{**vars(SHORT), "trained": trained})
    results, done = [], []
    for name in ("whole", "stopped"):
        scratch = tmp_path / name
        scratch.mkdir()

        def report(step: int, loss: float, name: str = name) -> None:
            done.append(loss)
            if name == "stopped" and len(done) == 9 + at:
                raise Killed

        for _ in range(2 if name == "stopped" else 1):
            backbone = assembled_backbone("audio_flamingo_3", encoder_folder, language_model_folder)
            clips, items = encoded(backbone, corpus, scratch)
            try:
                pretrain_projector(backbone, clips, items, text_items(corpus[1]), config, 0, scratch=scratch, report=report)
            except Killed:
                assert name == "stopped"
        results.append(weights_of(backbone))
    assert all(torch.equal(results[0][name], results[1][name]) for name in results[0])
    # 9 steps without interruption; after it, the checkpoint saves an even number of steps of the stage.
    assert len(done) == 9 + {1: 1 + 9, 6: 6 + 9 - 3 - 2}[at]


def test_a_loss_that_is_not_finite_is_refused(assembled: Lalm, corpus: tuple[Path, list[Example]]) -> None:
    clips, items = encoded(assembled, corpus)
    assembled.model.lm_head.weight.data.fill_(float("inf"))
    with pytest.raises(NonFiniteError, match="step"):
        pretrain_projector(assembled, clips, items, [], SHORT, 0)


def test_bfloat16_trains_float32_weights(corpus: tuple[Path, list[Example]], encoder_folder: Path, language_model_folder: Path) -> None:
    losses: dict[str, list[float]] = {"float32": [], "bfloat16": []}
    for precision, found in losses.items():
        backbone = assembled_backbone("qwen2_5_omni", encoder_folder, language_model_folder)
        clips, items = encoded(backbone, corpus)
        config = ProjectorConfig(**{**vars(SHORT), "precision": precision, "probe_steps": 0})
        pretrain_projector(backbone, clips, items, [], config, 0, report=lambda step, loss, found=found: found.append(loss))
        assert {parameter.dtype for parameter in backbone.model.parameters()} == {torch.float32}
    assert losses["bfloat16"] == pytest.approx(losses["float32"], rel=0.03)
    assert losses["bfloat16"] != losses["float32"]


def test_the_defaults_differ_by_language_model() -> None:
    assert default_training(None, steps=7) == ProjectorConfig(trained="full", steps=7)
    published = default_training("folder", steps=7)
    assert (published.trained, published.precision, published.question_weight, published.steps) == ("lora", "bfloat16", 0.0, 7)
