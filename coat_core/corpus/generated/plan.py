"""Plans of the generated clips: facts, performers and questions, without audio."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass, replace

from coat_core.corpus.examples import SPLITS, Family, Split
from coat_core.corpus.generated.families.catalogue import FAMILY_RECIPES
from coat_core.corpus.generated.families.recipe import Performers, Recipe
from coat_core.corpus.generated.sounds import Source
from coat_core.corpus.generated.speech import VOICES
from coat_core.corpus.generated.wordings import WORDINGS
from coat_core.corpus.questions import Facts, Question, Task, balanced_draw, seeded_generator
from coat_core.errors import CorpusError
from coat_core.settings import CorpusSettings

SOURCES: dict[Split, int] = {"train": 14, "validation": 6, "test": 10}
"""Number of sources (or copies of instruments) in each split and family."""


@dataclass(frozen=True)
class ClipPlan:
    """Everything that determines one clip. Equal plans give equal bytes."""

    split: Split
    family: Family
    index: int
    recipe: str
    performers: Performers
    facts: Facts
    questions: tuple[Question, ...]
    seed: str
    """Seed of the generator that renders the clip."""
    max_duration_s: float

    @property
    def audio(self) -> str:
        """Path of the audio file in the corpus folder."""
        return f"audio/{self.split}-{self.family}-{self.index:04d}.flac"


def find_recipe(family: Family, key: str) -> Recipe:
    """Return a recipe by name."""
    return next(recipe for recipe in FAMILY_RECIPES[family] if recipe.key == key)


def plan_clips(settings: CorpusSettings, purpose: str, *, taught: bool = False) -> Iterator[ClipPlan]:
    """Yield every clip of a generated corpus, in manifest order.

    Args:
        settings: counts, seed and limits.
        purpose: part of the seed; corpora with different purposes share no clip.
        taught: ask in the wordings that the bases are taught, not in those of the corpus (`WORDINGS`).

    Raises:
        CorpusError: `questions_per_clip` exceeds the number of tasks of a recipe.
    """
    most = min(len(recipe.tasks) for recipes in FAMILY_RECIPES.values() for recipe in recipes)
    if settings.questions_per_clip > most:
        message = "a generated clip has fewer questions"
        raise CorpusError(message, field="corpus.questions_per_clip", value=settings.questions_per_clip, allowed=f"1 to {most}")
    for split in SPLITS:
        for family in FAMILY_RECIPES:
            for index in range(settings.clips_per_family.get(split, 0)):
                yield _plan_clip(settings, purpose, split, family, index, taught)


def _plan_clip(settings: CorpusSettings, purpose: str, split: Split, family: Family, index: int, taught: bool) -> ClipPlan:
    """Plan one clip. The plan depends only on its index, so a longer corpus begins with the clips of a shorter one."""
    recipes = FAMILY_RECIPES[family]
    occurrence, place = divmod(index, len(recipes))
    recipe = recipes[place]
    # The combinations of tasks alternate. Within each combination the answers are balanced.
    combinations = list(itertools.combinations(recipe.tasks, settings.questions_per_clip))
    turn, which = divmod(occurrence, len(combinations))
    cell = (purpose, settings.seed, split, family, recipe.key)
    facts: Facts = {name: balanced_draw(options, turn, *cell, which, name) for name, options in recipe.factors.items()}
    clip = (purpose, settings.seed, split, family, index)
    recipe.complete(facts, seeded_generator(*clip, "facts"))
    words = seeded_generator(*clip, "questions")
    return ClipPlan(
        split=split,
        family=family,
        index=index,
        recipe=recipe.key,
        performers=_choose_performers(recipe, occurrence, settings.seed, purpose, split, family),
        facts=facts,
        questions=tuple(_asked(task, taught).make_question(facts, words) for task in combinations[which]),
        seed="/".join(map(str, (*clip, "audio"))),
        max_duration_s=settings.max_duration_s,
    )


def _asked(task: Task, taught: bool) -> Task:
    return task if taught else replace(task, wordings=WORDINGS[task.key])


def _choose_performers(recipe: Recipe, occurrence: int, seed: int, purpose: str, split: Split, family: Family) -> Performers:
    """Choose the performers of a clip. Speakers and sources occur equally often."""
    parts = (purpose, seed, split, family, recipe.key)
    number = balanced_draw(range(SOURCES[split]), occurrence, *parts, "source")
    voice = balanced_draw(VOICES[split], occurrence, *parts, "voice")
    others = [other for other in VOICES[split] if other.high != voice.high]
    other = others[int(seeded_generator(*parts, occurrence, "other voice").integers(len(others)))]
    source = Source.draw(seeded_generator(purpose, seed, "source", split, family, number))
    group = voice.group if recipe.grouped_by == "voice" else f"source-{family}-{split}-{number:02d}"
    return Performers(group, voice, other, source)
