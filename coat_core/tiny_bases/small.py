"""Small bases with a real audio encoder: `coat bases --encoder … [--language-model …] --to DIR`."""

from __future__ import annotations

import shutil
from collections.abc import Collection, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch

from coat_core.backbones.catalogue import load_architecture
from coat_core.backbones.lalm import Lalm
from coat_core.corpus.examples import Example
from coat_core.errors import BackboneError
from coat_core.settings import CorpusSettings
from coat_core.storage import sha256_json, write_text
from coat_core.tiny_bases.build import planned_texts, recorded_examples, training_examples
from coat_core.tiny_bases.config import save_base
from coat_core.tiny_bases.dataset import audio_items, text_items, texts_of
from coat_core.tiny_bases.encoding import EncodedClips
from coat_core.tiny_bases.mapping import assemble
from coat_core.tiny_bases.parts import LanguageModelPart, language_model_part, load_encoder, load_language_model, source_digest
from coat_core.tiny_bases.projector import ProjectorConfig, pretrain_projector
from coat_core.tiny_bases.tokenizer import make_tokenizer

_SIZES = {
    "hidden_size": 256, "intermediate_size": 640, "num_hidden_layers": 6, "num_attention_heads": 4, "num_key_value_heads": 2,
    "max_position_embeddings": 2048, "rms_norm_eps": 1e-6, "tie_word_embeddings": False,
}  # fmt: skip
"""The language model of a base that is built without a published one."""
_TEXT_ONLY_CLIPS = 80


@dataclass(frozen=True)
class SmallBaseOptions:
    """How the small bases are made.

    Attributes:
        encoder: a folder with a Whisper encoder, or a hub id with its commit.
        language_model: likewise a language model; None: a small one is trained from random weights.
        window_s: window of the audio tower in seconds.
        clips_per_family: generated training clips of each family.
        recording_clips: composed training clips of the recordings per family, of groups in the training split and beyond those of the
            corpus; 0: the recordings are used as text only.
        device: device of the training.
        dtype: dtype of the saved weights; float32 keeps the weights of the parts exactly.
        training: steps, batch size and learning rate.
    """

    encoder: str
    language_model: str | None = None
    window_s: int = 10
    clips_per_family: int = 600
    recording_clips: int = 0
    device: str = "cpu"
    dtype: str = "float32"
    training: ProjectorConfig = field(default_factory=ProjectorConfig)


def build_small_bases(
    keys: Sequence[str],
    target_root: Path,
    generated: CorpusSettings,
    options: SmallBaseOptions,
    *,
    recordings: Path | None = None,
    avoid: Collection[str] = (),
) -> None:
    """Build `target_root/<key>` for each key. An interrupted build continues from `target_root/.scratch`, which is removed at the end.

    The projector is trained on the audio of a separate generated corpus (`purpose="small-bases"`) and, if asked for, on further clips
    of the recordings' training groups. Of all other recordings only the questions of the training split are used, as text with random
    answers, so that the base knows the form of an answer.

    Args:
        keys: keys of the backbones.
        target_root: the folder of the bases.
        generated: settings of the corpus that the bases are made for: seed, limits and counts.
        options: the parts and the training.
        recordings: the folder of real recordings; None: no recordings.
        avoid: SHA-256 of audio that must not be in the training data of a base (the audio of every split).

    Raises:
        BackboneError: a key is unknown, a base exists already, a part does not fit, or the training audio contains audio of `avoid`.
        CheckpointError: a part is not on this disk and cannot be downloaded.
        NonFiniteError: training diverged.
    """
    for key in keys:
        load_architecture(key)
    if options.recording_clips and recordings is None:
        message = "training on recordings needs their folder"
        raise BackboneError(message, field="recording_clips", value=options.recording_clips, next_step="add --recordings FOLDER")
    encoder = load_encoder(options.encoder)
    published = load_language_model(options.language_model) if options.language_model else None
    digests = [source_digest(source) for source in (options.encoder, options.language_model) if source]
    plan = [digests, asdict(options), generated.model_dump(mode="json"), str(recordings), sorted(avoid)]
    scratch = target_root / ".scratch" / sha256_json(plan)[:16]
    existing = [key for key in keys if (target_root / key).exists() and not (scratch / f"{key}.done").exists()]
    if existing:
        message = "a base is there already, and releases of it would change"
        raise BackboneError(
            message, field="to", value=str(target_root / existing[0]), next_step="choose another folder, or remove it first"
        )
    scratch.mkdir(parents=True, exist_ok=True)
    corpora = _training_corpora(generated, options, recordings, scratch, avoid)
    text_only = recorded_examples(generated, recordings, scratch / "text", _TEXT_ONLY_CLIPS) if recordings else []
    examples = [example.model_copy(update={"audio": f"{name}/{example.audio}"}) for name, rows in corpora.items() for example in rows]
    threads = torch.get_num_threads()
    # The number of threads changes the order of sums, and with it the weights.
    torch.set_num_threads(1)
    try:
        language_model = published or new_language_model([*planned_texts(generated), *texts_of([*examples, *text_only])], generated.seed)
        for key in keys:
            if (done := scratch / f"{key}.done").exists() and (target_root / key).is_dir():
                continue
            model, tokenizer, extractor = assemble(key, encoder, language_model, window_s=options.window_s, seed=generated.seed)
            backbone = Lalm(load_architecture(key), model.to(options.device), tokenizer, extractor)
            audio, items = audio_items(examples)
            (scratch / key).mkdir(exist_ok=True)
            clips = EncodedClips(backbone, scratch, audio, scratch / key, options.training.precision)
            pretrain_projector(
                backbone, clips, items, text_items(text_only), options.training, generated.seed, scratch=scratch / key
            )  # fmt: skip
            save_base(key, model.to("cpu"), tokenizer, extractor, target_root / key, options.dtype)
            write_text(done, "")
            shutil.rmtree(scratch / key)
    finally:
        torch.set_num_threads(threads)
    shutil.rmtree(scratch)
    if not any((target_root / ".scratch").iterdir()):
        (target_root / ".scratch").rmdir()


def new_language_model(texts: Sequence[str], seed: int) -> LanguageModelPart:
    """Return a small Qwen2 with random weights and a byte-level tokenizer trained on `texts`."""
    from transformers import Qwen2Config, Qwen2ForCausalLM

    tokenizer = make_tokenizer(texts, ("<|endoftext|>", "<|im_start|>", "<|im_end|>"), {})
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model: Any = Qwen2ForCausalLM(Qwen2Config(vocab_size=len(tokenizer), **_SIZES))
    return language_model_part(model, tokenizer)


def _training_corpora(
    generated: CorpusSettings, options: SmallBaseOptions, recordings: Path | None, scratch: Path, avoid: Collection[str]
) -> dict[str, list[Example]]:
    """Return the training examples with audio, by the name of their corpus folder in `scratch`."""
    corpora = {"generated": training_examples(generated, scratch / "generated", options.clips_per_family, "small-bases", avoid)}
    if recordings is not None and options.recording_clips:
        first = generated.clips_per_family.get("train", 0)
        rows = recorded_examples(generated, recordings, scratch / "recordings", first + options.recording_clips)
        # A longer corpus begins with the clips of a shorter one, so the corpus of the same settings has the first clips of each family.
        corpora["recordings"] = [row for row in rows if _turn(row) >= first and row.sha256 not in avoid]
    return corpora


def _turn(example: Example) -> int:
    return int(Path(example.audio).stem.rsplit("-", 1)[-1])
