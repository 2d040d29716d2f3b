"""The last check of a folder before it is uploaded."""

from __future__ import annotations

from pathlib import Path

from coat_core.errors import ReleaseError
from coat_core.export.card import CARD, RECORD
from coat_core.export.files import SPEAKERS
from coat_core.hub import weight_files
from coat_core.registry.packaging import unsafe_files
from coat_core.storage import read_json

_ADAPTER = "adapter_model.safetensors"


def check_folder(folder: Path, *, speakers: bool = False) -> int:
    """Check every file of an export that is to be uploaded; return their size in bytes.

    All weights are readable and complete, the record and the card parse, the card names a licence, and no file is a link, empty or a
    pickle other than the voices that were asked for.

    Raises:
        ReleaseError: one of these is not so; the message names the file.
    """
    from huggingface_hub import ModelCard
    from safetensors import SafetensorError, safe_open

    files = sorted(path for path in folder.rglob("*") if path.is_symlink() or path.is_file())
    for path in files:
        if path.is_symlink() or path.stat().st_size == 0:
            raise _bad("a file is a link or is empty", path)
    pickles = [name for name in unsafe_files(folder) if not (speakers and name == SPEAKERS)]
    if pickles:
        raise _bad("a file is a pickle", folder / pickles[0])
    record = read_json(folder / RECORD)
    weights_of_export = [_ADAPTER] if record["kind"] == "adapter" else weight_files(folder)
    if not weights_of_export:
        raise _bad("there are no weights", folder)
    for name in weights_of_export:
        try:
            with safe_open(folder / name, framework="numpy") as weights:
                if not list(weights.keys()):
                    raise _bad("a file of weights holds no tensor", folder / name)
        except (SafetensorError, OSError) as error:
            raise _bad(f"a file of weights cannot be read ({type(error).__name__})", folder / name) from error
    card = ModelCard.load(folder / CARD)
    if not card.data.license or (card.data.license == "other" and not card.data.license_name):
        raise _bad("the model card names no licence", folder / CARD)
    return sum(path.stat().st_size for path in files)


def _bad(message: str, path: Path) -> ReleaseError:
    return ReleaseError(f"{message}, nothing was uploaded", field="file", value=str(path), next_step="run the same command again")
