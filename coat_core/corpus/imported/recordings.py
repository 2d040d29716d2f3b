"""Real recordings as a corpus: the five task families composed from a folder with an `index.csv`.

The same seed and the same recordings give the same bytes. A clip joins only recordings of one split.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from pathlib import Path

from numpy.random import Generator
from tqdm import tqdm

from coat_core.corpus.audio import SAMPLE_RATE_HZ, decode, flac_bytes
from coat_core.corpus.examples import SPLITS, Example, Family, Split, write_manifest
from coat_core.corpus.imported.composition import Waveform, compose
from coat_core.corpus.imported.index import read_index
from coat_core.corpus.imported.manifests import import_audiofolder, import_manifest
from coat_core.corpus.imported.pool import Pool
from coat_core.corpus.imported.scenes import SCENES, TASKS, Proposer, Scene
from coat_core.corpus.questions import Asked, generator
from coat_core.corpus.splits import join_groups, split_groups
from coat_core.errors import CorpusError
from coat_core.settings import CorpusSettings
from coat_core.storage import new_folder, sha256_bytes

_PROPOSALS = 48
"""Scenes proposed for each clip; the one whose answers and recordings were used least is made."""
_MARGINS_S = 1.5
"""Kept free for the gaps and margins of a clip of spoken words."""


def import_corpus(settings: CorpusSettings, source: Path, target: Path) -> None:
    """Make `target/manifest.jsonl` and `target/audio` of existing audio.

    Args:
        settings: kind, seed, clip counts and the longest clip.
        source: the folder of recordings, the manifest file or the audio folder.
        target: written whole or not at all.

    Raises:
        CorpusError: the source cannot be used; the message names the row.
        AudioError: a recording that is to be composed does not decode.
    """
    if settings.kind == "manifest":
        return import_manifest(settings, source, target)
    if settings.kind == "audiofolder":
        return import_audiofolder(settings, source, target)
    if settings.kind != "recordings":
        raise CorpusError(
            "this kind of corpus is not imported", field="corpus.kind", value=settings.kind, allowed="recordings, manifest, audiofolder"
        )
    recordings = read_index(source)
    dealt = split_groups({r.group: r.stratum for r in recordings}, settings.seed)
    words_s = settings.max_duration_s - _MARGINS_S
    pools = {split: Pool([r for r in recordings if dealt[r.group] == split], lambda r: _load(r.path), words_s) for split in SPLITS}
    families = _families(pools)
    with new_folder(target) as folder:
        (folder / "audio").mkdir()
        examples: list[Example] = []
        total = len(families) * sum(settings.clips_per_family.values())
        with tqdm(total=total, desc="corpus", unit="clip", disable=None) as progress:
            for split in SPLITS:
                maker = _Maker(pools[split], settings, split, folder)
                for family in families:
                    for turn in range(settings.clips_per_family.get(split, 0)):
                        examples += maker.make(family, turn)
                        progress.update()
        write_manifest(folder / "manifest.jsonl", examples)
    _load.cache_clear()
    return None


@dataclass
class _Maker:
    """Makes the clips of one split, and keeps count of what was asked and used."""

    pool: Pool
    settings: CorpusSettings
    split: Split
    folder: Path
    asked: dict[str, Counter[str]] = field(default_factory=lambda: defaultdict(Counter))
    used: Counter[Path] = field(default_factory=Counter)
    places: dict[tuple[str, int], Counter[int]] = field(default_factory=lambda: defaultdict(Counter))

    def make(self, family: Family, turn: int) -> list[Example]:
        """Write the `turn`-th clip of a family and return its questions."""
        rng = generator("recordings", self.settings.seed, self.split, family, turn)
        scenes = _available(family, self.pool)
        scene = self._scene(scenes[turn % len(scenes)], rng, turn // len(scenes))
        for task in scene.tasks:
            self.asked[task].update(_classes(task, scene))
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
                self._placed(TASKS[task].ask(scene.facts, rng), rng),
            )
            for task in scene.tasks
        ]

    def _scene(self, propose: Proposer, rng: Generator, turn: int) -> Scene:
        """Propose often and return what evens out the answers best, then the use of recordings."""
        proposals = [scene for scene in (propose(self.pool, rng) for _ in range(_PROPOSALS)) if scene]
        while not proposals:
            proposals = [scene for scene in [propose(self.pool, rng)] if scene]
        # Scenes with more tasks than are asked take turns over them.
        proposals = [Scene(s.parts, s.layout, _rotated(s.tasks, turn, self.settings.questions_per_clip), s.facts) for s in proposals]
        for scene in proposals:
            for task in scene.tasks:
                self.asked[task].update(dict.fromkeys(_classes(task, scene), 0))
        return min(proposals, key=lambda scene: (self._excess(scene), sum(self.used[part.path] for part in scene.parts)))

    def _excess(self, scene: Scene) -> float:
        """How far the classes of a scene's answers are already over the mean of their tasks."""
        excess = 0.0
        for task in scene.tasks:
            counts, classes = self.asked[task], _classes(task, scene)
            mean = sum(counts.values()) / len(counts)
            excess += sum(counts[name] - mean for name in classes) / len(classes)
        return excess

    def _placed(self, asked: Asked, rng: Generator) -> Asked:
        """Put the right choice where it stood least often for this task, so that no place is a good guess in a small split."""
        if asked.choices is None:
            return asked
        others = [choice for choice in asked.choices if choice != asked.answer]
        counts = self.places[asked.task, len(asked.choices)]
        place = min((int(place) for place in rng.permutation(len(asked.choices))), key=lambda place: counts[place])
        counts[place] += 1
        return replace(asked, choices=(*others[:place], asked.answer, *others[place:]))

    def _example(self, name: str, audio: str, digest: str, duration_s: float, family: Family, scene: Scene, asked: Asked) -> Example:
        return Example(
            id=name,
            audio=audio,
            sha256=digest,
            duration_s=duration_s,
            sample_rate_hz=SAMPLE_RATE_HZ,
            split=self.split,
            group=join_groups(part.group for part in scene.parts),
            family=family,
            task=asked.task,
            question=asked.question,
            choices=asked.choices,
            answer=asked.answer,
            source="+".join(sorted({part.corpus for part in scene.parts})),
            licence=" and ".join(sorted({part.licence for part in scene.parts})),
        )


def _classes(task: str, scene: Scene) -> list[str]:
    """Return what is to be evened out: the answer, or for open transcripts their length and each word."""
    answer = TASKS[task].answer(scene.facts)
    if task == "words":
        return [f"{len(scene.parts)} words", *(part.transcript for part in scene.parts)]
    return [answer]


def _rotated(tasks: Sequence[str], turn: int, count: int) -> tuple[str, ...]:
    return tuple(tasks[(turn + i) % len(tasks)] for i in range(min(count, len(tasks))))


def _families(pools: Mapping[Split, Pool]) -> list[Family]:
    """Return the families that the labels allow; one that only some splits allow is an error, for the splits would not compare."""
    allowed = {split: [family for family in SCENES if _available(family, pool)] for split, pool in pools.items()}
    if not allowed["train"] or any(families != allowed["train"] for families in allowed.values()):
        raise CorpusError(
            "the recordings do not serve the same task families in every split",
            field="index.csv",
            value=allowed,
            next_step="add recordings with these labels by other speakers or sources",
        )
    return allowed["train"]


def _available(family: Family, pool: Pool) -> list[Proposer]:
    """Return the scenes of a family that these recordings allow."""

    def attempt(propose: Proposer) -> bool:
        rng = generator("possible", propose.__name__)
        return pool.possible(propose.__name__, lambda pool: any(propose(pool, rng) for _ in range(_PROPOSALS)))

    return [propose for propose in SCENES[family] if attempt(propose)]


@lru_cache(maxsize=384)
def _load(path: Path) -> Waveform:
    """Decode a recording; the cache holds the recordings of one split's events, so that finding what can be counted costs one decode."""
    return decode(path)
