"""A local language model as judge: weights as safetensors, the chat template of its tokenizer, greedy decoding."""

from __future__ import annotations

from functools import cached_property
from pathlib import Path
from typing import Any

from coat_core.backbones.user_text import control_ids, encode_rendered, split_rendered, stand_in
from coat_core.errors import EvaluationError, OutOfMemoryError
from coat_core.evaluation.benchmarks.judges import Case
from coat_core.evaluation.benchmarks.places import HUB
from coat_core.hub import checkpoint_folder, weight_files
from coat_core.settings.base import is_commit
from coat_core.storage import read_json, sha256_file, sha256_json

JUDGEMENT_TOKENS = 512
"""Longest judgement, in tokens: an explanation and a score."""
_READ = (".safetensors", ".json", ".jinja", ".txt", ".model")
"""Suffixes of the files that decide a judgement: weights, configuration, tokenizer and template."""
_SHOWN = 16


class LocalJudge:
    """A causal language model of transformers on this machine. It is loaded for the first case, never for cached ones.

    Args:
        model: a folder, or a hub id (`owner/name`).
        revision: commit of the hub id; ignored for a folder.
        device: device of the model.
        max_new_tokens: longest judgement, in tokens.

    Raises:
        EvaluationError: no such folder, no safetensors in it, or a hub id without its commit.
    """

    def __init__(self, model: str, revision: str | None = None, *, device: str = "cpu", max_new_tokens: int = JUDGEMENT_TOKENS) -> None:
        check_local_model(model, revision)
        self._model, self._revision, self._device, self._max_new_tokens = model, revision, device, max_new_tokens
        name = _content(Path(model)) if Path(model).is_dir() else f"{model}@{revision}"
        self.identity = f"{name}, greedy, at most {max_new_tokens} tokens"
        """Name and commit, or type and digest of the files, and the decoding; neither the path nor the device."""

    def ask(self, case: Case) -> str:
        """Return the text of the judgement, without special tokens.

        Raises:
            EvaluationError: the model cannot be loaded, its tokenizer has no usable chat template, or the prompt is too long.
            CheckpointError: a hub id is not on this disk and cannot be downloaded.
            DeviceError: torch cannot use the device.
            OutOfMemoryError: the device is too small.
        """
        import torch

        from coat_core.device import explain_out_of_memory

        tokenizer, model = self._loaded
        ids = self._encode(tokenizer, case.prompt)
        limit = getattr(model.config.get_text_config(), "max_position_embeddings", None)
        if limit is not None and len(ids) + self._max_new_tokens > limit:
            raise self._error(
                f"a prompt of {len(ids)} tokens and a judgement of {self._max_new_tokens} are longer than its context",
                allowed=f"{limit} tokens", next_step="use a model with a longer context, or lower max_new_tokens of the responses",
            )  # fmt: skip
        prompt = torch.tensor([ids], device=model.device)
        with torch.inference_mode(), explain_out_of_memory(model.device, self._out_of_memory):
            written = model.generate(input_ids=prompt, attention_mask=torch.ones_like(prompt))[0, len(ids) :]
        return str(tokenizer.decode(written, skip_special_tokens=True)).strip()

    @cached_property
    def _loaded(self) -> tuple[Any, Any]:
        """The tokenizer and the model, in evaluation mode on the device."""
        import torch
        from transformers import AutoModelForCausalLM, AutoTokenizer

        from coat_core.device import check_device, explain_out_of_memory

        check_device(self._device, "device")
        folder = checkpoint_folder(self._model, self._revision, field="judge_model")
        _check_weights(folder, self._model)
        options: dict[str, Any] = {"local_files_only": True, "trust_remote_code": False}
        try:
            tokenizer = AutoTokenizer.from_pretrained(folder, **options)
            with torch.random.fork_rng(devices=[]):
                model, report = AutoModelForCausalLM.from_pretrained(
                    folder, dtype="auto", use_safetensors=True, output_loading_info=True, **options
                )
        except (OSError, KeyError, ValueError, ImportError, RuntimeError) as error:
            reason = str(error).strip().partition("\n")[0]
            raise self._error(reason, allowed="a causal language model of transformers, with its tokenizer") from error
        missing = sorted(map(str, [*report["missing_keys"], *report["mismatched_keys"]]))
        if missing:
            raise self._error(f"it lacks {len(missing)} of its weights, first {missing[0]}", allowed="a complete checkpoint")
        if not tokenizer.chat_template:
            raise self._error(
                "its tokenizer has no chat template", allowed="a model that was trained to follow instructions",
                next_step="use its instruct version; the template is in tokenizer_config.json or chat_template.jinja",
            )  # fmt: skip
        model.generation_config = _greedy(model.generation_config, tokenizer, self._max_new_tokens)
        with explain_out_of_memory(torch.device(self._device), self._out_of_memory):
            return tokenizer, model.eval().requires_grad_(False).to(self._device)

    def _encode(self, tokenizer: Any, prompt: str) -> list[int]:
        """Return the ids of a conversation with this prompt; a control token's string in it, e.g. in a response, is ordinary text."""
        rendered = _render(tokenizer, prompt)
        control = tokenizer.convert_ids_to_tokens(sorted(control_ids(tokenizer)))
        if not any(token in prompt for token in control):
            return list(tokenizer(rendered, add_special_tokens=False)["input_ids"])
        parts = split_rendered(_render(tokenizer, stand_in(prompt)), prompt)
        if parts is None:
            raise self._error("its chat template does not write the prompt exactly once", allowed="a template for conversations")
        return encode_rendered(tokenizer, *parts)

    def _out_of_memory(self, budget: int) -> OutOfMemoryError:
        return OutOfMemoryError(
            f"the judge does not fit on the device: {budget / 1e9:.1f} GB can be used", field="judge_model", value=self._model,
            next_step="stop other processes on the device, use a smaller model, or ask it at a server",
        )  # fmt: skip

    def _error(self, problem: str, *, allowed: str, next_step: str = "name another model") -> EvaluationError:
        return _unusable(self._model, problem, allowed, next_step)


def check_local_model(model: str, revision: str | None) -> None:
    """Check what can be checked before a model is needed; nothing is loaded or fetched.

    Args:
        model: a folder, or a hub id.
        revision: commit of the hub id.

    Raises:
        EvaluationError: no such folder, no safetensors in it, or a hub id without its commit.
    """
    if Path(model).is_dir():
        _check_weights(Path(model), model)
    elif HUB.fullmatch(f"{model}@{'0' * 40}") is None or model[0] == ".":
        raise _unusable(model, "no such folder, and not a valid hub id", "a folder, or owner/name", "correct the path")
    elif revision is None or not is_commit(revision):
        raise EvaluationError(
            f"the judge cannot be used: {model} is not a local folder, and a hub id needs a commit", field="judge_revision", value=revision,
            allowed="40 hexadecimal digits", next_step="copy the commit from the repository's history page (Files and versions)",
        )  # fmt: skip


def _check_weights(folder: Path, model: str) -> None:
    names = [name for name in weight_files(folder) if name.endswith(".safetensors")]
    absent = [name for name in ("config.json", *(names or ["*.safetensors"])) if not (folder / name).is_file()]
    if absent:
        raise _unusable(model, f"{absent[0]} is missing", "config.json, a tokenizer, and weights as safetensors", "complete the folder")


def _content(folder: Path) -> str:
    """Return the type of a model and a digest of its files."""
    names = sorted(path.name for path in folder.iterdir() if path.suffix in _READ and path.is_file())
    digest = sha256_json({name: sha256_file(folder / name) for name in names})
    return f"{read_json(folder / 'config.json').get('model_type')} model, SHA-256 of its files {digest[:_SHOWN]}…"


def _greedy(published: Any, tokenizer: Any, max_new_tokens: int) -> Any:
    """Return a config of greedy decoding. What changes greedy decoding is set: `generate` fills omitted fields from the published one."""
    from transformers import GenerationConfig

    listed = published.eos_token_id if isinstance(published.eos_token_id, list) else [published.eos_token_id]
    stops = sorted({int(stop) for stop in (*listed, tokenizer.eos_token_id) if stop is not None})
    pad = next((pad for pad in (published.pad_token_id, tokenizer.pad_token_id, *stops) if pad is not None), None)
    return GenerationConfig(
        do_sample=False, num_beams=1, repetition_penalty=1.0, max_new_tokens=max_new_tokens, bos_token_id=published.bos_token_id,
        eos_token_id=stops or None, pad_token_id=pad,
    )  # fmt: skip


def _render(tokenizer: Any, prompt: str) -> str:
    return str(tokenizer.apply_chat_template([{"role": "user", "content": prompt}], add_generation_prompt=True, tokenize=False))


def _unusable(model: str, problem: str, allowed: str, next_step: str) -> EvaluationError:
    return EvaluationError(f"the judge cannot be used: {problem}", field="judge_model", value=model, allowed=allowed, next_step=next_step)
