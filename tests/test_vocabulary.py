"""The tree uses the terms of the field: the private words that were replaced do not come back."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
REPLACED = {
    r"mend(s|ed|ing)?": "fix",
    r"heard|hears?|listen(s|ing|ed)?": "processed, encoded, predicted",
    r"thoughts?": "predicted features, read-out",
    r"lessons?|course|ears?": "pretraining config, dataset, audio encoder",
    r"levers?|capacity": "advice, out_of_memory",
    r"clipwise|batchwise|describing": "acoustic and neural extraction",
    r"ahead|go_on|minds?": "prefetch, language model",
    r"quiet(ly)?": "suppress_warning",
    r"cepstra": "mfcc",
    r"stretch(ed|es)?": "interpolate",
    r"plain(ly)?": "merged, stock",
    r"do(es)? not hold|holds? to": "is invalid, is met",
    r"RowsHook|row_ids|initial_rows": "trainable tokens",
}
SKIPPED = ("CHANGELOG.md", "requirements.lock", "LICENSE", "bases/", "docs/results/", "docs/images/", "tests/test_vocabulary.py")
ALLOWED = {
    # Data of the generated corpus: question texts, task names and facts, on which the shipped bases were trained.
    "coat_core/corpus/generated/families/understanding.py": {"heard", "hear"},
    "coat_core/corpus/generated/families/emotion.py": {"course"},
    "coat_core/corpus/imported/scenes.py": {"hear"},
    "coat_core/corpus/generated/wordings.py": {"heard"},
    "docs/evidence.md": {"heard"},  # a task name
    "coat_core/sizing/page.py": {"levers"},  # a key of the JSON output
}


def _files() -> list[str]:
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True).stdout.splitlines()
    return [name for name in listed if not name.startswith(SKIPPED) and not name.endswith((".png", ".safetensors"))]


def test_replaced_words_are_gone() -> None:
    pattern = re.compile("|".join(rf"(?<![A-Za-z])(?:{word})(?![A-Za-z])" for word in REPLACED), re.IGNORECASE)
    found = []
    for name in _files():
        for number, line in enumerate((ROOT / name).read_text().splitlines(), 1):
            words = {match[0].lower() for match in pattern.finditer(line)} - ALLOWED.get(name, set())
            # What a user asks a model is data, too.
            if words and not (words <= {"hear"} and "you hear" in line):
                found.append(f"{name}:{number}: {', '.join(sorted(words))}")
    assert not found, "\n".join(found)
