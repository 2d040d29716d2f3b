"""Script: load exports with transformers and peft only, and answer. Reads jobs (JSON), prints answers (JSON)."""

import json
import os
import sys
from pathlib import Path

os.environ["HF_HUB_OFFLINE"] = "1"


class _NoCoat:
    """Makes any import of our package fail."""

    def find_spec(self, name, path=None, target=None):  # type: ignore[no-untyped-def]
        if name.partition(".")[0] == "coat_core":
            raise ImportError("coat_core is not available here")


sys.meta_path.insert(0, _NoCoat())  # type: ignore[arg-type]
try:
    import coat_core  # noqa: F401
except ImportError:
    pass
else:
    sys.exit("coat_core can be imported here")

import numpy as np  # noqa: E402
import torch  # noqa: E402
import transformers  # noqa: E402
from peft import PeftConfig, PeftModel  # noqa: E402
from transformers import AutoProcessor, AutoTokenizer, WhisperFeatureExtractor  # noqa: E402


def load(folder, record):  # type: ignore[no-untyped-def]
    """Return the model, loaded as in the export's README; in float32."""
    stock = getattr(transformers, record["class"])
    if record["kind"] == "merged":
        return stock.from_pretrained(folder, dtype=torch.float32)
    config = PeftConfig.from_pretrained(folder)
    base = stock.from_pretrained(config.base_model_name_or_path, revision=config.revision, dtype=torch.float32)
    return PeftModel.from_pretrained(base, folder)


def inputs_of(folder, record, waveform, messages):  # type: ignore[no-untyped-def]
    """Return the arguments of `generate` from the stock processor, or (Omni) from tokenizer and feature extractor."""
    if "Omni" not in record["class"]:
        processor = AutoProcessor.from_pretrained(folder)
        text = processor.apply_chat_template(messages, add_generation_prompt=True, tokenize=False)
        return text, dict(processor(text=text, audio=waveform, sampling_rate=16000, return_tensors="pt"))
    tokenizer, extractor = AutoTokenizer.from_pretrained(folder), WhisperFeatureExtractor.from_pretrained(folder)
    text = tokenizer.apply_chat_template(messages, add_generation_prompt=True, tokenize=False)
    mel = extractor(waveform, sampling_rate=16000, padding="max_length", return_attention_mask=True, return_tensors="pt")
    tokens = ((int(mel["attention_mask"].sum()) - 1) // 2 + 1 - 2) // 2 + 1
    ids = tokenizer(text.replace("<|AUDIO|>", "<|AUDIO|>" * tokens), add_special_tokens=False, return_tensors="pt")
    return text, {**ids, "input_features": mel["input_features"], "feature_attention_mask": mel["attention_mask"]}


def main() -> None:
    """Answer every job."""
    torch.set_num_threads(1)
    answers = []
    for job in json.loads(Path(sys.argv[1]).read_text()):
        folder = job["folder"]
        record = json.loads((Path(folder) / "export.json").read_text())
        model = load(folder, record).eval()
        messages = [{"role": "user", "content": [{"type": "audio", "audio_url": "a.wav"}, {"type": "text", "text": job["text"]}]}]
        text, inputs = inputs_of(folder, record, np.load(job["waveform"]), messages)
        with torch.no_grad():
            arguments = {"max_new_tokens": 12}
            if record["kind"] == "adapter":
                arguments = {"generation_config": transformers.GenerationConfig.from_pretrained(folder, max_new_tokens=12)}
            answer_ids = model.generate(**inputs, **arguments)[0, inputs["input_ids"].shape[1] :].tolist()
        answers.append({"text": text, "input_ids": inputs["input_ids"][0].tolist(), "answer_ids": answer_ids})
    print(json.dumps(answers))


main()
