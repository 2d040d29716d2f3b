"""Can the tasks of a corpus be heard? A linear probe on the experts' frames, one a task.

python benchmarks/probe.py --corpus data/corpus --manifest data/corpus/manifest.jsonl [--features features] [--split test] [--json FILE]

The frames of all experts are pooled over thirds of the clip (mean, deviation, 10 % and 90 % quantile), with the distance
between its halves. A ridge classifier is fitted on the training split; how many features it keeps and how strongly it is held
are chosen by cross-validation there. It sees the audio, and of the question only words that change what is asked ("Is there a
*bell*?"), as products with the audio: a question alone scores nothing. Among a row's choices the best-scored one is taken.
Transcription, which a linear probe cannot do, is stood in for by the first word and by the number of words.
"""

from __future__ import annotations

import argparse
import json
import math
import re
import warnings
from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits
from tqdm import tqdm

from coat_core.corpus.audio import decode
from coat_core.corpus.examples import Example, read_manifest
from coat_core.experts.catalogue import EXPERTS, load_expert
from coat_core.experts.store.store import ExpertStore

KEPT = (30, 150, 1_000_000)
"""Numbers of features that are tried."""
RARE = 0.3
"""A word in fewer of a task's questions than this changes what is asked; a more frequent one is a turn of phrase."""
Features = Mapping[str, NDArray[np.float32]]


@dataclass(frozen=True)
class Asked:
    """One probed question: which clip, what is asked, what is right."""

    sha256: str
    question: str
    label: str
    choices: tuple[str, ...] | None


@dataclass(frozen=True)
class Row:
    """One line of the table."""

    family: str
    task: str
    train: int
    n: int
    classes: int
    accuracy: float
    low: float
    high: float
    chance: float

    @property
    def clear(self) -> bool:
        """Whether the interval lies above chance."""
        return self.low > self.chance


def pool(features: NDArray[np.float32], mask: NDArray[np.bool_]) -> NDArray[np.float32]:
    """Pool valid frames `[T, d]` over three thirds (mean, deviation, two quantiles) and compare the halves, `[13 d]`."""
    valid = features[mask]
    thirds = [third if len(third) else valid[-1:] for third in np.array_split(valid, 3)]
    halves = [half if len(half) else valid for half in np.array_split(valid, 2)]
    parts = [np.concatenate([t.mean(0), t.std(0), *np.quantile(t, (0.1, 0.9), axis=0)]) for t in thirds]
    return np.concatenate([*parts, np.abs(halves[0].mean(0) - halves[1].mean(0))]).astype(np.float32)


def pooled(examples: Sequence[Example], corpus: Path, features: Path | None) -> Features:
    """Return pooled features of all experts by audio hash, read from stores or computed here."""
    audio = {example.sha256: corpus / example.audio for example in examples}
    if features is not None:
        stores = [ExpertStore.open(folder) for folder in sorted(features.iterdir()) if folder.is_dir()]
        return {sha256: np.concatenate([pool(*store.get(sha256)) for store in stores]) for sha256 in tqdm(audio, unit="clip")}
    experts = [load_expert(name) for name in EXPERTS]
    result = {}
    for sha256, path in tqdm(audio.items(), unit="clip"):
        waveform = decode(path)
        outputs = (expert(waveform[None], np.array([len(waveform)])) for expert in experts)
        result[sha256] = np.concatenate([pool(frames[0], mask[0]) for frames, mask in outputs])
    return result


def asked(example: Example, dictations: Collection[str]) -> Iterable[tuple[str, Asked]]:
    """Yield what is probed of an example: task and question. Dictations are the tasks whose answers are several words."""
    if example.task not in dictations:
        yield example.task, Asked(example.sha256, example.question, example.answer, example.choices)
        return
    words = example.answer.split()
    yield f"{example.task}: first word", Asked(example.sha256, "", words[0], None)
    yield f"{example.task}: number of words", Asked(example.sha256, "", str(len(words)), None)


def design(rows: Sequence[Asked], x: NDArray[np.float64], vocabulary: Sequence[str]) -> NDArray[np.float64]:
    """Return standardised audio features `[n, p]` and their products with each word of the vocabulary `[n, p (1 + V)]`."""
    present = [np.array([[float(word in _words(row.question))] for row in rows]) for word in vocabulary]
    return np.concatenate([x, *(x * column for column in present)], axis=1)


def probe(train: Sequence[Asked], test: Sequence[Asked], x: Features) -> tuple[float, float]:
    """Fit on the training rows; return accuracy and chance on the test rows."""
    from sklearn.feature_selection import SelectKBest, f_classif
    from sklearn.linear_model import RidgeClassifierCV
    from sklearn.model_selection import KFold, cross_val_score
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    labels = np.array([row.label for row in train])
    majority = Counter(labels.tolist()).most_common(1)[0][0]
    constant = float(np.mean([row.label == majority for row in test]))
    chance = max(constant, float(np.mean([1 / len(row.choices) if row.choices else 0.0 for row in test])))
    if len(set(labels)) < 2:
        return constant, chance
    frequency = Counter(word for row in train for word in _words(row.question))
    vocabulary = sorted(word for word, count in frequency.items() if 3 <= count < RARE * len(train))
    scaler = StandardScaler().fit(np.stack([x[row.sha256] for row in train]))
    z, z_test = (design(rows, scaler.transform(np.stack([x[row.sha256] for row in rows])), vocabulary) for rows in (train, test))
    moving = z.std(axis=0) > 1e-6
    z, z_test = z[:, moving], z_test[:, moving]
    models = [
        make_pipeline(SelectKBest(f_classif, k=min(k, z.shape[1])), StandardScaler(), RidgeClassifierCV(alphas=np.logspace(0, 6, 13)))
        for k in KEPT
    ]
    folds = KFold(5, shuffle=True, random_state=0)
    with warnings.catch_warnings():
        # A fold may hold a feature still, or lack a class.
        warnings.simplefilter("ignore")
        model = max(models, key=lambda model: float(np.mean(cross_val_score(model, z, labels, cv=folds)))).fit(z, labels)
    scores = model.decision_function(z_test)
    if scores.ndim == 1:
        scores = np.stack([-scores, scores], axis=1)
    hits = []
    for row, score in zip(test, scores, strict=True):
        allowed = [i for i, name in enumerate(model.classes_) if row.choices is None or name in row.choices]
        hits.append(bool(allowed) and model.classes_[max(allowed, key=score.__getitem__)] == row.label)
    return float(np.mean(hits)), chance


def _words(question: str) -> set[str]:
    return set(re.findall(r"\w+", question.lower()))


def wilson(share: float, n: int, z: float = 1.96) -> tuple[float, float]:
    """Return the 95 % interval of a share (Wilson 1927)."""
    centre, half = share + z * z / (2 * n), z * math.sqrt(share * (1 - share) / n + z * z / (4 * n * n))
    return (centre - half) / (1 + z * z / n), (centre + half) / (1 + z * z / n)


def table(examples: Sequence[Example], x: Features, split: str) -> list[Row]:
    """Probe every task."""
    parts: dict[tuple[str, str], dict[str, list[Asked]]] = defaultdict(lambda: {"train": [], split: []})
    dictations = {e.task for e in examples if e.family == "transcription" and e.choices is None and " " in e.answer}
    for example in examples:
        for task, question in asked(example, dictations) if example.split in ("train", split) else ():
            parts[example.family, task][example.split].append(question)
    rows = []
    for (family, task), part in tqdm(sorted(parts.items()), unit="probe"):
        train, test = part["train"], part[split]
        if len(train) < 10 or not test:
            continue
        accuracy, chance = probe(train, test, x)
        classes = len({row.label for row in train})
        rows.append(Row(family, task, len(train), len(test), classes, accuracy, *wilson(accuracy, len(test)), chance))
    return rows


def markdown(rows: Sequence[Row]) -> str:
    """Return the table as Markdown."""
    lines = [
        "| family | task | train | n | classes | accuracy | 95 % | chance | clear of chance |",
        "| --- | --- |" + " ---: |" * 6 + " --- |",
    ]
    for r in rows:
        figures = f"{r.train} | {r.n} | {r.classes} | {r.accuracy:.2f} | {r.low:.2f}-{r.high:.2f} | {r.chance:.2f}"
        lines.append(f"| {r.family} | {r.task} | {figures} | {'yes' if r.clear else '**no**'} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--corpus", type=Path, default=Path("data/corpus"))
    parser.add_argument("--manifest", type=Path, help="default: <corpus>/manifest.jsonl")
    parser.add_argument("--features", type=Path, help="folder of expert stores; computed here when left out")
    parser.add_argument("--split", default="test", choices=("validation", "test"))
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    examples = read_manifest(options.manifest or options.corpus / "manifest.jsonl")
    with threadpool_limits(1):
        rows = table(examples, pooled(examples, options.corpus, options.features), options.split)
    print(markdown(rows))
    if options.json:
        options.json.write_text(json.dumps({"split": options.split, "tasks": [asdict(row) for row in rows]}, indent=1) + "\n")


if __name__ == "__main__":
    main()
