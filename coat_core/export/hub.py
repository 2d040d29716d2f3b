"""Export to a repository on the hub: the export is made and checked on this host, then uploaded in one commit."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from coat_core.errors import CoatError
from coat_core.export.card import CARD, RECORD, card
from coat_core.export.export import Export, export
from coat_core.export.hub_card import sections
from coat_core.export.hub_check import check_folder
from coat_core.export.hub_upload import find_repository, upload_folder
from coat_core.export.source import ExportSource, find_portable
from coat_core.registry.commit import UNKNOWN
from coat_core.registry.data_licences import DataLicence, find_licences
from coat_core.registry.evaluations import find_evaluations
from coat_core.storage import write_json, write_text


def export_to_hub(
    model: str,
    repository: str,
    target: Path | None = None,
    *,
    public: bool = False,
    merge: bool = False,
    speakers: bool = False,
    progress: Callable[[str], None] = print,
    **options: Any,
) -> Export:
    """Export a model to a repository on the hub, with a model card that has its results; nothing is sent before all of it is checked.

    Args:
        model: see `export`. Its evaluation and the licences of its data are those of the version, or of the release's workspace.
        repository: `owner/name`; created if it does not exist. An earlier export there is replaced by the same commit.
        target: also keep the export in this folder; None: a temporary one.
        public: whether everybody may read a new repository.
        merge: see `export`.
        speakers: see `export`.
        progress: called with one line of text at each step.
        **options: further options of `export`.

    Raises:
        CoatError: see `export`; the licence of the base or of a training example is not known, or the model was not evaluated; or the
            model is an adapter on a base in a folder of this host.
        CheckpointError: the repository cannot be used, or this account may not write to it.
        HubUnreachableError: the hub cannot be reached.
    """
    found = find_repository(repository, RECORD, public=public)
    source = find_portable(model, merge=merge, speakers=speakers)
    evaluations = find_evaluations(model, source.release)
    licences = _data_licences(model, source)
    licence = _base_licence(source)
    with ExitStack() as stack:
        folder = target or Path(stack.enter_context(TemporaryDirectory(prefix="coat-export-"))) / "export"
        done = export(model, folder, merge=merge, speakers=speakers, progress=progress, address=repository, **options)
        base = {**done.record["base"], "licence": licence}
        if not source.on_hub:
            base["id"] = Path(base["id"]).name
        done = replace(done, record={**done.record, "base": base})
        write_json(folder / RECORD, done.record)
        text = sections(done.record, evaluations, licences)
        write_text(folder / CARD, card(done.record, done.usage, text, _licence_link(folder, source)))
        size = check_folder(folder, speakers=speakers)
        progress(f"uploading {size / 1e6:,.1f} MB to {repository}, {'public' if public else 'private'}")
        commit = upload_folder(found, folder, f"{source.info.backbone} {source.info.arm}-{source.info.seed}, {done.record['kind']}")
    return replace(done, address=repository, size_bytes=size, usage=f"# {commit}\n{done.usage}")


def _base_licence(source: ExportSource) -> str:
    """Return the licence of the base: that of the release, else that of the params if they name the same base."""
    from coat_core.settings import load_settings

    info, params = source.info, Path("params.yaml")
    licence = info.base.licence
    if not licence and params.is_file():
        now = load_settings(params).backbones.get(info.backbone)
        if now is not None and (now.base, now.revision) == (info.base.id, info.base.revision):
            licence = now.licence
    if not licence or licence.strip().lower() == UNKNOWN:
        raise CoatError(
            "the licence of the base is not known", field=f"backbones.{info.backbone}.licence", value=licence,
            allowed="the name in the base's model card, e.g. apache-2.0", next_step=f"set it in {params}",
        )  # fmt: skip
    return str(licence).strip()


def _data_licences(model: str, source: ExportSource) -> list[DataLicence]:
    if not source.info.trained:
        return []
    licences = find_licences(model, source.release)
    missing = [entry for entry in licences if not entry.known]
    if missing:
        raise CoatError(
            f"the licence of {sum(entry.examples for entry in missing)} training examples is not known", field="licence",
            value=", ".join(f"{entry.source}: {entry.licence}" for entry in missing[:3]), allowed="the name of a licence",
            next_step="give the manifest or index of this source a column `licence`, then coat run",
        )  # fmt: skip
    return licences


def _licence_link(folder: Path, source: ExportSource) -> str | None:
    """Return the file or page with the licence's text; None without one."""
    name = next((path.name for path in sorted(folder.glob("LICENSE*"))), None)
    return name or (f"https://huggingface.co/{source.info.base.id}" if source.on_hub else None)
