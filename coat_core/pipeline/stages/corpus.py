"""Stage `corpus`: make the audio question answering corpus."""

from __future__ import annotations

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
        import_corpus(settings, job.path(settings.path), target)
