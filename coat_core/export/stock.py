"""Loading of an export with stock libraries only: the stock class, and the stock processor or tokenizer and feature extractor."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from coat_core.backbones.base import SAMPLE_RATE_HZ, Query
from coat_core.backbones.catalogue import suppress_config_warnings
from coat_core.backbones.mel import token_count
from coat_core.backbones.prompts import user_messages
from coat_core.errors import ReleaseError


@dataclass(frozen=True)
class FrontEnd:
    """Converts a question about a clip into the arguments of `generate`.

    Attributes:
        tokenizer: loaded by `AutoTokenizer`.
        processor: loaded by `AutoProcessor`; None if a package that it requires is not installed.
        extractor: loaded by `WhisperFeatureExtractor`; used without a processor.
        audio_token: the placeholder of audio in the text.
    """

    tokenizer: Any
    processor: Any
    extractor: Any
    audio_token: str

    def prompt(self, question: str) -> str:
        """Return the prompt that the export's chat template writes."""
        return str(
            (self.processor or self.tokenizer).apply_chat_template(user_messages(question), add_generation_prompt=True, tokenize=False)
        )

    def inputs(self, query: Query) -> dict[str, Any]:
        """Return ids, mask and mel features of one query, computed by the stock libraries, on the CPU."""
        text = self.prompt(query.text)
        if self.processor is not None:
            return dict(self.processor(text=text, audio=query.waveform, sampling_rate=SAMPLE_RATE_HZ, return_tensors="pt"))
        mel = self.extractor(
            query.waveform, sampling_rate=SAMPLE_RATE_HZ, padding="max_length", return_attention_mask=True, return_tensors="pt"
        )
        placeholders = self.audio_token * token_count(int(mel["attention_mask"].sum()))
        ids = self.tokenizer(text.replace(self.audio_token, placeholders), add_special_tokens=False, return_tensors="pt")
        return {**ids, "input_features": mel["input_features"], "feature_attention_mask": mel["attention_mask"]}


def load_front_end(folder: Path, model_class: Any, audio_token: str) -> FrontEnd:
    """Load an export's front end with the auto classes, and check that tokenizer and processor read the same template.

    A processor that also accepts images or video (that of Qwen2.5-Omni) requires torchvision. If it cannot be built, tokenizer and
    feature extractor replace it.

    Raises:
        ReleaseError: the processor of an audio-only model cannot be built, or tokenizer and processor read different templates.
    """
    from transformers import AutoProcessor, AutoTokenizer, ProcessorMixin, WhisperFeatureExtractor

    tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    try:
        processor = AutoProcessor.from_pretrained(folder, local_files_only=True)
        failure = f"AutoProcessor found a {type(processor).__name__}"
    except (ImportError, ValueError, OSError) as error:
        processor, failure = None, str(error)
    if not isinstance(processor, ProcessorMixin):
        if not {"image", "video"} & {*model_class.input_modalities}:
            raise ReleaseError(f"the export's processor cannot be built: {failure}", field="processor", value=str(folder))
        processor = None
    extractor = WhisperFeatureExtractor.from_pretrained(folder, local_files_only=True)
    front = FrontEnd(tokenizer, processor, extractor, audio_token)
    written = (folder / "chat_template.jinja").read_text(encoding="utf-8")
    for loader in filter(None, (tokenizer, processor)):
        rendered = loader.apply_chat_template(user_messages("?"), add_generation_prompt=True, tokenize=False)
        if loader.chat_template != written or rendered != front.prompt("?"):
            raise ReleaseError(
                "tokenizer and processor do not read the same chat template", field="chat_template", value=type(loader).__name__
            )
    return front


def load_stock(model_class: Any, folder: Path, *, dtype: str, device: str, adapter: Path | None = None) -> Any:
    """Load a checkpoint, and optionally a PEFT adapter onto it, with the stock classes.

    Args:
        model_class: stock transformers class.
        folder: the checkpoint.
        dtype: dtype of the weights.
        device: device of the weights.
        adapter: folder of the adapter, or None.

    Raises:
        ReleaseError: the folder lacks weights of the class, or contains other weights.
    """
    import torch

    with suppress_loading_messages():
        model, report = model_class.from_pretrained(folder, dtype=getattr(torch, dtype), output_loading_info=True, local_files_only=True)
        broken = sorted(str(name) for kind in ("missing_keys", "mismatched_keys", "unexpected_keys") for name in report[kind])
        if broken:
            raise ReleaseError(f"{len(broken)} weights of the folder do not match the stock class", field=str(folder), value=broken[:4])
        model = model.to(device)
        if adapter is not None:
            from peft import PeftModel

            with warnings.catch_warnings():
                # PEFT 0.21 uses a deprecated name of transformers 5.
                warnings.filterwarnings("ignore", message=".*is_gradient_checkpointing.*", category=FutureWarning)
                model = PeftModel.from_pretrained(model, str(adapter), torch_device=device)
    return model.eval()


@contextmanager
def suppress_loading_messages() -> Iterator[None]:
    """Suppress progress bars, and warnings about the vocabulary of Qwen2.5-Omni's default talker."""
    from transformers.utils import logging

    enabled = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        with suppress_config_warnings():
            yield
    finally:
        if enabled:
            logging.enable_progress_bar()
