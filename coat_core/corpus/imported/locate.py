"""Location of the audio files that rows name: inside allowed folders, in any Unicode normal form."""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence
from pathlib import Path

from coat_core.corpus.imported.rows import check_characters, shown
from coat_core.errors import CorpusError

_SHOWN = 300
"""Longest path in a message."""
_INVALID = (OSError, ValueError, RuntimeError)
"""What `Path` raises for names that are too long, contain a NUL byte, or are links in a circle."""


class Locator:
    """Finds audio files. The target of a link must be inside the source folder or inside one of `corpus.roots`.

    Args:
        folder: the folder of the manifest, or the audio folder.
        roots: `corpus.roots`, absolute or relative to `folder`.

    Raises:
        CorpusError: a root is not the name of a folder.
    """

    def __init__(self, folder: Path, roots: Sequence[str]) -> None:
        self._allowed = [folder.resolve()]
        for root in roots:
            try:
                self._allowed.append((folder / root).resolve())
            except _INVALID as error:
                raise CorpusError(f"a folder cannot be used: {error}", field="corpus.roots", value=root, allowed="folders") from error
        self._listings: dict[Path, dict[str, str]] = {}
        self._found: dict[tuple[Path, str], Path] = {}

    def find(self, folder: Path, name: object) -> Path:
        """Return the path of the file that a row names, relative to the folder of its metadata file.

        Raises:
            ValueError: the name is invalid, the file is missing, or its target is outside the allowed folders.
        """
        if isinstance(name, str) and (found := self._found.get((folder, name))):
            return found
        if name is None:
            raise ValueError("the audio file is not given, allowed keys: audio_filepath, file_name, audio (or audios with messages)")
        if not isinstance(name, str) or not name.strip():
            raise ValueError(f"the audio file is {shown(name, _SHOWN)}, allowed: a file name as text")
        check_characters("the name of the audio file", name)
        if "://" in name:
            raise ValueError(f"audio {shown(name, _SHOWN)} is a URL, allowed: a file; download it first")
        try:
            path = self._existing(folder, name)
            target = path.resolve()
            if not any(target.is_relative_to(allowed) for allowed in self._allowed):
                raise _OutsideError(name, path, target)
            if not path.is_file():
                raise ValueError(f"audio {shown(name, _SHOWN)} is missing{_hint(path, name)}")
        except _OutsideError:
            raise
        except _INVALID as error:
            if isinstance(error, ValueError) and str(error).startswith("audio "):
                raise
            reason = error.strerror if isinstance(error, OSError) else str(error)
            raise ValueError(f"audio {shown(name, _SHOWN)} is not the name of a file: {str(reason).lower()}") from None
        # Many rows of a large manifest name one file.
        self._found[folder, name] = path
        return path

    def _existing(self, folder: Path, name: str) -> Path:
        """Return the path as it is written, or that of an existing file with a canonically equivalent name."""
        path = folder / name
        if path.exists() or name.isascii():
            return path
        for form in ("NFC", "NFD"):
            other = folder / unicodedata.normalize(form, name)
            if other.exists():
                return other
        found = Path(path.parts[0]) if path.is_absolute() else Path()
        for part in path.parts[1 if path.is_absolute() else 0 :]:
            exact = found / part
            found = exact if part == ".." or exact.exists() else found / self._entries(found).get(_form(part), part)
        return found

    def _entries(self, folder: Path) -> dict[str, str]:
        """Return the names in a folder by their NFC form."""
        if folder not in self._listings:
            self._listings[folder] = {_form(path.name): path.name for path in folder.iterdir()} if folder.is_dir() else {}
        return self._listings[folder]


class _OutsideError(ValueError):
    def __init__(self, name: str, path: Path, target: Path) -> None:
        link = f" (a link to {shown(str(target), _SHOWN)})" if path.absolute() != target and not Path(name).is_absolute() else ""
        allowed = target.parent
        super().__init__(
            f"audio {shown(name, _SHOWN)} is outside the data folder{link}; to allow it, add its folder to `corpus.roots` in params, "
            f"e.g. roots: [{allowed}]"
        )


def _form(name: str) -> str:
    return unicodedata.normalize("NFC", name)


def _hint(path: Path, name: str) -> str:
    if path.is_symlink():
        return f": it is a link to {str(path.readlink())!r}, which does not exist"
    if path.is_dir():
        return ": it is a folder"
    return ": write / instead of \\" if "\\" in name else ""
