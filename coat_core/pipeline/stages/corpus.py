"""Stage `corpus`: make the audio question answering corpus."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from coat_core.pipeline.runner import StageRun


def run(job: StageRun) -> None:
    """Generate the corpus, or import it from recordings, a manifest or an audio folder."""
    target, settings = job.out("data/corpus"), job.settings.corpus
    if settings.kind == "generated":
        from coat_core.corpus.generated.corpus import generate_corpus

        generate_corpus(settings, target)
    else:
        from coat_core.corpus.imported.corpus import import_corpus

        assert settings.path is not None
        import_corpus(settings, _bucket_copy(job) if settings.in_bucket else job.path(settings.path), target)


def _bucket_copy(job: StageRun) -> Path:
    """Return the local copy of a source in a bucket. Its cache is shared by all keys of the stage."""
    from coat_core.corpus.imported.bucket import SNAPSHOT, local_copy

    settings = job.settings.corpus
    assert settings.path is not None
    return local_copy(settings.kind, settings.path, job.path(SNAPSHOT), job.scratch.parent / "bucket")
