from __future__ import annotations

from dataclasses import replace

import pytest

from coat_core.registry.gate import PairedDifference, VersionRecord, decide
from coat_core.settings import RegistrySettings

SETTINGS = RegistrySettings(min_accuracy=0.3, max_unscored_share=0.2, max_slice_drop=0.05, min_improvement=0.0)
FAMILIES = {"music": 0.50, "emotion": 0.40, "transcription": 0.60}
CHAMPION = VersionRecord(
    name="coat-x",
    version="1",
    contract="passed",
    evaluation_set="e" * 64,
    families=FAMILIES,
    mean_accuracy=0.5,
    unscored_share=0.1,
    cold_load="two",
)
CANDIDATE = replace(CHAMPION, version="2", families={"music": 0.60, "emotion": 0.45, "transcription": 0.60}, mean_accuracy=0.55)
BETTER = PairedDifference(difference=0.05, low=0.01, high=0.09, n=300, confidence=0.95)

FIRST = [
    ("good", {}, True, "there is no champion"),
    ("mean on the floor", {"mean_accuracy": 0.3}, True, "0.300 reaches the floor 0.300"),
    ("mean under the floor", {"mean_accuracy": 0.299}, False, "mean accuracy 0.299 is below the floor 0.300"),
    ("nothing scored", {"mean_accuracy": None}, False, "nothing was scored"),
    ("mean not a number", {"mean_accuracy": float("nan")}, False, "is below the floor"),
    ("unscored at the limit", {"unscored_share": 0.2}, True, "20.0% of the answers are unscored"),
    ("too many unscored", {"unscored_share": 0.21}, False, "21.0% of the answers are unscored; at most 20.0% are allowed"),
    ("contract failed", {"contract": "failed"}, False, "data contract did not pass (recorded: failed)"),
    ("contract not recorded", {"contract": ""}, False, "data contract did not pass (recorded: nothing)"),
    ("a pickle", {"unsafe_files": ("release/heads.pkl",)}, False, "release/heads.pkl"),
    ("no cold load", {"cold_load": None}, False, "cold load gave no answer"),
    ("cold load answered with blanks", {"cold_load": "  \n"}, False, "cold load gave no answer"),
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
