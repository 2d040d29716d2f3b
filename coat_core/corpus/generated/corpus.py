"""The generated corpus. The same seed gives the same bytes, with one process or several."""

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
from coat_core.corpus.generated.mixing import Waveform, mix_clip
from coat_core.corpus.generated.plan import ClipPlan, find_recipe, plan_clips
from coat_core.corpus.generated.speech import Synthesiser
from coat_core.corpus.questions import seeded_generator
from coat_core.corpus.unlabelled import limit_labels
from coat_core.errors import CorpusError
from coat_core.settings import CorpusSettings
from coat_core.storage import new_folder, sha256_bytes

LICENCE = "CC0-1.0"
SOURCE = "generated"
_CHUNK = 50
_PARALLEL_FROM = 200
"""One process is faster for fewer clips than this."""


def generate_corpus(
    settings: CorpusSettings, target: Path, *, purpose: str = "corpus", taught: bool = False, workers: int | None = None
) -> None:
    """Write `manifest.jsonl` and `audio/*.flac` (16 kHz mono) to a corpus folder, atomically.

    Args:
        settings: counts, seed and limits.
        target: the corpus folder. An existing folder is replaced.
        purpose: part of the seed; corpora with different purposes share no clip.
        taught: ask in the wordings that the bases are taught (`plan_clips`).
        workers: number of processes; it does not change the bytes. None: two for a large corpus if two cores are available.

    Raises:
        CorpusError: the synthesiser is not installed, or a clip does not fit the settings.
    """
    from coat_core.progress import ProgressBar

    plans = list(plan_clips(settings, purpose, taught=taught))
    chunks = [plans[start : start + _CHUNK] for start in range(0, len(plans), _CHUNK)]
    if workers is None:
        workers = min(2, len(os.sched_getaffinity(0))) if len(plans) >= _PARALLEL_FROM else 1
    with new_folder(target) as folder:
        (folder / "audio").mkdir()
        examples: list[Example] = []
        bar = ProgressBar(total=len(plans), desc=f"{purpose}: clips", unit="clip", disable=None)
        with _chunk_writer(workers, folder, chunks) as written, bar:
            for chunk, rows in zip(chunks, written, strict=True):
                examples.extend(rows)
                bar.update(len(chunk))
        _check_distinct(examples)
        write_manifest(folder / "manifest.jsonl", limit_labels(examples, settings.labelled_clips_per_family, settings.seed))


def render_clip(plan: ClipPlan, synthesiser: Synthesiser) -> Waveform:
    """Return the waveform of a planned clip `[N]` at 16 kHz, within ±0.95."""
    recipe = find_recipe(plan.family, plan.recipe)
    rng = seeded_generator(plan.seed)
    content = recipe.render(plan.facts, plan.performers, rng, synthesiser)
    return mix_clip(content, rng, max_duration_s=plan.max_duration_s, level_db=recipe.level_db, snr_db=recipe.snr_db)


def _write_clips(folder: Path, plans: Sequence[ClipPlan]) -> list[Example]:
    """Render and write clips; return their examples."""
    with Synthesiser() as synthesiser:
        return [example for plan in plans for example in _write_clip(folder, plan, synthesiser)]


def _write_clip(folder: Path, plan: ClipPlan, synthesiser: Synthesiser) -> list[Example]:
    waveform = render_clip(plan, synthesiser)
    data = flac_bytes(waveform, SAMPLE_RATE_HZ)
    # The folder is renamed when it is complete, so its files need no atomic write.
    (folder / plan.audio).write_bytes(data)
    digest = sha256_bytes(data)
    return [
        Example(
            id=f"{plan.split}-{plan.family}-{plan.index:04d}-{question.task}",
            audio=plan.audio,
            sha256=digest,
            duration_s=waveform.size / SAMPLE_RATE_HZ,
            sample_rate_hz=SAMPLE_RATE_HZ,
            split=plan.split,
            group=plan.performers.group,
            family=plan.family,
            task=question.task,
            question=question.question,
            choices=question.choices,
            answer=question.answer,
            source=SOURCE,
            licence=LICENCE,
        )
        for question in plan.questions
    ]


def _check_distinct(examples: Sequence[Example]) -> None:
    """Refuse a corpus with two equal clips: the same audio could be in two splits."""
    clips: dict[str, str] = {}
    for example in examples:
        if clips.setdefault(example.sha256, example.audio) != example.audio:
            message = f"{example.audio} and {clips[example.sha256]} have the same audio"
            raise CorpusError(message, field="corpus.seed", next_step="choose another seed")


@contextmanager
def _chunk_writer(workers: int, folder: Path, chunks: Sequence[Sequence[ClipPlan]]) -> Iterator[Iterator[list[Example]]]:
    """Yield an iterator over the examples of each chunk, in order, written by this process or by a pool."""
    if workers <= 1:
        yield (_write_clips(folder, chunk) for chunk in chunks)
        return
    # spawn, because the caller may have threads and fork is unsafe with threads.
    context = multiprocessing.get_context("spawn")
    pool = ProcessPoolExecutor(workers, mp_context=context, initializer=_exit_with_parent)
    try:
        yield pool.map(_write_clips, [folder] * len(chunks), chunks)
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def _exit_with_parent() -> None:
    """Exit this worker when its parent has exited. Without this a worker of a killed parent would wait for work forever.

    Ctrl-C is sent to the whole process group; only the parent handles it.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    parent = multiprocessing.parent_process()
    assert parent is not None

    def watch() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
