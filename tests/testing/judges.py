"""Judges of tests: one that answers known texts, and a tiny language model, a random Llama whose tokenizer has a chat template."""

from __future__ import annotations

import json
from pathlib import Path

from safetensors.torch import load_file, save_file

from coat_core.evaluation.benchmarks.judges import Case
from tests.testing.published_parts import write_language_model

TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message.role }}\n{{ message.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


class Told:
    """A judge that answers what it is told, and keeps the prompts."""

    identity = "told"

    def __init__(self, *texts: str) -> None:
        self.texts, self.prompts = list(texts), list[str]()

    def ask(self, case: Case) -> str:
        self.prompts.append(case.prompt)
        return self.texts[(len(self.prompts) - 1) % len(self.texts)]


def write_judge(folder: Path) -> Path:
    """Write the model, with a published generation config that samples and has a repetition penalty."""
    from transformers import AutoTokenizer

    write_language_model(folder, tie_word_embeddings=False)
    weights = load_file(folder / "model.safetensors")
    # Without this, random layers repeat one token whatever the prompt is.
    weights["model.embed_tokens.weight"] *= 10
    # Single bytes that are no text would all be shown as the same character.
    tokenizer = AutoTokenizer.from_pretrained(folder)
    for token in range(len(tokenizer)):
        if not tokenizer.decode([token]).isascii():
            weights["lm_head.weight"][token] = 0
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    (folder / "chat_template.jinja").write_text(TEMPLATE)
    path = folder / "generation_config.json"
    sampling = {"do_sample": True, "temperature": 0.7, "top_p": 0.8, "repetition_penalty": 3.0}
    path.write_text(json.dumps({**json.loads(path.read_text()), **sampling}))
    return folder
