from __future__ import annotations

from pathlib import Path

import pytest
import torch

from coat_core.backbones.base import Query
from coat_core.backbones.catalogue import load_backbone
from coat_core.corpus.audio import decode
from coat_core.corpus.examples import Example, read_manifest
from coat_core.corpus.generated.corpus import generate_corpus
from coat_core.settings import CorpusSettings, load_settings
from coat_core.tiny_bases.build import planned_texts
from coat_core.tiny_bases.config import TINY

ROOT = Path(__file__).parents[2]
EASY_TASKS = ("sound", "register", "direction", "instrument", "arousal")


@pytest.fixture(scope="module")
def unseen(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[Example]]:
    """A corpus that is in no training data and in no other test."""
    folder = tmp_path_factory.mktemp("unseen") / "corpus"
    settings = CorpusSettings(seed=20261123, clips_per_family={"validation": 24})
    generate_corpus(settings, folder, purpose="shipped-bases", taught=True, workers=1)
    return folder, read_manifest(folder / "manifest.jsonl")


def test_a_shipped_base_is_small_and_complete(backbone_key: str) -> None:
    folder = ROOT / "bases" / backbone_key
    assert sum(path.stat().st_size for path in folder.iterdir()) <= 4_000_000
    assert {path.suffix for path in folder.iterdir()} == {".json", ".jinja", ".safetensors"}
    backbone = load_backbone(backbone_key, str(folder))
    assert backbone.embedding.num_embeddings - len(backbone.tokenizer) == TINY[backbone_key].spare_rows


def test_its_vocabulary_covers_the_training_split(backbone_key: str) -> None:
    tokenizer = load_backbone(backbone_key, str(ROOT / "bases" / backbone_key)).tokenizer
    words = {word for text in planned_texts(load_settings(ROOT / "params.yaml").corpus) for word in text.split()}
    long = {word: len(ids) for word in sorted(words) if len(ids := tokenizer(f" {word}", add_special_tokens=False)["input_ids"]) > 3}
    assert not long


@pytest.mark.slow
def test_a_shipped_base_is_above_chance_on_easy_tasks_and_below_ceiling(backbone_key: str, unseen: tuple[Path, list[Example]]) -> None:
    folder, examples = unseen
    backbone = load_backbone(backbone_key, str(ROOT / "bases" / backbone_key))
    right: dict[str, bool] = {}
    for start in range(0, len(examples), 32):
        rows = examples[start : start + 32]
        batch = backbone.encode([Query(row.sha256, decode(folder / row.audio), row.prompt) for row in rows], generation=True)
        with torch.no_grad():
            ids = backbone.model.generate(**backbone.generation_inputs(batch), max_new_tokens=12, do_sample=False)
        texts = backbone.tokenizer.batch_decode(ids[:, batch.input_ids.shape[1] :], skip_special_tokens=True)
        right |= {row.id: text.strip() == row.answer for row, text in zip(rows, texts, strict=True)}
    easy = [row for row in examples if row.task in EASY_TASKS]
    chance = sum(1 / len(row.choices or "?") for row in easy) / len(easy)
    assert sum(right[row.id] for row in easy) / len(easy) > chance + 0.2
    assert sum(right.values()) / len(right) < 0.75
