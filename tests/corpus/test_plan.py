"""The plans of the generated clips are balanced, and no answer can be guessed from the text."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from dataclasses import replace

import pytest

from coat_core.corpus.generated.families.catalogue import FAMILY_RECIPES
from coat_core.corpus.generated.plan import ClipPlan, plan_clips
from coat_core.corpus.generated.wordings import WORDINGS
from coat_core.corpus.questions import Question
from coat_core.settings import CorpusSettings

Row = tuple[str, Question]
Baseline = Callable[[Sequence[Row], Sequence[Row]], list[str]]


def settings(train: int = 12, validation: int = 6, test: int = 6, **more: object) -> CorpusSettings:
    return CorpusSettings(clips_per_family={"train": train, "validation": validation, "test": test}, **more)


def test_no_voice_and_no_source_occurs_in_two_splits() -> None:
    splits_of: dict[object, set[str]] = defaultdict(set)
    groups: dict[str, set[str]] = defaultdict(set)
    for plan in plan_clips(settings(60, 60, 60), "corpus"):
        performers = plan.performers
        assert performers.voice.high != performers.other_voice.high
        for member in (performers.voice.variant, performers.other_voice.variant, performers.source):
            splits_of[member].add(plan.split)
        groups[f"{plan.split} {plan.family}"].add(performers.group)
    assert all(len(splits) == 1 for splits in splits_of.values())
    # The bootstrap over groups needs at least five groups.
    assert min(len(names) for names in groups.values()) >= 5


def test_answers_and_groups_are_balanced() -> None:
    answers: dict[tuple[str, str], Counter[str]] = defaultdict(Counter)
    options: dict[tuple[str, str], int] = {}
    for plan in plan_clips(settings(1, 1, 480), "corpus"):
        for question in plan.questions:
            if plan.split == "test" and question.choices is not None:
                answers[plan.family, question.task][question.answer] += 1
                options[plan.family, question.task] = max(len(question.choices), options.get((plan.family, question.task), 0))
    # Factors are balanced exactly within a block; the other facts have the variance of random draws.
    for task, counted in answers.items():
        expected = counted.total() / len(counted)
        assert len(counted) >= options[task]
        assert max(counted.values()) <= expected + 4 * expected**0.5, (task, counted)
        assert min(counted.values()) >= expected - 4 * expected**0.5, (task, counted)
    for task in (("emotion", "style"), ("music", "register"), ("reasoning", "higher"), ("understanding", "count"), ("emotion", "end")):
        assert max(answers[task].values()) - min(answers[task].values()) <= 4, (task, answers[task])


def test_the_corpus_asks_the_taught_questions_in_other_words() -> None:
    tasks = {task.key: task for recipes in FAMILY_RECIPES.values() for recipe in recipes for task in recipe.tasks}
    assert {key: len(wordings) for key, wordings in WORDINGS.items()} == {key: len(task.wordings) for key, task in tasks.items()}
    asked, taught = ([*plan_clips(settings(), "corpus", taught=flag)] for flag in (False, True))
    for plan, same in zip(asked, taught, strict=True):
        assert replace(plan, questions=()) == replace(same, questions=())
        for question, other in zip(plan.questions, same.questions, strict=True):
            assert replace(question, question="") == replace(other, question="")
            assert question.question != other.question


def test_a_longer_corpus_begins_with_the_clips_of_a_shorter_one() -> None:
    short = {(plan.split, plan.family, plan.index): plan for plan in plan_clips(settings(6, 2, 2), "corpus")}
    long = {(plan.split, plan.family, plan.index): plan for plan in plan_clips(settings(9, 3, 4), "corpus")}
    assert all(long[key] == plan for key, plan in short.items())


def rows(plans: Sequence[ClipPlan], split: str) -> list[Row]:
    return [(plan.family, question) for plan in plans if plan.split == split for question in plan.questions]


@pytest.fixture(scope="module")
def planned() -> tuple[list[Row], list[Row]]:
    settings = CorpusSettings(clips_per_family={"train": 400, "validation": 1, "test": 400})
    plans = list(plan_clips(settings, "corpus"))
    return rows(plans, "train"), rows(plans, "test")


def prompt(question: Question) -> str:
    return question.question if question.choices is None else f"{question.question} Choices: {', '.join(question.choices)}."


def most_frequent(train: Sequence[Row], test: Sequence[Row]) -> list[str]:
    """Return the most frequent answer of the task's training rows with the same choices, or of all its rows."""
    counted: dict[object, Counter[str]] = defaultdict(Counter)
    for family, question in train:
        counted[family, question.task, tuple(sorted(question.choices or ()))][question.answer] += 1
        counted[family, question.task][question.answer] += 1
    out = []
    for family, question in test:
        seen = counted.get((family, question.task, tuple(sorted(question.choices or ())))) or counted[family, question.task]
        options = question.choices or tuple(seen)
        out.append(max(options, key=lambda option: seen[option]))
    return out


def most_frequent_position(train: Sequence[Row], test: Sequence[Row]) -> list[str]:
    """Return the choice at the position (first, second, …) that is most often the answer."""
    counted: dict[str, Counter[int]] = defaultdict(Counter)
    for _, question in train:
        if question.choices is not None:
            counted[question.task][question.choices.index(question.answer)] += 1
    return ["" if question.choices is None else question.choices[counted[question.task].most_common(1)[0][0]] for _, question in test]


def bag_of_words(train: Sequence[Row], test: Sequence[Row]) -> list[str]:
    """Naive Bayes from the words and word pairs of the prompt to the answer, restricted to the choices."""
    from sklearn.feature_extraction.text import CountVectorizer
    from sklearn.naive_bayes import MultinomialNB

    train = [(family, question) for family, question in train if question.task != "words"]
    vectors = CountVectorizer(ngram_range=(1, 2), binary=True, token_pattern=r"\w+")
    model = MultinomialNB().fit(
        vectors.fit_transform([prompt(question) for _, question in train]), [question.answer for _, question in train]
    )
    classes = {answer: index for index, answer in enumerate(model.classes_)}
    scores = model.predict_log_proba(vectors.transform([prompt(question) for _, question in test]))
    return [
        max(question.choices or tuple(classes), key=lambda option: line[classes[option]] if option in classes else -1e9)
        for (_, question), line in zip(test, scores, strict=True)
    ]


def too_good(guess: Baseline, train: Sequence[Row], test: Sequence[Row], deviations: float = 3.5) -> dict[str, tuple[float, float]]:
    """Return the tasks and families where a baseline is better than chance by more than `deviations` standard deviations."""
    open_answers = defaultdict(set)
    for family, question in train:
        if question.choices is None:
            open_answers[family, question.task].add(question.answer)
    cells: dict[str, list[tuple[bool, float]]] = defaultdict(list)
    for (family, question), guessed in zip(test, guess(train, test), strict=True):
        chance = 1 / len(question.choices or open_answers[family, question.task])
        for cell in (family, f"{family} {question.task}"):
            cells[cell].append((guessed == question.answer, chance))
    found = {}
    for cell, results in cells.items():
        accuracy, chance = (sum(column) / len(results) for column in zip(*results, strict=True))
        if accuracy > chance + deviations * (chance * (1 - chance) / len(results)) ** 0.5:
            found[cell] = (accuracy, chance)
    return found


@pytest.mark.parametrize("baseline", [most_frequent, most_frequent_position, bag_of_words])
def test_text_only_baselines_are_at_chance(planned: tuple[list[Row], list[Row]], baseline: Baseline) -> None:
    found = too_good(baseline, *planned)
    # The answers of the open task "words" are not equally likely, so their chance level is unknown.
    found.pop("transcription words", None)
    assert found == {}


def test_transcripts_cannot_be_guessed(planned: tuple[list[Row], list[Row]]) -> None:
    train, test = ([(family, question) for family, question in part if question.task == "words"] for part in planned)
    guesses = most_frequent(train, test)
    assert sum(guess == question.answer for guess, (_, question) in zip(guesses, test, strict=True)) / len(test) < 0.06


def test_the_baselines_find_a_leak(planned: tuple[list[Row], list[Row]]) -> None:
    def leaking(rows: Sequence[Row], change: Callable[[Question], Question]) -> list[Row]:
        return [(family, change(question) if question.task == "sound" else question) for family, question in rows]

    def first(question: Question) -> Question:
        assert question.choices is not None
        return replace(question, choices=(question.answer, *(option for option in question.choices if option != question.answer)))

    def worded(question: Question) -> Question:
        return replace(question, question=f"{question.question} It is sound number {len(question.answer)}.")

    def fixed(question: Question) -> Question:
        assert question.choices is not None
        return replace(question, answer=min(question.choices))

    for change, baseline in ((first, most_frequent_position), (worded, bag_of_words), (fixed, most_frequent)):
        found = too_good(baseline, *(leaking(part, change) for part in planned))
        assert "understanding sound" in found, baseline.__name__


def test_the_vocabulary_is_small(planned: tuple[list[Row], list[Row]]) -> None:
    train, test = (
        {word for _, question in part for word in f"{prompt(question)} {question.answer}".replace(",", " ").split()} for part in planned
    )
    assert len(train) < 300
    assert test <= train
