"""The promotion gate: a pure decision over recorded numbers, with a sentence for every reason.

A candidate is promoted when every check below holds. Without a champion: it is not withdrawn, the data contract passed, every
file is safe to load (no pickle), a cold load answered a probe, the mean accuracy reaches its floor and not too many answers
went unscored. Against a champion also: both were scored on the same evaluation set, the lower bound of the paired interval of
candidate − champion lies *above* `min_improvement`, and no family lost more than `max_slice_drop`.

What the thinking block brings against plain fine-tuning (`coat − sft`) is recorded and shown, but is no condition here.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from coat_core.settings import RegistrySettings


@dataclass(frozen=True)
class Evidence:
    """What was recorded of one registered version.

    Attributes:
        name: registered model.
        version: its version there.
        contract: result of the data contract, `passed` or another word.
        evaluation_set: SHA-256 of the examples that it was scored on.
        families: accuracy by task family (1 − WER for transcription); None where a family had nothing to score.
        mean_accuracy: mean over families; None when there is none.
        unscored_share: share of responses from which no answer could be read.
        unsafe_files: artifacts that can run code when they are loaded.
        probe: what a cold load in a process of its own answered; None when it did not, or was not tried.
        withdrawn: who withdrew the version and why; None when nobody did.
    """

    name: str
    version: str
    contract: str
    evaluation_set: str
    families: Mapping[str, float | None]
    mean_accuracy: float | None
    unscored_share: float
    unsafe_files: tuple[str, ...] = ()
    probe: str | None = None
    withdrawn: str | None = None

    @property
    def label(self) -> str:
        """`name version n`, for sentences."""
        return f"{self.name} version {self.version}"


@dataclass(frozen=True)
class Comparison:
    """Mean difference candidate − champion over the same examples, with its paired bootstrap interval.

    Attributes:
        difference: mean difference of scores.
        low: lower bound of the interval.
        high: upper bound.
        n: examples that both answered.
        confidence: of the interval, e.g. 0.95.
    """

    difference: float
    low: float
    high: float
    n: int
    confidence: float


@dataclass(frozen=True)
class Decision:
    """The outcome: `reasons` are the failed checks of a refusal, or the passed ones of a promotion.

    `unchanged` says that the candidate is the champion already, so that there was nothing to decide.
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


def decide(candidate: Evidence, champion: Evidence | None, settings: RegistrySettings, comparison: Comparison | None = None) -> Decision:
    """Decide whether the candidate becomes champion.

    Args:
        candidate: what is recorded of the candidate.
        champion: what is recorded of the present champion, on the same evaluation set; None when there is no champion.
        settings: floors and margins.
        comparison: the paired comparison; needed with a champion.
    """
    if champion is not None and (champion.name, champion.version) == (candidate.name, candidate.version) and candidate.withdrawn is None:
        return Decision(promote=False, reasons=(f"{candidate.label} is the champion already; nothing changes",), unchanged=True)
    checks = _own_checks(candidate, settings)
    if champion is None:
        checks.append(_Check(True, "there is no champion to compare with"))
    else:
        checks += _against(candidate, champion, settings, comparison)
    failed = tuple(check.sentence for check in checks if not check.passed)
    return Decision(promote=not failed, reasons=failed or tuple(check.sentence for check in checks))


def _own_checks(candidate: Evidence, settings: RegistrySettings) -> list[_Check]:
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
        _Check(True, f"a cold load answered the probe: {candidate.probe.strip()!r}")
        if candidate.probe is not None and candidate.probe.strip()
        else _Check(False, "a cold load did not answer the probe")
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
        _Check(passed, f"{candidate.unscored_share:.1%} of the answers went unscored; at most {settings.max_unscored_share:.1%} may")
    )
    return checks


def _against(candidate: Evidence, champion: Evidence, settings: RegistrySettings, comparison: Comparison | None) -> list[_Check]:
    if candidate.evaluation_set != champion.evaluation_set:
        return [
            _Check(
                False,
                f"{candidate.label} was scored on evaluation set {candidate.evaluation_set[:12]}, the champion (version "
                f"{champion.version}) on {champion.evaluation_set[:12]}: evaluate the champion again on the new set",
            )
        ]
    checks = [_improvement(champion, settings, comparison)]
    for family, before in sorted(champion.families.items()):
        after = candidate.families.get(family)
        if before is None:
            continue
        if after is None:
            checks.append(_Check(False, f"{family}: the champion has {before:.3f}, the candidate was not scored"))
            continue
        drop = before - after
        # Accuracies are ratios of whole numbers: a drop equal to the margin must not fail by rounding.
        passed = drop <= settings.max_slice_drop + 1e-9
        checks.append(
            _Check(
                passed,
                f"{family}: {after:.3f} against {before:.3f} ({-drop:+.3f}; a drop of at most {settings.max_slice_drop:.3f} is allowed)",
            )
        )
    return checks


def _improvement(champion: Evidence, settings: RegistrySettings, comparison: Comparison | None) -> _Check:
    if comparison is None:
        return _Check(False, f"no paired comparison with the champion (version {champion.version}) is recorded")
    passed = comparison.low > settings.min_improvement
    return _Check(
        passed,
        f"improvement over the champion (version {champion.version}): {comparison.difference:+.3f}, {comparison.confidence:.0%} interval "
        f"[{comparison.low:+.3f}, {comparison.high:+.3f}] over {comparison.n} paired answers; its lower bound "
        f"{'lies' if passed else 'does not lie'} above {settings.min_improvement:+.3f}",
    )
