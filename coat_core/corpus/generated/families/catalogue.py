"""The recipes of each generated family."""

from __future__ import annotations

from coat_core.corpus.examples import Family
from coat_core.corpus.generated.families import emotion, music, reasoning, transcription, understanding
from coat_core.corpus.generated.families.recipe import Recipe

FAMILY_RECIPES: dict[Family, tuple[Recipe, ...]] = {
    "transcription": transcription.RECIPES,
    "understanding": understanding.RECIPES,
    "music": music.RECIPES,
    "emotion": emotion.RECIPES,
    "reasoning": reasoning.RECIPES,
}
