"""Export to an S3 bucket: the export is made and checked on this host, then uploaded."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from coat_core.export.card import RECORD
from coat_core.export.export import Export, export
from coat_core.export.source import find_portable
from coat_core.storage.s3 import open_client, parse_uri
from coat_core.storage.s3_upload import check_replaceable, upload_folder

DOWNLOADED = "MODEL"
"""Folder in the code of the model card, into which a reader downloads the export."""


def export_to_bucket(
    model: str, uri: str, *, merge: bool = False, speakers: bool = False, progress: Callable[[str], None] = print, **options: Any
) -> Export:
    """Export a model to `s3://bucket/prefix`; its `export.json` appears last, after the parity gate and all other files.

    Args:
        model: see `export`.
        uri: an empty prefix, or that of an earlier export, which is replaced.
        merge: see `export`.
        speakers: see `export`.
        progress: called with one line of text at each step.
        **options: further options of `export`.

    Raises:
        CoatError: see `export`; or the model is an adapter on a base in a folder of this host, which no other host could load.
        StorageError: the prefix holds something else, or the server refused a request.
    """
    location, client = parse_uri(uri), open_client()
    check_replaceable(client, location, RECORD)
    find_portable(model, merge=merge, speakers=speakers)
    with TemporaryDirectory(prefix="coat-export-") as folder:
        target = Path(folder) / "export"
        done = export(model, target, merge=merge, speakers=speakers, progress=progress, address=DOWNLOADED, **options)
        progress(f"uploading {done.size_bytes / 1e6:,.1f} MB to {location.uri}")
        upload_folder(client, target, location, RECORD)
    return replace(done, address=location.uri, usage=f"# aws s3 cp --recursive {location.uri} {DOWNLOADED}\n{done.usage}")
