"""A model that a user names, loaded once: a registered version, a release folder or an export."""

from __future__ import annotations

import difflib
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from coat_core.errors import ReleaseError

RELEASES = Path("models")
"""Folder of the releases of a workspace."""


@dataclass(frozen=True)
class LoadedModel:
    """A loaded model.

    Attributes:
        name: `models:/…`, or the folder.
        backbone: the LALM, merged (a `Backbone`).
        arm: its arm.
        seed: its seed.
        release: the loaded `Release`; None for an export, which has no heads.
        facts: what identifies it, for records.
    """

    name: str
    backbone: Any
    arm: str
    seed: int
    release: Any
    facts: Mapping[str, Any]


@contextmanager
def loaded_model(model: str, *, device: str = "cpu", dtype: str | None = None, base: str | None = None) -> Iterator[LoadedModel]:
    """Yield a loaded model; the copy of a registered version is removed when the block ends.

    Args:
        model: `models:/name@alias`, `models:/name/version`, the folder of a release, or that of an export.
        device: `cpu` or `cuda`.
        dtype: dtype of the weights; None: as in training, or as exported.
        base: folder or cached hub id of the base; None: as stored.

    Raises:
        CoatError: the model or its base cannot be used.
    """
    from coat_core.export.loading import is_export, load_export
    from coat_core.registry.references import model_uri, version_number
    from coat_core.registry.versions import unpack
    from coat_core.thinking.release import load_release

    uri = model_uri(model)
    with tempfile.TemporaryDirectory() as temporary:
        if uri is None and is_export(Path(model)):
            backbone, record = load_export(Path(model), device=device, dtype=dtype, base=base)
            facts = {"export": record["kind"], "arm": record["arm"], "fingerprint": record["release"], "base": record["base"]}
            yield LoadedModel(model, backbone, record["arm"], record["seed"], None, facts)
            return
        folder = unpack(uri, Path(temporary)) if uri else Path(model)
        release = load_release(folder, device=device, dtype=dtype, base=base or (None if uri else release_base(folder)))
        info = release.info
        facts = {
            "arm": info.arm, "seed": info.seed, "fingerprint": info.fingerprint, "version": version_number(uri) if uri else None,
            "base": asdict(info.base) if not uri else {"revision": info.base.revision, "licence": info.base.licence},
        }  # fmt: skip
        yield LoadedModel(uri or model, release.backbone, info.arm, info.seed, release, facts)


def release_base(folder: Path) -> str | None:
    """Return the folder of a release's base; None if the base is on the hub.

    A relative base belongs to the workspace of the release: the nearest folder above the release that contains it, else the working
    folder.

    Raises:
        ReleaseError: the folder is not a release, or its base is not on this disk.
    """
    from coat_core.thinking.release import read_info

    _check_release_folder(folder)
    stored = read_info(folder).base
    if stored.revision is not None and not Path(stored.id).is_absolute():
        return None
    places = [above / stored.id for above in (*folder.resolve().parents, Path.cwd())]
    for place in places:
        if place.is_dir():
            return str(place)
    raise ReleaseError(
        f"the base of this release is not here: {folder} was trained on {stored.id}", field="base", value=stored.id,
        allowed=f"a folder {stored.id} in the working folder or beside the release, or --base",
        next_step=f"run the command in the workspace of the release, or give its base: coat ask --base FOLDER {folder} …",
    )  # fmt: skip


def _check_release_folder(folder: Path) -> None:
    if (folder / "coat.json").is_file():
        return
    if not folder.exists():
        places = [place for place in (folder.parent, RELEASES) if place.is_dir()]
        found = {path.name: str(path) for place in places for path in place.iterdir() if (path / "coat.json").is_file()}
        near = [found[name] for name in difflib.get_close_matches(folder.name, found, n=1)]
        step = f"did you mean {near[0]}?" if near else "coat run trains releases into models/"
        message = "there is no such model: neither a release folder nor a registered model"
    elif not folder.is_dir():
        message, step = "the model is a file, not a release folder", "name the model first, then the audio file, then the question"
    elif (folder / "export.json").is_file():
        message = "this folder is an export, not a release"
        step = "ask the version or release that was exported, or load the export with transformers (docs/serving.md)"
    elif (folder / "MLmodel").is_file():
        message, step = "this folder is a saved MLflow model, not a release", "name its registered version, models:/NAME/VERSION"
    else:
        message, step = "this folder is not a release: it contains no coat.json", "name a folder below models/, or a registered model"
    raise ReleaseError(
        message, field="model", value=str(folder), allowed="models:/NAME@ALIAS, models:/NAME/VERSION or a release folder", next_step=step
    )
