"""Linear probes on the experts' features: one per task, to test whether the audio contains the answers.

python -m benchmarks.probe --corpus data/corpus --manifest data/corpus/manifest.jsonl [--features features] [--experts NAME …]
    [--split test] [--json FILE]

The features of all experts are pooled over thirds of the clip (mean, standard deviation, 10 % and 90 % quantiles); the distance
between the means of its halves is added. A ridge classifier is fitted on the training split; the number of features and the
regularisation are chosen by cross-validation on that split. From the question, the probe gets only the words that change its meaning
("Is there a *bell*?"), as products with the audio features, so the question alone carries no information. The prediction is the
choice with the best score. A linear probe cannot transcribe: it predicts the first word and the number of words instead.
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
from coat_core.experts.catalogue import ACOUSTIC, load_expert
from coat_core.experts.store.store import ExpertStore

KEPT = (30, 150, 1_000_000)
"""Candidate numbers of features."""
RARE = 0.3
"""A word in a smaller share of a task's questions changes their meaning; a more frequent word is common phrasing."""
Features = Mapping[str, NDArray[np.float32]]


@dataclass(frozen=True)
class ProbeItem:
    """One question to a probe: clip, question, label and choices."""

    sha256: str
    question: str
    label: str
    choices: tuple[str, ...] | None


@dataclass(frozen=True)
class Row:
    """One row of the table."""

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
        """Whether the interval is above chance."""
        return self.low > self.chance


def pool(features: NDArray[np.float32], mask: NDArray[np.bool_]) -> NDArray[np.float32]:
    """Return valid frames `[T, d]` pooled over thirds (mean, deviation, two quantiles) and the distance of the halves, `[13 d]`."""
    valid = features[mask]
    thirds = [third if len(third) else valid[-1:] for third in np.array_split(valid, 3)]
    halves = [half if len(half) else valid for half in np.array_split(valid, 2)]
    parts = [np.concatenate([t.mean(0), t.std(0), *np.quantile(t, (0.1, 0.9), axis=0)]) for t in thirds]
    return np.concatenate([*parts, np.abs(halves[0].mean(0) - halves[1].mean(0))]).astype(np.float32)


def pooled(examples: Sequence[Example], corpus: Path, features: Path | None, names: Sequence[str] = ()) -> Features:
    """Return pooled features by audio hash, read from stores or computed.

    Args:
        examples: all examples.
        corpus: folder that the examples' paths are relative to.
        features: folder of expert stores; None: acoustic experts are computed.
        names: the stores, or the acoustic implementations; empty: all.
    """
    audio = {example.sha256: corpus / example.audio for example in examples}
    if features is not None:
        stores = [
            ExpertStore.open(folder) for folder in sorted(features.iterdir()) if folder.is_dir() and (not names or folder.name in names)
        ]
        return {sha256: np.concatenate([pool(*store.get(sha256)) for store in stores]) for sha256 in tqdm(audio, unit="clip")}
    experts = [load_expert(name) for name in names or ACOUSTIC]
    result = {}
    for sha256, path in tqdm(audio.items(), unit="clip"):
        waveform = decode(path)
        outputs = (expert(waveform[None], np.array([len(waveform)])) for expert in experts)
        result[sha256] = np.concatenate([pool(frames[0], mask[0]) for frames, mask in outputs])
    return result


def probe_items(example: Example, dictations: Collection[str]) -> Iterable[tuple[str, ProbeItem]]:
    """Yield task and item of each probe of an example. `dictations` are the tasks whose answers have several words."""
    if example.task not in dictations:
        yield example.task, ProbeItem(example.sha256, example.question, example.label, example.choices)
        return
    words = example.label.split()
    yield f"{example.task}: first word", ProbeItem(example.sha256, "", words[0], None)
    yield f"{example.task}: number of words", ProbeItem(example.sha256, "", str(len(words)), None)


def design(rows: Sequence[ProbeItem], x: NDArray[np.float64], vocabulary: Sequence[str]) -> NDArray[np.float64]:
    """Return standardised audio features `[n, p]` and their products with each word of the vocabulary `[n, p (1 + V)]`."""
    present = [np.array([[float(word in _words(row.question))] for row in rows]) for word in vocabulary]
    return np.concatenate([x, *(x * column for column in present)], axis=1)


def probe(train: Sequence[ProbeItem], test: Sequence[ProbeItem], x: Features) -> tuple[float, float]:
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
    varying = z.std(axis=0) > 1e-6
    z, z_test = z[:, varying], z_test[:, varying]
    models = [
        make_pipeline(SelectKBest(f_classif, k=min(k, z.shape[1])), StandardScaler(), RidgeClassifierCV(alphas=np.logspace(0, 6, 13)))
        for k in KEPT
    ]
    folds = KFold(5, shuffle=True, random_state=0)
    with warnings.catch_warnings():
        # In a fold, a feature may be constant, or a class may be missing.
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
    """Return the accuracy of a probe for every task."""
    parts: dict[tuple[str, str], dict[str, list[ProbeItem]]] = defaultdict(lambda: {"train": [], split: []})
    dictations = {e.task for e in examples if e.family == "transcription" and e.choices is None and " " in e.label}
    for example in examples:
        for task, question in probe_items(example, dictations) if example.split in ("train", split) else ():
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
    parser.add_argument("--features", type=Path, help="folder of expert stores; default: compute the features")
    parser.add_argument("--experts", nargs="*", default=[], metavar="NAME", help="stores, or acoustic implementations; default: all")
    parser.add_argument("--split", default="test", choices=("validation", "test"))
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    examples = [example for example in read_manifest(options.manifest or options.corpus / "manifest.jsonl") if example.labelled]
    with threadpool_limits(1):
        rows = table(examples, pooled(examples, options.corpus, options.features, options.experts), options.split)
    print(markdown(rows))
    if options.json:
        options.json.write_text(json.dumps({"split": options.split, "tasks": [asdict(row) for row in rows]}, indent=1) + "\n")


if __name__ == "__main__":
    main()
