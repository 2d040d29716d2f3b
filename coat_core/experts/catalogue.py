"""Experts by name; a module is imported only when its expert is asked for."""

from __future__ import annotations

from importlib import import_module

from coat_core.errors import ExpertError
from coat_core.experts.base import Expert

EXPERTS: dict[str, str] = {
    "log_mel": "coat_core.experts.log_mel",
    "cepstra": "coat_core.experts.cepstra",
    "spectral_events": "coat_core.experts.spectral_events",
    "prosody": "coat_core.experts.prosody",
    "f0_bins": "coat_core.experts.f0_bins",
}
"""Implementation name → module with a function `build() -> Expert`; a sixth expert is one more line."""


def load_expert(implementation: str) -> Expert:
    """Build an expert by its implementation name.

    Raises:
        ExpertError: no expert has this name.
    """
    if implementation not in EXPERTS:
        raise ExpertError(
            "no expert has this name",
            field="experts.*.implementation",
            value=implementation,
            allowed=sorted(EXPERTS),
            next_step="mend params.yaml, or add the expert to coat_core/experts/catalogue.py",
        )
    expert: Expert = import_module(EXPERTS[implementation]).build()
    return expert
