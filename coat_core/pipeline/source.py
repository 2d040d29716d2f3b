"""The source of the corpus in an S3 bucket: its snapshot in the workspace."""

from __future__ import annotations

from pathlib import Path

from coat_core.corpus.imported.bucket import SNAPSHOT, SnapshotSummary, write_snapshot
from coat_core.errors import CorpusError
from coat_core.settings import CorpusSettings


def list_source(workspace: Path, settings: CorpusSettings) -> SnapshotSummary:
    """List the source of a workspace again. If an object is new, changed or gone, the stage `corpus` is stale afterwards.

    Raises:
        CorpusError: the source is not in a bucket, or has no objects.
        StorageError: the bucket cannot be listed.
    """
    if not settings.in_bucket:
        raise CorpusError(
            "the source of this workspace is not in a bucket", field="corpus.path", value=settings.path, allowed="s3://bucket/prefix",
            next_step="nothing to do: only a source in a bucket has to be listed",
        )  # fmt: skip
    assert settings.path is not None
    return write_snapshot(settings.kind, settings.path, workspace / SNAPSHOT)


def summary_text(summary: SnapshotSummary) -> str:
    """Return a snapshot's summary as one line."""
    change = f"{summary.added} new, {summary.changed} changed, {summary.removed} gone" if summary.is_new else "as before"
    return f"{summary.objects} objects, {summary.size / 1e6:,.1f} MB: {change}"
