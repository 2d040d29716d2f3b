"""The expectations of the data contract, as data: a column of the facts table, what it must be, and how a bad row is told of."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from coat_core.settings import ContractSettings

DURATION_TOLERANCE_S = 0.010
HEADER_EXCESS_S = 0.5
"""Headers of lossy formats count the encoder's padding."""


@dataclass(frozen=True)
class Check:
    """One expectation on a column of the facts; where the fact is missing there is nothing to check."""

    name: str
    column: str
    expects: str
    reason: str
    """Told of a bad row, with `{value}`."""
    kind: Literal["null", "true", "range"] = "range"
    low: float | None = None
    high: float | None = None
    given: str = ""
    """Column that is filled wherever this one is checked; by default its own."""

    def tell(self, value: Any) -> str:
        """Return the reason for a bad value."""
        return self.reason.format(value=value)


def expectations(settings: ContractSettings) -> tuple[Check, ...]:
    """Return the expectations on rows, in the order in which their reasons are told."""
    shortest, longest = settings.min_duration_s, settings.max_duration_s
    lowest, highest = settings.min_sample_rate_hz, settings.max_sample_rate_hz
    silence, clipped = settings.silence_dbfs, settings.max_clipped_share
    near = f"{DURATION_TOLERANCE_S * 1000:g} ms"
    return (
        Check("schema", "schema_error", "every field is there, known, and of its type", "{value}", "null", given="row"),
        Check("unique_id", "id_occurrence", "an id is used once", "the id occurs again, time {value:.0f}", high=1),
        Check(
            "path_inside", "path_inside", "the audio path stays inside the corpus folder", "the audio path leaves the corpus folder", "true"
        ),
        Check("file_present", "file_present", "the audio file is there", "the audio file is missing", "true"),
        Check("hash", "hash_equals", "the file's SHA-256 is the row's", "the file's SHA-256 is not the row's", "true"),
        Check("decodes", "decode_error", "the audio decodes to its end", "{value}", "null", given="hash_equals"),
        _range("duration", "decoded_duration_s", "{value:.3f} s of audio", " s", shortest, longest),
        Check(
            "manifest_duration",
            "duration_gap_s",
            f"the row's duration is the decoded one within {near}",
            "the row's duration differs from the decoded one by {value:.3f} s",
            high=DURATION_TOLERANCE_S,
        ),
        Check(
            "header_duration",
            "header_excess_s",
            f"the header exceeds the decode by at most {HEADER_EXCESS_S:g} s",
            "the header exceeds the decode by {value:.3f} s",
            low=-HEADER_EXCESS_S,
            high=HEADER_EXCESS_S,
        ),
        _range("sample_rate", "sample_rate_hz", "{value:.0f} Hz", " Hz", lowest, highest),
        Check("manifest_rate", "rate_equals", "the row's sample rate is the file's", "the row's sample rate is not the file's", "true"),
        Check(
            "not_silent", "rms_dbfs", f"at least {silence:g} dBFS RMS", f"silent: {{value:.1f}} dBFS, allowed from {silence:g}", low=silence
        ),
        Check(
            "not_clipped",
            "clipped_share",
            f"at most {clipped:.1%} of samples at full scale",
            "{value:.2%} of samples are at full scale",
            high=clipped,
        ),
        Check(
            "answer_in_choices",
            "answer_in_choices",
            "choices are distinct, and the answer is one of them",
            "the answer is not among distinct choices",
            "true",
        ),
        Check("group_in_one_split", "group_crossing", "no group is in two splits", "group {value}", "null", given="id_occurrence"),
        Check(
            "audio_in_one_split", "audio_crossing", "no audio is in two splits", "the same audio: {value}", "null", given="id_occurrence"
        ),
    )


def balance(settings: ContractSettings) -> Check:
    """Return the expectation on each split."""
    limit = settings.family_imbalance
    return Check(
        "balanced_families",
        "imbalance",
        f"in each split no family has more than {limit:g} times the rows of another",
        f"the largest family has {{value:.1f}} times the rows of the smallest, allowed {limit:g}",
        high=limit,
    )


def _range(name: str, column: str, value: str, unit: str, low: float, high: float) -> Check:
    return Check(name, column, f"between {low:g} and {high:g}{unit}", f"{value}, allowed {low:g} to {high:g}", low=low, high=high)
