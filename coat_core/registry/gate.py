"""The promotion gate: a pure function from recorded numbers to a decision, with one sentence for every reason.

A candidate is promoted when it passes every check. Always: it is not withdrawn, the data contract passed, every file is safe to load
(no pickle), a cold load gave a real answer, the mean accuracy is above 0 and reaches its floor, not too many answers are unscored, and
two lower bounds pass: that of mean accuracy − chance is *above* `min_above_chance`, and that of the paired difference to the untouched
base is at least −`max_below_base`. Against a champion also: both were scored on the same evaluation set, the lower bound of the paired
interval of candidate − champion is *above* `min_improvement`, and no family lost more than `max_slice_drop`.

An interval over fewer than 20 items or 5 groups is too few: it passes no check. A family with fewer than 20 items is not judged by its
accuracy alone: the reasons say that it is too few, and a drop beyond the margin is still refused. A number that is missing or not
finite passes no check.

A public benchmark that `min_suites` names must reach its smallest strict score, over at least 20 items. Where the champion was scored on
the same items, the drop may be at most `max_slice_drop`, as for a family.

The gain of the thinking block over fine-tuning without it (`coat − sft`) is recorded and shown, but is not a condition.
"""

from __future__ import annotations

from dataclasses import dataclass

from coat_core.evaluation.statistics import MIN_ITEMS, too_few
from coat_core.registry.probe import answer_problem
from coat_core.registry.records import PairedDifference, VersionRecord, as_number, is_finite
from coat_core.settings import RegistrySettings


@dataclass(frozen=True)
class Decision:
    """The outcome: `reasons` are the failed checks of a refusal, or the passed checks of a promotion.

    `unchanged` is true when the candidate is already the champion.
    """

    promote: bool
    reasons: tuple[str, ...]
    unchanged: bool = False

    @property
    def word(self) -> str:
        """`promoted`, `refused` or `unchanged`."""
        return "unchanged" if self.unchanged else "promoted" if self.promote else "refused"


@dataclass(frozen=True)
class _Check:
    passed: bool
    sentence: str


def decide(
    candidate: VersionRecord, champion: VersionRecord | None, settings: RegistrySettings, difference: PairedDifference | None = None
) -> Decision:
    """Decide whether the candidate becomes champion.

    Args:
        candidate: the record of the candidate.
        champion: the record of the current champion, on the same evaluation set; None without a champion.
        settings: floors and margins.
        difference: the paired difference candidate − champion; required with a champion.
    """
    if champion is not None and (champion.name, champion.version) == (candidate.name, candidate.version) and candidate.withdrawn is None:
        return Decision(promote=False, reasons=(f"{candidate.label} is the champion already; nothing changes",), unchanged=True)
    checks = _check_release(candidate) + _check_scores(candidate, settings)
    if champion is None:
        checks.append(_Check(True, "there is no champion to compare with"))
    else:
        checks += _check_against_champion(candidate, champion, settings, difference)
    failed = tuple(check.sentence for check in checks if not check.passed)
    return Decision(promote=not failed, reasons=failed or tuple(check.sentence for check in checks))


def _check_release(candidate: VersionRecord) -> list[_Check]:
    checks = []
    if candidate.withdrawn is not None:
        checks.append(_Check(False, f"{candidate.label} was withdrawn: {candidate.withdrawn}"))
    checks.append(
        _Check(True, "the data contract passed")
        if candidate.contract == "passed"
        else _Check(False, f"the data contract did not pass (recorded: {candidate.contract or 'nothing'})")
    )
    checks.append(
        _Check(False, f"files that can run code when loaded: {', '.join(candidate.unsafe_files)}")
        if candidate.unsafe_files
        else _Check(True, "all weights are safetensors; no file can run code when loaded")
    )
    answer = candidate.cold_load
    if answer is None or not answer.strip():
        problem = candidate.probe_problem
        checks.append(_Check(False, f"a cold load gave no answer{f': {problem}' if problem else ''}"))
    elif problem := candidate.probe_problem or answer_problem(answer):
        checks.append(_Check(False, f"a cold load gave no real answer: {answer.strip()[:200]!r} {problem}"))
    else:
        checks.append(_Check(True, f"a cold load answered {answer.strip()!r}"))
    return checks


def _check_scores(candidate: VersionRecord, settings: RegistrySettings) -> list[_Check]:
    checks = []
    if candidate.mean_accuracy is None:
        checks.append(_Check(False, "no mean accuracy is recorded: nothing was scored"))
    else:
        mean = as_number(candidate.mean_accuracy)
        passed = 0.0 < mean <= 1.0 and mean >= settings.min_accuracy
        outcome = (
            "is not a number between 0 and 1" if not 0.0 <= mean <= 1.0
            else "means that no answer is right" if mean == 0.0
            else f"{'reaches' if passed else 'is below'} the floor {settings.min_accuracy:.3f}"
        )  # fmt: skip
        checks.append(_Check(passed, f"mean accuracy {mean:.3f} {outcome}"))
    unscored = candidate.unscored_share
    if is_finite(unscored) and 0.0 <= unscored <= 1.0:
        passed = unscored <= settings.max_unscored_share
        checks.append(_Check(passed, f"{unscored:.1%} of the answers are unscored; at most {settings.max_unscored_share:.1%} are allowed"))
    else:
        checks.append(_Check(False, "the share of unscored answers is not recorded, or is not a number between 0 and 1"))
    suites = [_suite(name, least, candidate) for name, least in settings.min_suites.items()]
    return [*checks, _above_chance(candidate, settings), _not_below_base(candidate, settings), *suites]


def _above_chance(candidate: VersionRecord, settings: RegistrySettings) -> _Check:
    over = candidate.over_chance
    if over is None:
        # Scores are in [0, 1], so no difference is below -1.
        if settings.min_above_chance <= -1.0:
            return _Check(True, "the mean accuracy is not compared with chance: registry.min_above_chance is -1")
        return _Check(False, "the score of guessing is not known for every example, so the mean accuracy cannot be compared with chance")
    passed = over.finite and not over.too_few and over.low > settings.min_above_chance
    return _Check(
        passed,
        f"mean accuracy above chance: {over.text} over {over.n} items; "
        + (over.too_few or f"its lower bound is {'' if passed else 'not '}above {settings.min_above_chance:+.3f}"),
    )


def _not_below_base(candidate: VersionRecord, settings: RegistrySettings) -> _Check:
    over, allowed = candidate.over_base, -settings.max_below_base
    if over is None:
        # Scores are in [0, 1], so a margin of 1 allows every difference.
        if settings.max_below_base >= 1.0:
            return _Check(True, "the untouched base is not compared: registry.max_below_base is 1")
        return _Check(
            False,
            f"no evaluation of the untouched base on evaluation set {candidate.evaluation_set[:12]} is recorded: add base-0 to `trials` "
            "in params, run the pipeline, and promote again",
        )
    # Accuracies are ratios of whole numbers. A bound equal to the margin must not fail by rounding.
    passed = over.finite and not over.too_few and over.low >= allowed - 1e-9
    return _Check(
        passed,
        f"difference to the untouched base: {over.text} over {over.n} paired answers; "
        + (over.too_few or f"its lower bound is {'not below' if passed else 'below'} {allowed:+.3f}"),
    )


def _check_against_champion(
    candidate: VersionRecord, champion: VersionRecord, settings: RegistrySettings, difference: PairedDifference | None
) -> list[_Check]:
    if candidate.evaluation_set != champion.evaluation_set:
        return [
            _Check(
                False,
                f"{candidate.label} was scored on evaluation set {candidate.evaluation_set[:12]}, the champion (version "
                f"{champion.version}) on {champion.evaluation_set[:12]}: evaluate the champion again on the new set",
            )
        ]
    checks = [_improvement(champion, settings, difference)]
    for family, before in sorted(champion.families.items()):
        if before is not None:
            checks.append(_family(family, before, candidate, settings))
    return [*checks, *(_suite_drop(name, candidate, champion, settings) for name in settings.min_suites if name in champion.suites)]


def _family(family: str, before: float, candidate: VersionRecord, settings: RegistrySettings) -> _Check:
    after = candidate.families.get(family)
    if after is None:
        return _Check(False, f"{family}: the champion has {before:.3f}, the candidate was not scored")
    if not is_finite(after) or not is_finite(before):
        return _Check(False, f"{family}: {after} against {before} are not two finite numbers")
    drop = before - after
    # Accuracies are ratios of whole numbers. A drop equal to the margin must not fail by rounding.
    passed = drop <= settings.max_slice_drop + 1e-9
    items = candidate.items.get(family)
    note = f"; {items} items are too few to judge (at least {MIN_ITEMS})" if items is not None and too_few(items) else ""
    return _Check(
        passed,
        f"{family}: {after:.3f} against {before:.3f} ({-drop:+.3f}; a drop of at most {settings.max_slice_drop:.3f} is allowed{note})",
    )


def _suite(name: str, least: float, candidate: VersionRecord) -> _Check:
    score = candidate.suites.get(name)
    if score is None:
        return _Check(False, f"{name}: the candidate was not scored: keep it in evaluation.suites, run the pipeline, and promote again")
    if not all(is_finite(value) and 0.0 <= value <= 1.0 for value in (score.value, score.low, score.high)):
        return _Check(False, f"{name}: {score.value} is not a number between 0 and 1")
    few = too_few(score.n)
    passed = score.value >= least and not few
    outcome = f"{'reaches' if score.value >= least else 'is below'} the smallest score {least:.3f}"
    return _Check(
        passed,
        f"{name}: strict score {score.value:.3f} [{score.low:.3f}, {score.high:.3f}] over {score.n} items "
        + (f"is too few to judge (at least {MIN_ITEMS})" if few else outcome),
    )


def _suite_drop(name: str, candidate: VersionRecord, champion: VersionRecord, settings: RegistrySettings) -> _Check:
    after, before = candidate.suites.get(name), champion.suites[name]
    if after is None or after.data != before.data:
        return _Check(True, f"{name}: not compared with the champion, which was scored on other items ({before.data})")
    if not is_finite(after.value) or not is_finite(before.value):
        return _Check(False, f"{name}: {after.value} against {before.value} are not two finite numbers")
    drop = before.value - after.value
    # Scores are ratios of whole numbers. A drop equal to the margin must not fail by rounding.
    return _Check(
        drop <= settings.max_slice_drop + 1e-9,
        f"{name}: {after.value:.3f} against {before.value:.3f} ({-drop:+.3f}; a drop of at most {settings.max_slice_drop:.3f} is allowed)",
    )


def _improvement(champion: VersionRecord, settings: RegistrySettings, difference: PairedDifference | None) -> _Check:
    if difference is None:
        return _Check(False, f"no paired difference to the champion (version {champion.version}) is recorded")
    passed = difference.finite and not difference.too_few and difference.low > settings.min_improvement
    return _Check(
        passed,
        f"improvement over the champion (version {champion.version}): {difference.text} over {difference.n} paired answers; "
        + (difference.too_few or f"its lower bound is {'' if passed else 'not '}above {settings.min_improvement:+.3f}"),
    )
