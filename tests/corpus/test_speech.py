"""The voices and the client of the synthesiser process."""

from __future__ import annotations

from pathlib import Path

import pytest

from coat_core.corpus.generated import speech
from coat_core.corpus.generated.corpus import generate_corpus
from coat_core.corpus.generated.speech import VOICES, Synthesiser, Voice
from coat_core.errors import CorpusError
from coat_core.settings import CorpusSettings


def test_voices_do_not_share_formants_across_splits() -> None:
    spoken = {}
    with Synthesiser() as synthesiser:
        for split, voices in VOICES.items():
            for voice in voices:
                samples = synthesiser.speak("seven", Voice(voice.variant, 50, 160))
                assert spoken.setdefault(samples.tobytes(), (split, voice)) == (split, voice)


def test_speech_depends_only_on_the_request() -> None:
    voice, other = VOICES["train"][1], VOICES["train"][7]
    with Synthesiser() as first, Synthesiser() as second:
        alone = first.speak("three", voice)
        second.speak("seven", other, rate=30, pitch=10, pitch_range=99)
        second.speak("three", other)
        assert (second.speak("three", voice) == alone).all()
        assert (first.speak("four", voice)[:100] != alone[:100]).any()


def test_an_unknown_voice_and_a_missing_synthesiser_are_errors(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with Synthesiser() as synthesiser, pytest.raises(CorpusError, match="unknown voice"):
        synthesiser.speak("one", Voice("nobody", 50, 150))
    source = (
        Path(str(speech._SCRIPT))
        .read_text()
        .replace("import espeakng_loader", "import espeakng_loader_that_is_not_there as espeakng_loader")
    )
    (tmp_path / "espeak.py").write_text(source)
    monkeypatch.setattr(speech, "_SCRIPT", tmp_path / "espeak.py")
    with pytest.raises(CorpusError, match=r"ModuleNotFoundError.*coat\[speech\]"):
        generate_corpus(CorpusSettings(clips_per_family={"train": 1}), tmp_path / "corpus", workers=1)
    assert not (tmp_path / "corpus").exists()
