"""Selection of an expert's checkpoint, and its licence."""

from __future__ import annotations

from dataclasses import dataclass

from coat_core.errors import ExpertError
from coat_core.settings import ExpertSettings

FREE = ("Apache-2.0", "MIT", "BSD-2-Clause", "BSD-3-Clause", "CC0-1.0", "CC-BY-4.0", "CC-BY-3.0", "CC-BY-SA-3.0", "CC-BY-SA-4.0")
"""Licences that allow commercial use."""


@dataclass(frozen=True)
class KnownCheckpoint:
    """A published checkpoint in an implementation's table."""

    checkpoint: str
    """Hub id."""
    revision: str | None
    """Commit; None: no commit is confirmed by two sources."""
    licence: str
    fitted_on: str
    """Audio and labels of its training."""
    source: str
    """Paper."""

    @property
    def commercial_use(self) -> bool:
        """Whether the licence allows commercial use."""
        return self.licence in FREE


@dataclass(frozen=True)
class SelectedCheckpoint:
    """The checkpoint that params name."""

    checkpoint: str
    revision: str | None
    licence: str
    commercial_use: bool
    fitted_on: str
    source: str


def choose(settings: ExpertSettings, known: tuple[KnownCheckpoint, ...]) -> SelectedCheckpoint:
    """Return the checkpoint that params name, or the table's default, after checking its licence.

    Args:
        settings: the expert's section of params.
        known: the implementation's table, its default first.

    Raises:
        ExpertError: no commit is given and the table has none; the licence forbids commercial use and `accept_licence`
            differs from its name; or the checkpoint is not in the table and its licence is not named.
    """
    name = settings.checkpoint or known[0].checkpoint
    found = next((entry for entry in known if entry.checkpoint == name), None)
    if found is None:
        return _unknown(settings, name, known)
    if settings.revision is None and found.revision is None:
        raise ExpertError(
            f"the table has no commit of {name}", field="experts.*.revision", allowed="40 hexadecimal digits",
            next_step=f"copy the commit from the history of {name} (Files and versions on its page) and set revision to it",
        )  # fmt: skip
    if not found.commercial_use and settings.accept_licence != found.licence:
        raise ExpertError(
            f"the licence of {name} forbids commercial use and is not accepted", field="experts.*.accept_licence",
            value=settings.accept_licence, allowed=[found.licence],
            next_step=f"if the licence allows your use, set accept_licence: {found.licence}; otherwise use "
            + " or ".join(entry.checkpoint for entry in known if entry.commercial_use),
        )  # fmt: skip
    return SelectedCheckpoint(
        name, settings.revision or found.revision, found.licence, found.commercial_use, found.fitted_on, found.source
    )  # fmt: skip


def _unknown(settings: ExpertSettings, name: str, known: tuple[KnownCheckpoint, ...]) -> SelectedCheckpoint:
    if not settings.accept_licence:
        raise ExpertError(
            f"the licence of {name} is unknown", field="experts.*.accept_licence", allowed="the licence, as named in its model card",
            next_step="set accept_licence to the licence of the model card, or use " + " or ".join(entry.checkpoint for entry in known),
        )  # fmt: skip
    free = {licence.lower(): licence for licence in FREE}
    licence = free.get(settings.accept_licence.lower(), settings.accept_licence)
    return SelectedCheckpoint(name, settings.revision, licence, licence in FREE, "not known here: see the model card", name)
