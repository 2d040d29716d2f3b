"""The expectations of the data contract: a column of the facts table, its allowed values and the reason reported for an invalid row."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from coat_core.corpus.audio import HEADER_TOLERANCE_S
from coat_core.settings import ContractSettings

DURATION_TOLERANCE_S = 0.010


@dataclass(frozen=True)
class Expectation:
    """One expectation on a column of the facts table. Missing values are not checked."""

    name: str
    column: str
    expects: str
    reason: str
    """Format string of the reason reported for an invalid row, with the field `{value}`."""
    kind: Literal["null", "true", "range"] = "range"
    low: float | None = None
    high: float | None = None
    checked_column: str = ""
    """A row counts as checked if this column is not missing; by default `column`."""
    defect: bool = True
    """Whether an invalid row counts against `contract.max_bad_share`; otherwise the row is set aside only."""

    def format_reason(self, value: Any) -> str:
        """Return the reason reported for an invalid value."""
        return self.reason.format(value=value)


def row_expectations(settings: ContractSettings) -> tuple[Expectation, ...]:
    """Return the expectations on rows, in the order in which their reasons are reported."""
    shortest, longest = settings.min_duration_s, settings.max_duration_s
    lowest, highest = settings.min_sample_rate_hz, settings.max_sample_rate_hz
    silence, clipped = settings.silence_dbfs, settings.max_clipped_share
    near = f"{DURATION_TOLERANCE_S * 1000:g} ms"
    return (
        Expectation(
            "schema", "schema_error", "every field is present, known and of the right type", "{value}", "null", checked_column="row"
        ),
        Expectation("unique_id", "id_occurrence", "an id occurs once", "the id occurs again (occurrence {value:.0f})", high=1),
        Expectation(
            "path_inside",
            "path_inside",
            "the audio path is inside the corpus folder",
            "the audio path is outside the corpus folder",
            "true",
        ),
        Expectation("file_present", "file_present", "the audio file exists", "the audio file is missing", "true"),
        Expectation(
            "hash",
            "hash_equals",
            "the SHA-256 of the file equals that of the row",
            "the SHA-256 of the file differs from that of the row",
            "true",
        ),
        Expectation("decodes", "decode_error", "the audio decodes completely", "{value}", "null", checked_column="hash_equals"),
        _range("duration", "decoded_duration_s", "{value:.3f} s of audio", " s", shortest, longest),
        Expectation(
            "manifest_duration",
            "duration_gap_s",
            f"the duration of the row equals the decoded one within {near}",
            "the duration of the row differs from the decoded one by {value:.3f} s; a row that means a segment of its file needs `offset`, "
            "the start of the segment in seconds",
            high=DURATION_TOLERANCE_S,
        ),
        Expectation(
            "header_duration",
            "header_excess_s",
            f"the header duration differs from the decoded one by at most {HEADER_TOLERANCE_S:g} s",
            "the header duration exceeds the decoded one by {value:.3f} s",
            low=-HEADER_TOLERANCE_S,
            high=HEADER_TOLERANCE_S,
        ),
        _range("sample_rate", "sample_rate_hz", "{value:.0f} Hz", " Hz", lowest, highest),
        Expectation(
            "manifest_rate",
            "rate_equals",
            "the sample rate of the row equals that of the file",
            "the sample rate of the row differs from that of the file",
            "true",
        ),
        Expectation(
            "not_silent",
            "rms_dbfs",
            f"the mono mix that the model receives has at least {silence:g} dBFS RMS",
            f"silent: {{value:.1f}} dBFS in the mono mix that the model receives, allowed at least {silence:g}",
            low=silence,
        ),
        Expectation(
            "not_clipped",
            "clipped_share",
            f"at most {clipped:.1%} of samples at full scale",
            "{value:.2%} of samples are at full scale",
            high=clipped,
        ),
        Expectation(
            "answer_in_choices",
            "choices_error",
            "choices are distinct in the normal form of the scorer, and the answer is one of them",
            "the answer is not among distinct choices: {value}",
            "null",
            checked_column="choices_count",
        ),
        Expectation(
            "scorable_answer",
            "scoring_error",
            "the answer to an open question has a word after the normalisation of the scorer",
            "no response can be scored: {value}",
            "null",
            checked_column="id_occurrence",
            # The row is correct ("um" was said), but it neither trains nor tests anything.
            defect=False,
        ),
        Expectation(
            "unlabelled_in_train",
            "unlabelled_split",
            "an unlabelled example (answer null) is in the split train",
            "an unlabelled example cannot be evaluated: the answer is null in the split {value}, allowed split: train",
            "null",
            checked_column="id_occurrence",
        ),
        Expectation(
            "group_in_one_split", "group_crossing", "no group is in two splits", "group {value}", "null", checked_column="id_occurrence"
        ),
        Expectation(
            "audio_in_one_split",
            "audio_crossing",
            "no audio is in two splits",
            "the audio is in two splits: {value}",
            "null",
            checked_column="id_occurrence",
        ),
    )


def balance_expectation(settings: ContractSettings) -> Expectation:
    """Return the expectation on the family counts of each split."""
    limit = settings.family_imbalance
    return Expectation(
        "balanced_families",
        "imbalance",
        f"in each split no family has more than {limit:g} times the labelled rows of another",
        f"the largest family has {{value:.1f}} times the rows of the smallest, allowed {limit:g}",
        high=limit,
    )


def _range(name: str, column: str, value: str, unit: str, low: float, high: float) -> Expectation:
    return Expectation(name, column, f"between {low:g} and {high:g}{unit}", f"{value}, allowed {low:g} to {high:g}", low=low, high=high)
