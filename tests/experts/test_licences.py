from __future__ import annotations

import re
from pathlib import Path

import pytest

from coat_core.errors import ExpertError
from coat_core.experts.catalogue import ACOUSTIC, NEURAL, PACKAGED, load_expert
from coat_core.experts.neural import audio_events, codec, lalm_tower, speech_emotion, speech_encoder
from coat_core.experts.neural.licences import KnownCheckpoint, choose
from coat_core.settings import ExpertSettings

TABLES = {
    "speech_encoder": speech_encoder.KNOWN,
    "audio_events": audio_events.KNOWN,
    "speech_emotion": speech_emotion.KNOWN,
    "codec": codec.KNOWN,
    "lalm_tower": lalm_tower.KNOWN,
}
FREE = KnownCheckpoint("owner/free", "a" * 40, "MIT", "nothing", "a paper")
CLOSED = KnownCheckpoint("owner/closed", "b" * 40, "CC-BY-NC-4.0", "nothing", "a paper")
LOOSE = KnownCheckpoint("owner/loose", None, "MIT", "nothing", "a paper")


def _settings(**values: object) -> ExpertSettings:
    return ExpertSettings(implementation="codec", **values)


def test_every_neural_implementation_has_a_table_whose_default_is_pinned_and_free() -> None:
    assert set(TABLES) == set(NEURAL) - set(PACKAGED)
    for known in TABLES.values():
        assert known[0].commercial_use
        assert known[0].revision is not None
        for entry in known:
            assert re.fullmatch(r"[\w.-]+/[\w.-]+", entry.checkpoint)
            assert entry.revision is None or re.fullmatch(r"[0-9a-f]{40}", entry.revision)
            assert entry.licence
            assert entry.fitted_on
            assert entry.source


def test_the_default_and_its_commit() -> None:
    chosen = choose(_settings(), (FREE, CLOSED))
    assert (chosen.checkpoint, chosen.revision, chosen.licence, chosen.commercial_use) == ("owner/free", "a" * 40, "MIT", True)


def test_a_revision_of_params_overrides_the_table() -> None:
    assert choose(_settings(revision="c" * 40), (FREE,)).revision == "c" * 40


@pytest.mark.parametrize("accepted", [None, "MIT", "cc-by-nc-4.0", "CC-BY-NC"])
def test_a_non_commercial_licence_is_accepted_word_for_word_or_not_at_all(accepted: str | None) -> None:
    with pytest.raises(ExpertError, match=r"forbids commercial use.*CC-BY-NC-4\.0.*owner/free"):
        choose(_settings(checkpoint="owner/closed", accept_licence=accepted), (FREE, CLOSED))
    chosen = choose(_settings(checkpoint="owner/closed", accept_licence="CC-BY-NC-4.0"), (FREE, CLOSED))
    assert not chosen.commercial_use


def test_a_checkpoint_without_a_known_commit_requires_a_revision() -> None:
    with pytest.raises(ExpertError, match=r"the table has no commit of owner/loose.*Files and versions"):
        choose(_settings(), (LOOSE, FREE))
    assert choose(_settings(revision="d" * 40), (LOOSE, FREE)).revision == "d" * 40


def test_an_unknown_checkpoint_requires_its_licence() -> None:
    with pytest.raises(ExpertError, match=r"licence of me/mine is unknown.*model card"):
        choose(_settings(checkpoint="me/mine", revision="e" * 40), (FREE,))
    chosen = choose(_settings(checkpoint="me/mine", revision="e" * 40, accept_licence="apache-2.0"), (FREE,))
    assert (chosen.licence, chosen.commercial_use) == ("Apache-2.0", True)
    assert not choose(_settings(checkpoint="me/mine", accept_licence="Mine-1.0"), (FREE,)).commercial_use


def test_licences_are_checked_before_the_download() -> None:
    name = "audeering/wav2vec2-large-robust-12-ft-emotion-msp-dim"
    with pytest.raises(ExpertError, match=r"CC-BY-NC-SA-4\.0"):
        load_expert("speech_emotion", ExpertSettings(implementation="speech_emotion", checkpoint=name))


def test_the_guide_lists_the_tables_of_the_code() -> None:
    rows = [line for line in (Path(__file__).resolve().parents[2] / "docs/experts.md").read_text().splitlines() if line.startswith("| `")]
    listed = {tuple(cell.strip(" `") for cell in row.split("|")[1:6]) for row in rows if "/" in row.split("|")[2]}
    expected = {
        (name, entry.checkpoint, entry.revision or "give `revision", entry.licence, "yes" if entry.commercial_use else "no")
        for name, known in TABLES.items()
        for entry in known
    }
    assert listed == expected
    cells = [[cell.strip(" `") for cell in row.split("|")] for row in rows]
    kinds = {row[1]: row for row in cells if row[2] in ("reconstruction", "speech", "events", "affect", "pitch")}
    assert set(kinds) == {*ACOUSTIC, *NEURAL}
    for name in ACOUSTIC:
        spec = load_expert(name).spec
        shown = [spec.kind, spec.target.replace("_", " "), f"{spec.native_rate_hz:g}", str(spec.dim)]
        assert kinds[name][2:6] == shown
