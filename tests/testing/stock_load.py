"""Script: load releases with transformers and peft only, and answer. Reads jobs (JSON), prints answers (JSON)."""

import json
import sys
from pathlib import Path


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
from transformers import AutoConfig, AutoProcessor, AutoTokenizer, GenerationConfig, WhisperFeatureExtractor  # noqa: E402


def load(release):  # type: ignore[no-untyped-def]
    """Return the stock model with the adapter, loaded as usual with PEFT."""
    adapter = PeftConfig.from_pretrained(release)
    config = AutoConfig.from_pretrained(adapter.base_model_name_or_path)
    stock = getattr(transformers, adapter.auto_mapping["base_model_class"])
    base = stock.from_pretrained(adapter.base_model_name_or_path, config=getattr(config, "thinker_config", config), dtype=torch.float32)
    return PeftModel.from_pretrained(base, release).eval()


def inputs_of(release, model, waveform, messages):  # type: ignore[no-untyped-def]
    """Return the arguments of `generate` from the stock processor, or (Omni) from tokenizer and feature extractor."""
    if "Omni" not in type(model.get_base_model()).__name__:
        processor = AutoProcessor.from_pretrained(release)
        text = processor.apply_chat_template(messages, add_generation_prompt=True, tokenize=False)
        return text, dict(processor(text=text, audio=waveform, sampling_rate=16000, return_tensors="pt"))
    tokenizer, extractor = AutoTokenizer.from_pretrained(release), WhisperFeatureExtractor.from_pretrained(release)
    text = tokenizer.apply_chat_template(messages, add_generation_prompt=True, tokenize=False)
    mel = extractor(waveform, sampling_rate=16000, padding="max_length", return_attention_mask=True, return_tensors="pt")
    tokens = ((int(mel["attention_mask"].sum()) - 1) // 2 + 1 - 2) // 2 + 1
    ids = tokenizer(text.replace("<|AUDIO|>", "<|AUDIO|>" * tokens), add_special_tokens=False, return_tensors="pt")
    return text, {**ids, "input_features": mel["input_features"], "feature_attention_mask": mel["attention_mask"]}


def main() -> None:
    """Answer every job."""
    torch.set_num_threads(1)
    jobs = json.loads(Path(sys.argv[1]).read_text())
    answers = []
    for job in jobs:
        model = load(job["release"])
        greedy = GenerationConfig.from_pretrained(job["release"])
        waveform = np.load(job["waveform"])
        messages = [{"role": "user", "content": [{"type": "audio", "audio_url": "a.wav"}, {"type": "text", "text": job["text"]}]}]
        text, inputs = inputs_of(job["release"], model, waveform, messages)
        width = inputs["input_ids"].shape[1]
        with torch.no_grad():
            answer_ids = model.generate(**inputs, generation_config=greedy, max_new_tokens=12)[0, width:].tolist()
        with torch.no_grad(), model.disable_adapter():
            base_ids = model.generate(**inputs, generation_config=greedy, max_new_tokens=12)[0, width:].tolist()
        answers.append({"text": text, "input_ids": inputs["input_ids"][0].tolist(), "answer_ids": answer_ids, "base_ids": base_ids})
    print(json.dumps(answers))


main()
