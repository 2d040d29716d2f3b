"""The generated corpus: every clip follows from the seed, so the same seed gives the same bytes, serially or in parallel."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from pathlib import Path

from coat_core.corpus.audio import SAMPLE_RATE_HZ, flac_bytes
from coat_core.corpus.examples import Example, write_manifest
from coat_core.corpus.generated.plan import ClipPlan, find_recipe, plan_clips
from coat_core.corpus.generated.scenes import Waveform, scene
from coat_core.corpus.generated.speech import Synthesiser
from coat_core.corpus.questions import generator
from coat_core.errors import CorpusError
from coat_core.settings import CorpusSettings
from coat_core.storage import new_folder, sha256_bytes

LICENCE = "CC0-1.0"
SOURCE = "generated"
_CHUNK = 50
_PARALLEL_FROM = 200
"""Fewer clips than this are made faster by one process."""


def generate_corpus(settings: CorpusSettings, target: Path, *, purpose: str = "corpus", workers: int | None = None) -> None:
    """Write `manifest.jsonl` and `audio/*.flac` (16 kHz mono) into a new folder, whole or not at all.

    Args:
        settings: counts, seed and limits.
        target: the corpus folder; what stands there is replaced.
        purpose: keeps corpora apart that share a seed.
        workers: processes; the bytes do not depend on it. None: two where the corpus is large and two cores are free.

    Raises:
        CorpusError: the synthesiser is not installed, or a setting leaves no room for a clip.
    """
    from tqdm import tqdm

    plans = list(plan_clips(settings, purpose))
    chunks = [plans[start : start + _CHUNK] for start in range(0, len(plans), _CHUNK)]
    if workers is None:
        workers = min(2, len(os.sched_getaffinity(0))) if len(plans) >= _PARALLEL_FROM else 1
    with new_folder(target) as folder:
        (folder / "audio").mkdir()
        examples: list[Example] = []
        bar = tqdm(total=len(plans), desc=f"{purpose}: clips", unit="clip", disable=None)
        with _writers(workers, folder, chunks) as done, bar:
            for chunk, rows in zip(chunks, done, strict=True):
                examples.extend(rows)
                bar.update(len(chunk))
        _check_apart(examples)
        write_manifest(folder / "manifest.jsonl", examples)


def render_clip(plan: ClipPlan, synthesiser: Synthesiser) -> Waveform:
    """Return a planned clip `[N]` at 16 kHz, within ±0.95."""
    recipe = find_recipe(plan.family, plan.recipe)
    rng = generator(plan.seed)
    content = recipe.render(plan.facts, plan.cast, rng, synthesiser)
    return scene(content, rng, max_duration_s=plan.max_duration_s, level_db=recipe.level_db, snr_db=recipe.snr_db)


def _write_clips(folder: Path, plans: Sequence[ClipPlan]) -> list[Example]:
    """Render and write some clips; return their manifest rows."""
    with Synthesiser() as synthesiser:
        return [example for plan in plans for example in _write_clip(folder, plan, synthesiser)]


def _write_clip(folder: Path, plan: ClipPlan, synthesiser: Synthesiser) -> list[Example]:
    waveform = render_clip(plan, synthesiser)
    data = flac_bytes(waveform, SAMPLE_RATE_HZ)
    # The folder appears only when it is whole, so the files in it need no care of their own.
    (folder / plan.audio).write_bytes(data)
    digest = sha256_bytes(data)
    return [
        Example(
            id=f"{plan.split}-{plan.family}-{plan.index:04d}-{asked.task}",
            audio=plan.audio,
            sha256=digest,
            duration_s=waveform.size / SAMPLE_RATE_HZ,
            sample_rate_hz=SAMPLE_RATE_HZ,
            split=plan.split,
            group=plan.cast.group,
            family=plan.family,
            task=asked.task,
            question=asked.question,
            choices=asked.choices,
            answer=asked.answer,
            source=SOURCE,
            licence=LICENCE,
        )
        for asked in plan.asked
    ]


def _check_apart(examples: Sequence[Example]) -> None:
    """Refuse a corpus in which two clips came out alike: the same sound would then stand in two splits."""
    clips: dict[str, str] = {}
    for example in examples:
        if clips.setdefault(example.sha256, example.audio) != example.audio:
            message = f"{example.audio} and {clips[example.sha256]} are the same sound"
            raise CorpusError(message, field="corpus.seed", next_step="choose another seed")


@contextmanager
def _writers(workers: int, folder: Path, chunks: Sequence[Sequence[ClipPlan]]) -> Iterator[Iterator[list[Example]]]:
    """Give the rows of each chunk in order, from this process or from a pool."""
    if workers <= 1:
        yield (_write_clips(folder, chunk) for chunk in chunks)
        return
    # Spawned, not forked: the caller may hold threads.
    context = multiprocessing.get_context("spawn")
    pool = ProcessPoolExecutor(workers, mp_context=context, initializer=_end_with_parent)
    try:
        yield pool.map(_write_clips, [folder] * len(chunks), chunks)
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def _end_with_parent() -> None:
    """End this worker when its parent is gone: a killed parent cannot tell it, and it would wait for work for ever.

    Ctrl-C reaches the whole group, and is the parent's to handle.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    parent = multiprocessing.parent_process()
    assert parent is not None

    def watch() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
