from __future__ import annotations

from dataclasses import replace

import pytest

from coat_core.registry.gate import PairedDifference, VersionRecord, decide
from coat_core.registry.probe import answer_problem
from coat_core.registry.records import SuiteScore
from coat_core.settings import RegistrySettings

SETTINGS = RegistrySettings(min_accuracy=0.3, max_unscored_share=0.2, max_slice_drop=0.05, min_improvement=0.0)
FAMILIES = {"music": 0.50, "emotion": 0.40, "transcription": 0.60}
OVER_CHANCE = PairedDifference(difference=0.2, low=0.1, high=0.3, n=300, confidence=0.95, groups=40)
OVER_BASE = PairedDifference(difference=0.01, low=-0.02, high=0.04, n=300, confidence=0.95, groups=40)
CHAMPION = VersionRecord(
    name="coat-x",
    version="1",
    contract="passed",
    evaluation_set="e" * 64,
    families=FAMILIES,
    mean_accuracy=0.5,
    unscored_share=0.1,
    cold_load="two",
    over_chance=OVER_CHANCE,
    over_base=OVER_BASE,
    items=dict.fromkeys(FAMILIES, 100),
)
CANDIDATE = replace(CHAMPION, version="2", families={"music": 0.60, "emotion": 0.45, "transcription": 0.60}, mean_accuracy=0.55)
BETTER = PairedDifference(difference=0.05, low=0.01, high=0.09, n=300, confidence=0.95)

FIRST = [
    ("good", {}, True, "there is no champion"),
    ("mean on the floor", {"mean_accuracy": 0.3}, True, "0.300 reaches the floor 0.300"),
    ("mean under the floor", {"mean_accuracy": 0.299}, False, "mean accuracy 0.299 is below the floor 0.300"),
    ("nothing scored", {"mean_accuracy": None}, False, "nothing was scored"),
    ("mean not a number", {"mean_accuracy": float("nan")}, False, "is not a number between 0 and 1"),
    ("mean a text", {"mean_accuracy": "0.6"}, False, "is not a number between 0 and 1"),
    ("mean above one", {"mean_accuracy": 1.2}, False, "1.200 is not a number between 0 and 1"),
    ("nothing right", {"mean_accuracy": 0.0}, False, "mean accuracy 0.000 means that no answer is right"),
    ("unscored at the limit", {"unscored_share": 0.2}, True, "20.0% of the answers are unscored"),
    ("too many unscored", {"unscored_share": 0.21}, False, "21.0% of the answers are unscored; at most 20.0% are allowed"),
    ("contract failed", {"contract": "failed"}, False, "data contract did not pass (recorded: failed)"),
    ("contract not recorded", {"contract": ""}, False, "data contract did not pass (recorded: nothing)"),
    ("a pickle", {"unsafe_files": ("release/heads.pkl",)}, False, "release/heads.pkl"),
    ("no cold load", {"cold_load": None}, False, "cold load gave no answer"),
    ("cold load answered with blanks", {"cold_load": "  \n"}, False, "cold load gave no answer"),
    ("mean infinite", {"mean_accuracy": float("inf")}, False, "is not a number between 0 and 1"),
    ("unscored share not a number", {"unscored_share": float("nan")}, False, "share of unscored answers is not recorded"),
    ("unscored share negative", {"unscored_share": -1.0}, False, "is not a number between 0 and 1"),
    ("unscored share None", {"unscored_share": None}, False, "share of unscored answers is not recorded"),
    ("unscored share infinite", {"unscored_share": float("-inf")}, False, "share of unscored answers is not recorded"),
    ("chance not known", {"over_chance": None}, False, "score of guessing is not known"),
    ("at chance", {"over_chance": replace(OVER_CHANCE, low=0.0)}, False, "its lower bound is not above +0.000"),
    ("below chance", {"over_chance": PairedDifference(-0.33, -0.36, -0.3, 300, 0.95, 40)}, False, "-0.330, 95% interval [-0.360, -0.300]"),
    ("chance bound not a number", {"over_chance": replace(OVER_CHANCE, low=float("nan"))}, False, "not above +0.000"),
    ("chance bound None", {"over_chance": replace(OVER_CHANCE, low=None)}, False, "[+nan, +0.300]"),
    ("chance without a count", {"over_chance": replace(OVER_CHANCE, n=None)}, False, "the number of items is not recorded"),
    ("chance bound infinite", {"over_chance": replace(OVER_CHANCE, low=float("inf"))}, False, "not above +0.000"),
    (
        "one item above chance",
        {"over_chance": PairedDifference(1.0, 1.0, 1.0, 1, 0.95, 1)},
        False,
        "1 item in 1 group is too few to judge",
    ),
    ("19 items above chance", {"over_chance": replace(OVER_CHANCE, n=19)}, False, "19 items in 40 groups are too few to judge"),
    ("4 groups above chance", {"over_chance": replace(OVER_CHANCE, groups=4)}, False, "300 items in 4 groups are too few to judge"),
    ("20 items in 5 groups", {"over_chance": replace(OVER_CHANCE, n=20, groups=5)}, True, "over 20 items; its lower bound is above"),
    ("base not evaluated", {"over_base": None}, False, "add base-0 to `trials`"),
    ("below base by the margin", {}, True, "-0.020, +0.040] over 300 paired answers; its lower bound is not below -0.020"),
    ("below base by more", {"over_base": replace(OVER_BASE, low=-0.021)}, False, "its lower bound is below -0.020"),
    ("base bound not a number", {"over_base": replace(OVER_BASE, low=float("nan"))}, False, "difference to the untouched base"),
    ("base over few items", {"over_base": replace(OVER_BASE, low=1.0, n=3, groups=3)}, False, "3 items in 3 groups are too few"),
    ("cold load of control text", {"cold_load": "user\nuser\n::::"}, False, "contains words of the chat template"),
    ("cold load cut off", {"probe_problem": "was cut off after 64 tokens"}, False, "'two' was cut off after 64 tokens"),
    ("withdrawn", {"withdrawn": "ada: clicks on silence"}, False, "version 2 was withdrawn: ada: clicks on silence"),
]


@pytest.mark.parametrize(("changes", "promote", "reason"), [row[1:] for row in FIRST], ids=[row[0] for row in FIRST])
def test_without_a_champion(changes: dict, promote: bool, reason: str) -> None:
    decision = decide(replace(CANDIDATE, **changes), None, SETTINGS)
    assert decision.promote is promote
    assert any(reason in sentence for sentence in decision.reasons), decision.reasons
    assert not decision.unchanged
    if not promote:
        assert len(decision.reasons) == 1, "a refusal names what failed and nothing else"


@pytest.mark.parametrize(("margin", "promote"), [(-1.0, True), (-0.99, False)])
def test_a_margin_of_minus_one_asks_for_no_comparison_with_chance(margin: float, promote: bool) -> None:
    decision = decide(replace(CANDIDATE, over_chance=None), None, SETTINGS.model_copy(update={"min_above_chance": margin}))
    assert decision.promote is promote
    expected = "is not compared with chance: registry.min_above_chance is -1" if promote else "the score of guessing is not known"
    assert any(expected in sentence for sentence in decision.reasons), decision.reasons


AGAINST = [
    ("better", {}, BETTER, {}, True, "+0.050, 95% interval [+0.010, +0.090] over 300 paired answers; its lower bound is above +0.000"),
    ("interval touches zero", {}, replace(BETTER, low=0.0), {}, False, "is not above +0.000"),
    ("interval includes zero", {}, replace(BETTER, low=-0.01), {}, False, "[-0.010, +0.090]"),
    ("the same answers again", {"families": FAMILIES}, PairedDifference(0.0, 0.0, 0.0, 300, 0.95), {}, False, "+0.000, 95% interval"),
    ("not worse by more than the slack", {}, replace(BETTER, low=-0.01), {"min_improvement": -0.02}, True, "is above -0.020"),
    ("worse by more than the slack", {}, replace(BETTER, low=-0.03), {"min_improvement": -0.02}, False, "is not above -0.020"),
    ("better, but not by enough", {}, BETTER, {"min_improvement": 0.02}, False, "is not above +0.020"),
    ("no paired difference", {}, None, {}, False, "no paired difference"),
    ("interval not a number", {}, replace(BETTER, low=float("nan")), {}, False, "is not above"),
    ("a family lost the margin", {"families": {**FAMILIES, "music": 0.45}}, BETTER, {}, True, "music: 0.450 against 0.500 (-0.050"),
    ("a family lost more", {"families": {**FAMILIES, "music": 0.44}}, BETTER, {}, False, "music: 0.440 against 0.500 (-0.060"),
    ("a family is missing", {"families": {"music": 0.9, "emotion": 0.9}}, BETTER, {}, False, "transcription: the champion has 0.600"),
    ("a family without scores", {"families": {**FAMILIES, "music": None}}, BETTER, {}, False, "music: the champion has 0.500"),
    ("a family not a number", {"families": {**FAMILIES, "music": float("nan")}}, BETTER, {}, False, "are not two finite numbers"),
    ("a family infinite", {"families": {**FAMILIES, "music": float("inf")}}, BETTER, {}, False, "are not two finite numbers"),
    ("a family of few items", {"items": {"music": 3}}, BETTER, {}, True, "is allowed; 3 items are too few to judge (at least 20))"),
    ("a family of few items lost more", {"families": {**FAMILIES, "music": 0.4}, "items": {"music": 3}}, BETTER, {}, False, "3 items are"),
    ("one item better", {}, PairedDifference(1.0, 1.0, 1.0, 1, 0.95, 1), {}, False, "1 item in 1 group is too few to judge"),
    ("few groups better", {}, replace(BETTER, groups=4), {}, False, "300 items in 4 groups are too few"),
    ("bound infinite", {}, replace(BETTER, low=float("inf")), {}, False, "is not above"),
    ("a new family", {"families": {**FAMILIES, "understanding": 0.1}}, BETTER, {}, True, "improvement over the champion"),
    ("another evaluation set", {"evaluation_set": "f" * 64}, BETTER, {}, False, "evaluate the champion again"),
    ("below the floor, yet better", {"mean_accuracy": 0.2}, BETTER, {}, False, "is below the floor"),
    ("withdrawn, yet better", {"withdrawn": "ada: clicks"}, BETTER, {}, False, "was withdrawn"),
]


@pytest.mark.parametrize(
    ("changes", "difference", "settings", "promote", "reason"), [row[1:] for row in AGAINST], ids=[row[0] for row in AGAINST]
)
def test_against_a_champion(changes: dict, difference: PairedDifference | None, settings: dict, promote: bool, reason: str) -> None:
    decision = decide(replace(CANDIDATE, **changes), CHAMPION, SETTINGS.model_copy(update=settings), difference)
    assert decision.promote is promote
    assert decision.word == ("promoted" if promote else "refused")
    assert any(reason in sentence for sentence in decision.reasons), decision.reasons
    if not promote:
        assert len(decision.reasons) == 1


def test_every_failure_is_named_at_once() -> None:
    bad = replace(
        CANDIDATE, contract="failed", cold_load=None, mean_accuracy=0.1, unsafe_files=("a.pkl",), families={**FAMILIES, "music": 0.1}
    )
    assert len(decide(bad, CHAMPION, SETTINGS, replace(BETTER, low=-1.0)).reasons) == 6


def test_the_champion_itself_changes_nothing() -> None:
    decision = decide(CHAMPION, CHAMPION, SETTINGS, BETTER)
    assert decision.unchanged
    assert not decision.promote
    assert "version 1 is the champion already" in decision.reasons[0]


def test_a_withdrawn_champion_is_refused() -> None:
    withdrawn = replace(CHAMPION, withdrawn="ada: clicks")
    decision = decide(withdrawn, withdrawn, SETTINGS, BETTER)
    assert not decision.unchanged
    assert "was withdrawn" in decision.reasons[0]


def test_the_same_version_number_of_another_model_is_not_the_champion() -> None:
    assert not decide(replace(CANDIDATE, name="coat-y", version="1"), CHAMPION, SETTINGS, BETTER).unchanged


def test_a_family_without_scores_of_the_champion_is_not_compared() -> None:
    champion = replace(CHAMPION, families={**FAMILIES, "reasoning": None})
    assert decide(CANDIDATE, champion, SETTINGS, BETTER).promote


@pytest.mark.parametrize("margin", [0.99, 1.0])
def test_a_margin_of_one_needs_no_evaluation_of_the_base(margin: float) -> None:
    decision = decide(replace(CANDIDATE, over_base=None), None, SETTINGS.model_copy(update={"max_below_base": margin}))
    assert decision.promote is (margin == 1.0)


def test_a_record_without_the_new_numbers_is_refused_by_name() -> None:
    old = VersionRecord("coat-x", "1", "passed", "e" * 64, FAMILIES, 0.5, 0.1, cold_load="two")
    reasons = decide(old, None, SETTINGS).reasons
    assert len(reasons) == 2
    assert "score of guessing" in reasons[0]
    assert "base-0" in reasons[1]


@pytest.mark.parametrize(
    ("answer", "problem"),
    [
        pytest.param("six two", "", id="words"),
        pytest.param("440", "", id="number"),
        pytest.param("human", "", id="a-choice-that-is-also-a-role"),
        pytest.param("雨。\n音", "", id="another-script"),
        pytest.param("The user speaks.", "", id="a-sentence-with-a-role"),
        pytest.param(" \n", "is empty", id="empty"),
        pytest.param("::::", "is only punctuation", id="punctuation"),
        pytest.param("…?!", "is only punctuation", id="unicode-punctuation"),
        pytest.param("user\nuser\n::::", "contains words of the chat template", id="roles"),
        pytest.param("assistant", "contains words of the chat template", id="one-role"),
        pytest.param("dog\nuser\nWhat is it?", "contains words of the chat template", id="a-continued-turn"),
        pytest.param("dog\nsystem\nYou are", "contains words of the chat template", id="a-system-turn"),
        pytest.param("system failure", "", id="a-sentence-that-begins-with-a-role"),
        pytest.param("system", "", id="one-word-that-is-also-a-role"),
        pytest.param("assistant user dog", "contains words of the chat template", id="two-roles-and-a-word"),
        pytest.param("<tool_call>", "contains the control text '<tool_call>'", id="tool-tag"),
        pytest.param("<unused5> dog", "contains the control text '<unused5>'", id="numbered-tag"),
        pytest.param("<0x0A>", "contains the control text '<0x0A>'", id="byte-token"),
        pytest.param("a < b > c", "", id="signs-of-comparison"),
        pytest.param("Assistant: dog", "contains words of the chat template", id="role-and-colon"),
        pytest.param("dog<|im_end|>", "contains the control text '<|im_end|>'", id="special-token"),
        pytest.param("<sound> dog", "contains the control text '<sound>'", id="audio-token"),
        pytest.param("[INST] dog", "contains the control text '[INST]'", id="instruction-tag"),
        pytest.param("dog\x00", "contains control characters", id="control-character"),
        pytest.param("d\ufffdg", "contains bytes that are not text", id="broken-bytes"),
    ],
)
def test_an_answer_is_real_or_its_problem_is_named(answer: str, problem: str) -> None:
    assert answer_problem(answer) == problem


SCORE = SuiteScore(value=0.5, low=0.4, high=0.6, n=100, official=None, data="test, 100 items, MD5 a")
NAMED = SETTINGS.model_copy(update={"min_suites": {"mmau": 0.45}})


@pytest.mark.parametrize(
    ("score", "promote", "reason"),
    [
        (SCORE, True, "mmau: strict score 0.500 [0.400, 0.600] over 100 items reaches the smallest score 0.450"),
        (replace(SCORE, value=0.45), True, "reaches the smallest score 0.450"),
        (replace(SCORE, value=0.449), False, "mmau: strict score 0.449 [0.400, 0.600] over 100 items is below the smallest score 0.450"),
        (replace(SCORE, n=19), False, "over 19 items is too few to judge (at least 20)"),
        (replace(SCORE, value=float("nan")), False, "mmau: nan is not a number between 0 and 1"),
        (replace(SCORE, high=1.5), False, "is not a number between 0 and 1"),
        (None, False, "mmau: the candidate was not scored"),
    ],
)
def test_a_public_benchmark_has_a_smallest_score(score: SuiteScore | None, promote: bool, reason: str) -> None:
    decision = decide(replace(CANDIDATE, suites={"mmau": score} if score else {}), None, NAMED)
    assert decision.promote == promote
    assert any(reason in text for text in decision.reasons), decision.reasons
    assert decide(replace(CANDIDATE, suites={}), None, SETTINGS).promote, "a benchmark that params do not name is no condition"


@pytest.mark.parametrize(
    ("before", "promote", "reason"),
    [
        (replace(SCORE, value=0.55), True, "mmau: 0.500 against 0.550 (-0.050; a drop of at most 0.050 is allowed)"),
        (replace(SCORE, value=0.56), False, "mmau: 0.500 against 0.560 (-0.060; a drop of at most 0.050 is allowed)"),
        (
            replace(SCORE, value=0.9, data="test, 90 items, MD5 b"),
            True,
            "mmau: not compared with the champion",
        ),
        (replace(SCORE, value=float("nan")), False, "are not two finite numbers"),
    ],
)
def test_a_public_benchmark_is_a_slice_against_the_champion(before: SuiteScore, promote: bool, reason: str) -> None:
    champion = replace(CHAMPION, suites={"mmau": before, "gtzan": replace(SCORE, value=1.0)})
    decision = decide(replace(CANDIDATE, suites={"mmau": SCORE}), champion, NAMED, BETTER)
    assert decision.promote == promote
    assert any(reason in text for text in decision.reasons), decision.reasons
