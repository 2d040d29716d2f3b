"""Sets with one label of a closed list: MELD, IEMOCAP, VocalSound, GTZAN and the families and sources of NSynth."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path, PurePosixPath

from coat_core.evaluation.benchmarks.data import Layout, damaged, read_rows, require_fields
from coat_core.evaluation.benchmarks.items import BenchmarkItem
from coat_core.evaluation.benchmarks.rules import labels as rules
from coat_core.evaluation.benchmarks.suite import Licence, Suite
from coat_core.evaluation.benchmarks.totals import label_total

EMOTIONS = ("neutral", "joy", "sadness", "anger", "surprise", "fear", "disgust")
FOUR_EMOTIONS = {"neu": "neutral", "hap": "happy", "ang": "angry", "sad": "sad"}
VOCAL_SOUNDS = ("Laughter", "Sigh", "Cough", "Throat clearing", "Sneeze", "Sniff")
_EXACT = rules.comparison(rules.exact_after_left_strip)
_HARNESSES = {
    "qwen_audio_exact": rules.comparison(rules.exact_after_strip),
    "ultraeval_prefix": rules.comparison(rules.begins_with),
    "audio_flamingo_stem": rules.comparison(rules.same_stem),
}
_MELD = Layout(
    files={split: (f"{split}_sent_emo.csv|data/MELD/{split}_sent_emo.csv",) for split in ("test", "dev", "train")},
    origin="github.com/declare-lab/MELD at 2d2011b, data/MELD (clips: MELD.Raw.tar.gz named there)",
    audio="dia<D>_utt<U>.wav (or flac, mp3, ogg), cut from the mp4 of the same name, e.g. with ffmpeg",
)
_IEMOCAP = Layout(
    files={
        f"session{number}": (f"Session{number}/test_meta_data.json|meta_data/Session{number}/test_meta_data.json",)
        for number in range(1, 6)
    },
    origin="github.com/s3prl/s3prl at ec8064b, s3prl/downstream/emotion/meta_data (clips: USC's release form)",
    audio="<path> below IEMOCAP_full_release",
)
_VOCAL_SOUND = Layout(
    files={name: (f"datafiles/{file}.json|{file}.json",) for name, file in (("test", "te"), ("validation", "val"), ("train", "tr"))},
    origin="github.com/YuanGongND/vocalsound at 337ac55, the zip of 16 kHz",
    audio="audio_16k/<name>.wav",
)


def _read_meld(files: Sequence[Path], folder: Path, split: str) -> list[BenchmarkItem]:
    rows = read_rows(files[0], _MELD)
    require_fields(rows, ("Utterance", "Emotion", "Dialogue_ID", "Utterance_ID"), files[0], _MELD)
    items = []
    for row in rows:
        name = f"dia{row['Dialogue_ID']}_utt{row['Utterance_ID']}"
        if row["Emotion"] not in EMOTIONS:
            raise damaged(files[0], _MELD, f"{name} has the emotion {row['Emotion']!r}")
        question, number = "Which emotion does the speaker have?", row.get("Sr No.")
        # Kimi-Audio-Evalkit names a clip by the number of its row.
        aliases = (str(number),) if number else ()
        items.append(BenchmarkItem(name, question, EMOTIONS, row["Emotion"], f"{name}.mp4", aliases=aliases))
    return items


def _read_iemocap(files: Sequence[Path], folder: Path, split: str) -> list[BenchmarkItem]:
    entries = read_rows(files[0], _IEMOCAP, "meta_data")
    require_fields(entries, ("path", "label", "speaker"), files[0], _IEMOCAP)
    items = []
    for row in entries:
        if row["label"] not in FOUR_EMOTIONS:
            raise damaged(files[0], _IEMOCAP, f"{row['path']} has the label {row['label']!r}")
        options = tuple(FOUR_EMOTIONS.values())
        name = PurePosixPath(row["path"]).stem
        label = FOUR_EMOTIONS[row["label"]]
        items.append(BenchmarkItem(name, "Which emotion does the speaker have?", options, label, row["path"], {"speaker": row["speaker"]}))
    return items


def _read_vocal_sound(files: Sequence[Path], folder: Path, split: str) -> list[BenchmarkItem]:
    entries = read_rows(files[0], _VOCAL_SOUND, "data")
    require_fields(entries, ("wav",), files[0], _VOCAL_SOUND)
    names = {label.replace(" ", "").lower(): label for label in VOCAL_SOUNDS}
    items = []
    for row in entries:
        stem = PurePosixPath(row["wav"]).stem
        label = names.get(stem.rpartition("_")[2])
        if label is None:
            raise damaged(files[0], _VOCAL_SOUND, f"{stem} names no class")
        items.append(BenchmarkItem(stem, "Which vocal sound is it?", VOCAL_SOUNDS, label, f"audio_16k/{stem}.wav"))
    return items


MELD = Suite(
    name="meld",
    title="MELD emotion",
    layout=_MELD,
    licence=Licence("GPL-3.0 (repository); clips of a television series", "unclear"),
    read=_read_meld,
    prompt=lambda item: "Recognize the emotion with keywords in English:",
    prompt_source="second-hand: MoonshotAI/Kimi-Audio-Evalkit 4080c49",
    rule_of=lambda folder: _EXACT,
    rule_name="QwenLM/Qwen2-Audio 595360e evaluate_emotion.py",
    metric="accuracy (papers); weighted F1 (MELD's own baseline)",
    denominator="all responses; empty is wrong, null stops the script",
    total=label_total(EMOTIONS),
    harnesses=_HARNESSES,
)
IEMOCAP = Suite(
    name="iemocap",
    title="IEMOCAP, four classes",
    layout=_IEMOCAP,
    licence=Licence("USC release form: research only", "forbidden"),
    read=_read_iemocap,
    prompt=lambda item: f"Which emotion does the speaker have? Choices: {', '.join(item.options)}.",
    prompt_source="ours",
    rule_of=lambda folder: _EXACT,
    rule_name="QwenLM/Qwen2-Audio 595360e evaluate_emotion.py (SUPERB trains a classifier: no rule for text)",
    metric="accuracy, mean of five sessions",
    denominator="all responses; empty is wrong, null stops the script",
    total=label_total(tuple(FOUR_EMOTIONS.values())),
    harnesses=_HARNESSES,
    groups=("speaker",),
)
VOCAL_SOUND = Suite(
    name="vocalsound",
    title="VocalSound",
    layout=_VOCAL_SOUND,
    licence=Licence("CC BY-SA 4.0", "allowed"),
    read=_read_vocal_sound,
    prompt=lambda item: "Classify the human vocal sound to VocalSound in English:",
    prompt_source="second-hand: MoonshotAI/Kimi-Audio-Evalkit 4080c49",
    rule_of=lambda folder: _EXACT,
    rule_name="QwenLM/Qwen2-Audio 595360e evaluate_vocal_sound.py; spelling of its truth file not seen",
    metric="accuracy",
    denominator="all responses; empty is wrong, null stops the script",
    harnesses={"lmms_eval_first_class": rules.comparison(rules.first_vocal_sound)},
)
