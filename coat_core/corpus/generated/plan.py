"""What each generated clip holds and what is asked about it; audio is not needed for that."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass

from coat_core.corpus.examples import SPLITS, Family, Split
from coat_core.corpus.generated.families.catalogue import GENERATED
from coat_core.corpus.generated.families.recipe import Cast, Recipe
from coat_core.corpus.generated.sounds import Source
from coat_core.corpus.generated.speech import VOICES
from coat_core.corpus.questions import Asked, Facts, balanced, generator
from coat_core.errors import CorpusError
from coat_core.settings import CorpusSettings

SOURCES: dict[Split, int] = {"train": 14, "validation": 6, "test": 10}
"""Sources (or copies of instruments) in each split."""


@dataclass(frozen=True)
class ClipPlan:
    """One clip to be made; equal plans give equal bytes."""

    split: Split
    family: Family
    index: int
    recipe: str
    cast: Cast
    facts: Facts
    asked: tuple[Asked, ...]
    seed: str
    """Names the generator that renders the clip."""
    max_duration_s: float

    @property
    def audio(self) -> str:
        """Path of the audio file in the corpus folder."""
        return f"audio/{self.split}-{self.family}-{self.index:04d}.flac"


def find_recipe(family: Family, key: str) -> Recipe:
    """Return a recipe by name."""
    return next(recipe for recipe in GENERATED[family] if recipe.key == key)


def plan_clips(settings: CorpusSettings, purpose: str) -> Iterator[ClipPlan]:
    """Yield every clip of a generated corpus, in manifest order.

    Raises:
        CorpusError: more questions per clip are wanted than a recipe has.
    """
    most = min(len(recipe.tasks) for recipes in GENERATED.values() for recipe in recipes)
    if settings.questions_per_clip > most:
        message = "a generated clip has fewer questions than that"
        raise CorpusError(message, field="corpus.questions_per_clip", value=settings.questions_per_clip, allowed=f"1 to {most}")
    for split in SPLITS:
        for family in GENERATED:
            for index in range(settings.clips_per_family.get(split, 0)):
                yield _plan_clip(settings, purpose, split, family, index)


def _plan_clip(settings: CorpusSettings, purpose: str, split: Split, family: Family, index: int) -> ClipPlan:
    """Plan one clip; it depends on its own place alone, so a longer corpus begins like a shorter one."""
    recipes = GENERATED[family]
    occurrence, place = divmod(index, len(recipes))
    recipe = recipes[place]
    # The combinations of questions take turns, and the answers are balanced within each of them.
    combinations = list(itertools.combinations(recipe.tasks, settings.questions_per_clip))
    turn, which = divmod(occurrence, len(combinations))
    cell = (purpose, settings.seed, split, family, recipe.key)
    facts: Facts = {name: balanced(options, turn, *cell, which, name) for name, options in recipe.factors.items()}
    clip = (purpose, settings.seed, split, family, index)
    recipe.complete(facts, generator(*clip, "facts"))
    words = generator(*clip, "questions")
    return ClipPlan(
        split=split,
        family=family,
        index=index,
        recipe=recipe.key,
        cast=_cast(recipe, occurrence, settings.seed, purpose, split, family),
        facts=facts,
        asked=tuple(task.ask(facts, words) for task in combinations[which]),
        seed="/".join(map(str, (*clip, "audio"))),
        max_duration_s=settings.max_duration_s,
    )


def _cast(recipe: Recipe, occurrence: int, seed: int, purpose: str, split: Split, family: Family) -> Cast:
    """Choose who performs a clip; speakers and sources come equally often."""
    parts = (purpose, seed, split, family, recipe.key)
    number = balanced(range(SOURCES[split]), occurrence, *parts, "source")
    voice = balanced(VOICES[split], occurrence, *parts, "voice")
    others = [other for other in VOICES[split] if other.high != voice.high]
    other = others[int(generator(*parts, occurrence, "other voice").integers(len(others)))]
    source = Source.draw(generator(purpose, seed, "source", split, family, number))
    group = voice.group if recipe.cast == "voice" else f"source-{family}-{split}-{number:02d}"
    return Cast(group, voice, other, source)
