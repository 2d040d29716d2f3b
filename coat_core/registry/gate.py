"""The promotion gate: a pure function from recorded numbers to a decision, with one sentence for every reason.

A candidate is promoted when it passes every check. Without a champion: it is not withdrawn, the data contract passed, every file is
safe to load (no pickle), a cold load gave an answer, the mean accuracy reaches its floor, and not too many answers are unscored.
Against a champion also: both were scored on the same evaluation set, the lower bound of the paired interval of candidate − champion
is *above* `min_improvement`, and no family lost more than `max_slice_drop`.

The gain of the thinking block over fine-tuning without it (`coat − sft`) is recorded and shown, but is not a condition.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from coat_core.settings import RegistrySettings


@dataclass(frozen=True)
class VersionRecord:
    """The record of one registered version.

    Attributes:
        name: registered model.
        version: version of the model.
        contract: result of the data contract, `passed` or another word.
        evaluation_set: SHA-256 of the examples that it was scored on.
        families: accuracy by task family (1 − WER for transcription); None for a family without scored answers.
        mean_accuracy: mean over families; None without any.
        unscored_share: share of responses without a readable answer.
        unsafe_files: artifacts that can run code when they are loaded.
        cold_load: answer of a cold load; None if it failed or was not tried.
        withdrawn: who withdrew the version, and why; None if it was not withdrawn.
    """

    name: str
    version: str
    contract: str
    evaluation_set: str
    families: Mapping[str, float | None]
    mean_accuracy: float | None
    unscored_share: float
    unsafe_files: tuple[str, ...] = ()
    cold_load: str | None = None
    withdrawn: str | None = None

    @property
    def label(self) -> str:
        """`name version n`, for sentences."""
        return f"{self.name} version {self.version}"


@dataclass(frozen=True)
class PairedDifference:
    """Mean difference candidate − champion over the same examples, with its paired bootstrap interval.

    Attributes:
        difference: mean difference of scores.
        low: lower bound of the interval.
        high: upper bound.
        n: number of examples that both answered.
        confidence: confidence of the interval, e.g. 0.95.
    """

    difference: float
    low: float
    high: float
    n: int
    confidence: float


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
        difference: the paired difference; required with a champion.
    """
    if champion is not None and (champion.name, champion.version) == (candidate.name, candidate.version) and candidate.withdrawn is None:
        return Decision(promote=False, reasons=(f"{candidate.label} is the champion already; nothing changes",), unchanged=True)
    checks = _check_candidate(candidate, settings)
    if champion is None:
        checks.append(_Check(True, "there is no champion to compare with"))
    else:
        checks += _check_against_champion(candidate, champion, settings, difference)
    failed = tuple(check.sentence for check in checks if not check.passed)
    return Decision(promote=not failed, reasons=failed or tuple(check.sentence for check in checks))


def _check_candidate(candidate: VersionRecord, settings: RegistrySettings) -> list[_Check]:
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
    checks.append(
        _Check(True, f"a cold load answered {candidate.cold_load.strip()!r}")
        if candidate.cold_load is not None and candidate.cold_load.strip()
        else _Check(False, "a cold load gave no answer")
    )
    mean = candidate.mean_accuracy
    if mean is None:
        checks.append(_Check(False, "no mean accuracy is recorded: nothing was scored"))
    else:
        passed = mean >= settings.min_accuracy
        checks.append(
            _Check(passed, f"mean accuracy {mean:.3f} {'reaches' if passed else 'is below'} the floor {settings.min_accuracy:.3f}")
        )
    passed = candidate.unscored_share <= settings.max_unscored_share
    checks.append(
        _Check(passed, f"{candidate.unscored_share:.1%} of the answers are unscored; at most {settings.max_unscored_share:.1%} are allowed")
    )
    return checks


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
        after = candidate.families.get(family)
        if before is None:
            continue
        if after is None:
            checks.append(_Check(False, f"{family}: the champion has {before:.3f}, the candidate was not scored"))
            continue
        drop = before - after
        # Accuracies are ratios of whole numbers. A drop equal to the margin must not fail by rounding.
        passed = drop <= settings.max_slice_drop + 1e-9
        checks.append(
            _Check(
                passed,
                f"{family}: {after:.3f} against {before:.3f} ({-drop:+.3f}; a drop of at most {settings.max_slice_drop:.3f} is allowed)",
            )
        )
    return checks


def _improvement(champion: VersionRecord, settings: RegistrySettings, difference: PairedDifference | None) -> _Check:
    if difference is None:
        return _Check(False, f"no paired difference to the champion (version {champion.version}) is recorded")
    passed = difference.low > settings.min_improvement
    return _Check(
        passed,
        f"improvement over the champion (version {champion.version}): {difference.difference:+.3f}, {difference.confidence:.0%} interval "
        f"[{difference.low:+.3f}, {difference.high:+.3f}] over {difference.n} paired answers; its lower bound is "
        f"{'' if passed else 'not '}above {settings.min_improvement:+.3f}",
    )
