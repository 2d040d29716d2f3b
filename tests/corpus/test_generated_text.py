"""No answer can be guessed from the text: baselines that never hear anything stay at chance."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from dataclasses import replace

import pytest

from coat_core.corpus.generated.plan import ClipPlan, plan_clips
from coat_core.corpus.questions import Asked
from coat_core.settings import CorpusSettings

Row = tuple[str, Asked]
Baseline = Callable[[Sequence[Row], Sequence[Row]], list[str]]


def rows(plans: Sequence[ClipPlan], split: str) -> list[Row]:
    return [(plan.family, asked) for plan in plans if plan.split == split for asked in plan.asked]


@pytest.fixture(scope="module")
def planned() -> tuple[list[Row], list[Row]]:
    settings = CorpusSettings(clips_per_family={"train": 400, "validation": 1, "test": 400})
    plans = list(plan_clips(settings, "corpus"))
    return rows(plans, "train"), rows(plans, "test")


def prompt(asked: Asked) -> str:
    return asked.question if asked.choices is None else f"{asked.question} Choices: {', '.join(asked.choices)}."


def most_frequent(train: Sequence[Row], test: Sequence[Row]) -> list[str]:
    """Answer what the task's training rows answer most often, among the choices shown where they have been seen."""
    counted: dict[object, Counter[str]] = defaultdict(Counter)
    for family, asked in train:
        counted[family, asked.task, tuple(sorted(asked.choices or ()))][asked.answer] += 1
        counted[family, asked.task][asked.answer] += 1
    out = []
    for family, asked in test:
        seen = counted.get((family, asked.task, tuple(sorted(asked.choices or ())))) or counted[family, asked.task]
        options = asked.choices or tuple(seen)
        out.append(max(options, key=lambda option: seen[option]))
    return out


def most_frequent_place(train: Sequence[Row], test: Sequence[Row]) -> list[str]:
    """Answer the place (first, second, ...) that is right most often."""
    counted: dict[str, Counter[int]] = defaultdict(Counter)
    for _, asked in train:
        if asked.choices is not None:
            counted[asked.task][asked.choices.index(asked.answer)] += 1
    return ["" if asked.choices is None else asked.choices[counted[asked.task].most_common(1)[0][0]] for _, asked in test]


def bag_of_words(train: Sequence[Row], test: Sequence[Row]) -> list[str]:
    """Naive Bayes from the prompt's words and pairs of words to the answer, held to the choices."""
    from sklearn.feature_extraction.text import CountVectorizer
    from sklearn.naive_bayes import MultinomialNB

    train = [(family, asked) for family, asked in train if asked.task != "words"]
    vectors = CountVectorizer(ngram_range=(1, 2), binary=True, token_pattern=r"\w+")
    model = MultinomialNB().fit(vectors.fit_transform([prompt(asked) for _, asked in train]), [asked.answer for _, asked in train])
    classes = {answer: index for index, answer in enumerate(model.classes_)}
    scores = model.predict_log_proba(vectors.transform([prompt(asked) for _, asked in test]))
    return [
        max(asked.choices or tuple(classes), key=lambda option: line[classes[option]] if option in classes else -1e9)
        for (_, asked), line in zip(test, scores, strict=True)
    ]


def too_good(guess: Baseline, train: Sequence[Row], test: Sequence[Row], deviations: float = 3.5) -> dict[str, tuple[float, float]]:
    """Return the tasks and families where a baseline is better than chance by more than drawing explains."""
    open_answers = defaultdict(set)
    for family, asked in train:
        if asked.choices is None:
            open_answers[family, asked.task].add(asked.answer)
    cells: dict[str, list[tuple[bool, float]]] = defaultdict(list)
    for (family, asked), guessed in zip(test, guess(train, test), strict=True):
        chance = 1 / len(asked.choices or open_answers[family, asked.task])
        for cell in (family, f"{family} {asked.task}"):
            cells[cell].append((guessed == asked.answer, chance))
    found = {}
    for cell, results in cells.items():
        accuracy, chance = (sum(column) / len(results) for column in zip(*results, strict=True))
        if accuracy > chance + deviations * (chance * (1 - chance) / len(results)) ** 0.5:
            found[cell] = (accuracy, chance)
    return found


@pytest.mark.parametrize("baseline", [most_frequent, most_frequent_place, bag_of_words])
def test_text_alone_is_at_chance(planned: tuple[list[Row], list[Row]], baseline: Baseline) -> None:
    found = too_good(baseline, *planned)
    # The longest open answers ("words") come from an endless set; their chance is not a share of equal answers.
    found.pop("transcription words", None)
    assert found == {}


def test_transcripts_cannot_be_guessed(planned: tuple[list[Row], list[Row]]) -> None:
    train, test = ([(family, asked) for family, asked in part if asked.task == "words"] for part in planned)
    guesses = most_frequent(train, test)
    assert sum(guess == asked.answer for guess, (_, asked) in zip(guesses, test, strict=True)) / len(test) < 0.06


def test_the_baselines_find_a_leak(planned: tuple[list[Row], list[Row]]) -> None:
    def leaking(rows: Sequence[Row], change: Callable[[Asked], Asked]) -> list[Row]:
        return [(family, change(asked) if asked.task == "sound" else asked) for family, asked in rows]

    def first(asked: Asked) -> Asked:
        assert asked.choices is not None
        return replace(asked, choices=(asked.answer, *(option for option in asked.choices if option != asked.answer)))

    def worded(asked: Asked) -> Asked:
        return replace(asked, question=f"{asked.question} It is sound number {len(asked.answer)}.")

    def fixed(asked: Asked) -> Asked:
        assert asked.choices is not None
        return replace(asked, answer=min(asked.choices))

    for change, baseline in ((first, most_frequent_place), (worded, bag_of_words), (fixed, most_frequent)):
        found = too_good(baseline, *(leaking(part, change) for part in planned))
        assert "understanding sound" in found, baseline.__name__


def test_the_vocabulary_is_small(planned: tuple[list[Row], list[Row]]) -> None:
    train, test = ({word for _, asked in part for word in f"{prompt(asked)} {asked.answer}".replace(",", " ").split()} for part in planned)
    assert len(train) < 300
    assert test <= train
