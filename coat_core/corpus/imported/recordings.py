"""Corpus of recordings: clips of the five task families composed from a folder with an `index.csv`.

The same seed and the same recordings give the same bytes. A clip contains only recordings of one split.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from pathlib import Path

import numpy as np
from numpy.random import Generator

from coat_core.corpus.audio import SAMPLE_RATE_HZ, decode, flac_bytes, to_dbfs
from coat_core.corpus.examples import SPLITS, Example, Family, Split, write_manifest
from coat_core.corpus.imported.composition import Waveform, compose
from coat_core.corpus.imported.index import load_index
from coat_core.corpus.imported.pool import Pool
from coat_core.corpus.imported.scenes import SCENES, TASKS, Proposer, Scene
from coat_core.corpus.questions import Question, seeded_generator
from coat_core.corpus.splits import group_of, split_groups
from coat_core.corpus.unlabelled import limit_labels
from coat_core.errors import AudioError, CorpusError
from coat_core.progress import ProgressBar
from coat_core.settings import CorpusSettings
from coat_core.storage import new_folder, sha256_bytes

_PROPOSALS = 48
"""Number of scenes proposed for each clip. The one whose answers and recordings are the least frequent so far is used."""
_MARGINS_S = 1.5
"""Duration reserved for the gaps and margins of a clip of spoken words."""
_SILENT_PEAK = 1e-4
"""A recording whose peak is lower (-80 dBFS, three steps of 16 bits) is silent: only the noise of a converter."""


def import_recordings(settings: CorpusSettings, source: Path, target: Path) -> None:
    """Compose the clips of a corpus from a folder of recordings; print how many were read and which rows were set aside.

    Raises:
        CorpusError: the index is invalid, or a split lacks recordings for a task family.
        AudioError: a recording of a clip cannot be decoded.
    """
    index = load_index(source, settings.roots)
    recordings = index.recordings
    assigned = split_groups({r.group: r.stratum for r in recordings}, settings.seed)
    words_s = settings.max_duration_s - _MARGINS_S
    pools = {split: Pool([r for r in recordings if assigned[r.group] == split], lambda r: _load(r.path), words_s) for split in SPLITS}
    families = _families(pools)
    with new_folder(target) as folder:
        (folder / "audio").mkdir()
        examples: list[Example] = []
        total = len(families) * sum(settings.clips_per_family.values())
        with ProgressBar(total=total, desc="corpus", unit="clip", disable=None) as progress:
            for split in SPLITS:
                maker = _ClipMaker(pools[split], settings, split, folder)
                for family in families:
                    for turn in range(settings.clips_per_family.get(split, 0)):
                        examples += maker.make(family, turn)
                        progress.update()
        write_manifest(folder / "manifest.jsonl", limit_labels(examples, settings.labelled_clips_per_family, settings.seed))
    _load.cache_clear()
    print(index.summary(), flush=True)


@dataclass
class _ClipMaker:
    """Makes the clips of one split and counts their answers, recordings and positions of the answer."""

    pool: Pool
    settings: CorpusSettings
    split: Split
    folder: Path
    answers: dict[str, Counter[str]] = field(default_factory=lambda: defaultdict(Counter))
    used: Counter[Path] = field(default_factory=Counter)
    positions: dict[tuple[str, int], Counter[int]] = field(default_factory=lambda: defaultdict(Counter))

    def make(self, family: Family, turn: int) -> list[Example]:
        """Write the `turn`-th clip of a family and return its examples."""
        rng = seeded_generator("recordings", self.settings.seed, self.split, family, turn)
        scenes = _available(family, self.pool)
        scene = self._scene(scenes[turn % len(scenes)], rng, turn // len(scenes))
        for task in scene.tasks:
            self.answers[task].update(_classes(task, scene))
        self.used.update(part.path for part in scene.parts)
        waveform = compose([_load(part.path) for part in scene.parts], scene.layout, rng, self.settings.max_duration_s)
        data = flac_bytes(waveform, SAMPLE_RATE_HZ)
        name = f"{self.split}-{family}-{turn:04d}"
        (self.folder / "audio" / f"{name}.flac").write_bytes(data)
        digest, duration_s = sha256_bytes(data), waveform.size / SAMPLE_RATE_HZ
        return [
            self._example(
                f"{name}-{task}",
                f"audio/{name}.flac",
                digest,
                duration_s,
                family,
                scene,
                self._place_answer(TASKS[task].make_question(scene.facts, rng), rng),
            )
            for task in scene.tasks
        ]

    def _scene(self, propose: Proposer, rng: Generator, turn: int) -> Scene:
        """Return the proposal that balances the answers best; in a tie, the one whose recordings were used least."""
        proposals = [scene for scene in (propose(self.pool, rng) for _ in range(_PROPOSALS)) if scene]
        while not proposals:
            proposals = [scene for scene in [propose(self.pool, rng)] if scene]
        # A scene with more tasks than questions per clip alternates between its tasks.
        proposals = [Scene(s.parts, s.layout, _rotated(s.tasks, turn, self.settings.questions_per_clip), s.facts) for s in proposals]
        for scene in proposals:
            for task in scene.tasks:
                self.answers[task].update(dict.fromkeys(_classes(task, scene), 0))
        return min(proposals, key=lambda scene: (self._excess(scene), sum(self.used[part.path] for part in scene.parts)))

    def _excess(self, scene: Scene) -> float:
        """Return by how much the counts of a scene's answers exceed the mean counts of their tasks."""
        excess = 0.0
        for task in scene.tasks:
            counts, classes = self.answers[task], _classes(task, scene)
            mean = sum(counts.values()) / len(counts)
            excess += sum(counts[name] - mean for name in classes) / len(classes)
        return excess

    def _place_answer(self, question: Question, rng: Generator) -> Question:
        """Move the answer to its least frequent position among the choices of this task, so that no position is more likely."""
        if question.choices is None:
            return question
        others = [choice for choice in question.choices if choice != question.answer]
        counts = self.positions[question.task, len(question.choices)]
        position = min((int(index) for index in rng.permutation(len(question.choices))), key=lambda index: counts[index])
        counts[position] += 1
        return replace(question, choices=(*others[:position], question.answer, *others[position:]))

    def _example(self, name: str, audio: str, digest: str, duration_s: float, family: Family, scene: Scene, question: Question) -> Example:
        group, parts = group_of(part.group for part in scene.parts)
        return Example(
            id=name,
            audio=audio,
            sha256=digest,
            duration_s=duration_s,
            sample_rate_hz=SAMPLE_RATE_HZ,
            split=self.split,
            group=group,
            group_parts=parts,
            family=family,
            task=question.task,
            question=question.question,
            choices=question.choices,
            answer=question.answer,
            source="+".join(sorted({part.corpus for part in scene.parts})),
            licence=" and ".join(sorted({part.licence for part in scene.parts})),
        )


def _classes(task: str, scene: Scene) -> list[str]:
    """Return the classes to balance: the answer, or the number of words and each word of an open transcript."""
    answer = TASKS[task].answer(scene.facts)
    if task == "words":
        return [f"{len(scene.parts)} words", *(part.transcript for part in scene.parts)]
    return [answer]


def _rotated(tasks: Sequence[str], turn: int, count: int) -> tuple[str, ...]:
    return tuple(tasks[(turn + i) % len(tasks)] for i in range(min(count, len(tasks))))


def _families(pools: Mapping[Split, Pool]) -> list[Family]:
    """Return the families that the labels allow.

    Raises:
        CorpusError: the splits allow different families and would not be comparable.
    """
    allowed = {split: [family for family in SCENES if _available(family, pool)] for split, pool in pools.items()}
    if not allowed["train"] or any(families != allowed["train"] for families in allowed.values()):
        raise CorpusError(
            "the splits of the recordings allow different task families",
            field="index.csv",
            value=allowed,
            next_step="add recordings of other speakers or sources with the labels of the missing families",
        )
    return allowed["train"]


def _available(family: Family, pool: Pool) -> list[Proposer]:
    """Return the proposers of a family that these recordings allow."""

    def attempt(propose: Proposer) -> bool:
        rng = seeded_generator("possible", propose.__name__)
        return pool.possible(propose.__name__, lambda pool: any(propose(pool, rng) for _ in range(_PROPOSALS)))

    return [propose for propose in SCENES[family] if attempt(propose)]


@lru_cache(maxsize=384)
def _load(path: Path) -> Waveform:
    """Decode a recording. The cache is large enough for the events of one split, which are also read to find countable bursts.

    Raises:
        AudioError: the recording cannot be decoded, or it is silent: the clip would contain noise in its place.
    """
    waveform = decode(path)
    peak = float(np.abs(waveform).max())
    if peak < _SILENT_PEAK:
        raise AudioError(
            f"{path}: the recording is silent",
            field="path",
            value=f"peak {to_dbfs(peak):.1f} dBFS in the mono mix",
            allowed=f"at least {to_dbfs(_SILENT_PEAK):g} dBFS",
            next_step="replace the file, or remove its row from the index",
        )
    return waveform
