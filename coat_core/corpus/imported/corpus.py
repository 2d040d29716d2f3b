"""The imported corpus: made from recordings, a manifest or an audio folder."""

from __future__ import annotations

from pathlib import Path

from coat_core.corpus.imported.manifests import import_audiofolder, import_manifest
from coat_core.corpus.imported.recordings import import_recordings
from coat_core.errors import CorpusError
from coat_core.settings import CorpusSettings

_IMPORTERS = {"recordings": import_recordings, "manifest": import_manifest, "audiofolder": import_audiofolder}


def import_corpus(settings: CorpusSettings, source: Path, target: Path) -> None:
    """Write `manifest.jsonl` and `audio/` to a corpus folder, atomically. Manifests and audio folders also give `import.json`, a summary.

    Args:
        settings: kind, seed, clip counts and limits.
        source: the folder of recordings, the manifest file or the audio folder.
        target: the corpus folder. An existing folder is replaced.

    Raises:
        CorpusError: the source is invalid. The message names its rows.
        AudioError: a recording of a composed clip cannot be decoded.
    """
    if settings.kind not in _IMPORTERS:
        raise CorpusError("this kind of corpus is not imported", field="corpus.kind", value=settings.kind, allowed=tuple(_IMPORTERS))
    _IMPORTERS[settings.kind](settings, source, target)
