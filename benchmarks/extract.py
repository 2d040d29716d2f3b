"""Time of neural feature extraction on a corpus, against a loop over the stock classes, interleaved in one process.

    python -m benchmarks.extract [--clips 600] [--rounds 3] [--threads 2] [--batch-seconds S] [--ast-frames 128]
                                [--device cpu] [--synthesised] [--json FILE]

Four experts of the real classes with random weights, of the published depth but with few channels (HuBERT, AST with an input of 1.28 s
instead of 10.24 s, a wav2vec 2.0 emotion model, Mimi) process the same clips of 1 to 12 s: recordings of ../shared/recordings if that
folder exists, otherwise synthesised ones. The stock loop processes one clip at a time: each expert decodes the clip and passes it
through the stock feature extractor and the stock model; the features stay in memory. Ours is `extract_features`, from an empty folder to
a finished store on disk, with an empty cache of waveforms in each round. Both sides load the checkpoint (timed), use the same number of
threads and the same data type, and must have equal features in every frame. The stock loop is also timed on one thread, where encoders
this small are faster. The target is for equal numbers of threads, torch's default.

Batches reduce the cost per call, not the cost per sample. Convolutions over 16,000 or 24,000 samples a second are most of the cost of even
these forwards on a CPU, so speech, affect and the codec gain less than events. The target is for the total. The benchmark also runs on a
GPU (`--device cuda`); it was not run there.

The exit status is 1 if the sides differ, or if the total is less than three times faster on a CPU.
"""

from __future__ import annotations

import argparse
import csv
import json
import math
import os
import statistics
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

ROOT = Path(__file__).resolve().parent.parent
RECORDINGS = ROOT.parent / "shared/recordings"
SHORTEST_S, LONGEST_S = 1.0, 12.0
TARGET = 3.0
TOLERANCE = 2e-3
"""Largest difference relative to the largest feature: features are stored as float16, whose last bit is 2^-11."""
EXPERTS = {"speech": ("hubert", "speech_encoder"), "events": ("ast", "audio_events"), "affect": ("emotion", "speech_emotion"),
           "reconstruction": ("mimi", "codec")}  # fmt: skip

Features = NDArray[np.float32]


def find_clips(count: int, folder: Path, *, synthesised: bool) -> list[Path]:
    """Return audio files of 1 to 12 s: a random sample of the recordings, or rising tones in hiss written to `folder`."""
    rng = np.random.default_rng(0)
    if RECORDINGS.is_dir() and not synthesised:
        with (RECORDINGS / "index.csv").open() as stream:
            rows = [row for row in csv.DictReader(stream) if SHORTEST_S <= float(row["duration_s"]) <= LONGEST_S]
        return [RECORDINGS / rows[row]["path"] for row in rng.choice(len(rows), size=min(count, len(rows)), replace=False)]
    import soundfile

    folder.mkdir(parents=True)
    for number, seconds in enumerate(rng.uniform(SHORTEST_S, LONGEST_S, count)):
        at = np.arange(int(seconds * 44_100)) / 44_100
        sound = 0.2 * np.sin(2 * np.pi * (100 + 20 * number + 50 * at) * at) + 0.02 * rng.standard_normal(len(at))
        soundfile.write(folder / f"{number}.flac", sound, 44_100)
    return sorted(folder.iterdir())


def stock_speech(folder: Path, device: str) -> tuple[int, Callable[[Features], Features]]:
    from transformers import HubertModel, Wav2Vec2FeatureExtractor

    model, extractor = _placed(HubertModel, folder, device), Wav2Vec2FeatureExtractor.from_pretrained(folder)

    def compute(waveform: Features) -> Features:
        values = extractor(waveform, sampling_rate=16_000, return_tensors="pt")["input_values"]
        return model(_framed(values).to(device), output_hidden_states=True).hidden_states[9][0].cpu().numpy()

    return 16_000, compute


def stock_affect(folder: Path, device: str) -> tuple[int, Callable[[Features], Features]]:
    import torch
    from transformers import Wav2Vec2FeatureExtractor, Wav2Vec2ForSequenceClassification

    model = _placed(Wav2Vec2ForSequenceClassification, folder, device)
    extractor = Wav2Vec2FeatureExtractor.from_pretrained(folder)

    def compute(waveform: Features) -> Features:
        values = extractor(waveform, sampling_rate=16_000, return_tensors="pt")["input_values"]
        states = torch.stack(model.wav2vec2(_framed(values).to(device), output_hidden_states=True).hidden_states)
        mixed = (states * model.layer_weights.softmax(-1)[:, None, None, None]).sum(0)
        return model.classifier(model.projector(mixed))[0].cpu().numpy()

    return 16_000, compute


def stock_events(folder: Path, device: str) -> tuple[int, Callable[[Features], Features]]:
    from transformers import ASTFeatureExtractor, ASTForAudioClassification

    from coat_core.experts.neural.audio_events import AstWindows

    model, extractor = _placed(ASTForAudioClassification, folder, device), ASTFeatureExtractor.from_pretrained(folder)
    cut = AstWindows(model, extractor)

    def compute(waveform: Features) -> Features:
        windows = [cut._window(waveform, frame) for frame in range(-(-len(waveform) // cut.hop))]
        values = extractor(windows, sampling_rate=16_000, return_tensors="pt")["input_values"]
        return model(values.to(device)).logits.sigmoid().cpu().numpy()

    return 16_000, compute


def stock_reconstruction(folder: Path, device: str) -> tuple[int, Callable[[Features], Features]]:
    from transformers import EncodecFeatureExtractor
    from transformers.models.mimi.modeling_mimi import MimiEncoderModel

    model, extractor = _placed(MimiEncoderModel, folder, device), EncodecFeatureExtractor.from_pretrained(folder)
    hop = math.prod(model.config.upsampling_ratios) * 2

    def compute(waveform: Features) -> Features:
        whole = np.pad(waveform, (0, -len(waveform) % hop))
        values = extractor(whole, sampling_rate=24_000, return_tensors="pt")["input_values"]
        return model(values.to(device)).latents[0].T.cpu().numpy()

    return 24_000, compute


STOCK = {"speech": stock_speech, "events": stock_events, "affect": stock_affect, "reconstruction": stock_reconstruction}


def run_stock(key: str, checkpoint: Path, clips: list[Path], device: str) -> dict[Path, Features]:
    import torch

    from coat_core.corpus.audio import decode

    rate, compute = STOCK[key](checkpoint, device)
    with torch.inference_mode():
        return {clip: compute(decode(clip, sample_rate_hz=rate)) for clip in clips}


def run_ours(key: str, checkpoint: Path, examples: list[Any], target: Path, waveforms: Path, device: str, seconds: float | None) -> Path:
    import torch

    from coat_core.experts.store.extraction import extract_features
    from coat_core.settings import ExpertSettings

    section = {"implementation": EXPERTS[key][1], "checkpoint": str(checkpoint), "accept_licence": "MIT", "device": device}
    settings = ExpertSettings.model_validate(section | {"batch_seconds": seconds})
    extract_features(key, settings, examples, Path("/"), target, threads=torch.get_num_threads(), waveforms=waveforms)
    return target


def on_one_thread(call: Callable[..., Any], *arguments: Any) -> Any:
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        return call(*arguments)
    finally:
        torch.set_num_threads(threads)


def largest_difference(store: Path, examples: list[Any], stock: dict[Path, Features]) -> tuple[float, float]:
    """Return the largest difference over all clips, absolute and relative to the largest feature; the numbers of frames must be equal."""
    from coat_core.experts.store.store import ExpertStore

    opened, differences, sizes = ExpertStore.open(store), [], []
    for example in examples:
        features, mask = opened.get(example.sha256)
        theirs = stock[Path("/") / example.audio]
        assert features[mask].shape == theirs.shape, (example.audio, features[mask].shape, theirs.shape)
        differences.append(float(np.abs(features[mask] - theirs).max()))
        sizes.append(float(np.abs(theirs).max()))
    return max(differences), max(differences) / max(sizes)


def save_checkpoints(root: Path, ast_frames: int) -> dict[str, Path]:
    """Save the tests' tiny checkpoints with the number of layers of the published models, and an AST with an input of `ast_frames`."""
    from transformers import (
        ASTConfig,
        ASTFeatureExtractor,
        ASTForAudioClassification,
        HubertConfig,
        HubertModel,
        MimiConfig,
        MimiModel,
        Wav2Vec2Config,
        Wav2Vec2ForSequenceClassification,
    )  # fmt: skip

    from tests.testing import expert_checkpoints

    folders = expert_checkpoints.save_all(root)
    models: dict[str, tuple[Any, Any, dict[str, int]]] = {
        "hubert": (HubertConfig, HubertModel, {"num_hidden_layers": 12}),
        "ast": (ASTConfig, ASTForAudioClassification, {"num_hidden_layers": 12, "max_length": ast_frames}),
        "emotion": (Wav2Vec2Config, Wav2Vec2ForSequenceClassification, {"num_hidden_layers": 12}),
        "mimi": (MimiConfig, MimiModel, {"num_hidden_layers": 8}),
    }
    for name, (config_class, model_class, changes) in models.items():
        config = config_class.from_pretrained(folders[name])
        for field, value in changes.items():
            setattr(config, field, value)
        (folders[name] / "pytorch_model.bin").unlink(missing_ok=True)
        model_class(config).save_pretrained(folders[name])
    ASTFeatureExtractor(max_length=ast_frames).save_pretrained(folders["ast"])
    return folders


def make_examples(clips: list[Path]) -> list[Any]:
    from coat_core.corpus.audio import decode
    from coat_core.corpus.examples import Example
    from coat_core.storage import sha256_file

    return [
        Example(
            id=clip.name, audio=str(clip.relative_to("/")), sha256=sha256_file(clip), duration_s=len(decode(clip)) / 16_000,
            sample_rate_hz=16_000, split="train", group=clip.name, family="music", task="t", question="q", choices=None, answer="a",
            source="benchmark", licence="none",
        )
        for clip in clips
    ]  # fmt: skip


def measure(options: argparse.Namespace, folder: Path) -> dict[str, Any]:
    clips = find_clips(options.clips, folder / "synthesised", synthesised=options.synthesised)
    examples = make_examples(clips)
    seconds = sum(example.duration_s for example in examples)
    checkpoints = save_checkpoints(folder / "checkpoints", options.ast_frames)
    times: dict[tuple[str, str], list[tuple[float, float]]] = {}
    found: dict[str, tuple[float, float]] = {}
    for turn in range(options.rounds + 1):
        for key, (name, _) in EXPERTS.items():
            stores, waveforms = folder / f"stores-{turn}", folder / f"waveforms-{turn}"
            sides: dict[str, Callable[[], Any]] = {
                "stock": lambda key=key, name=name: run_stock(key, checkpoints[name], clips, options.device),
                "stock_one": lambda key=key, name=name: on_one_thread(run_stock, key, checkpoints[name], clips, options.device),
                "ours": lambda key=key, name=name, stores=stores, waveforms=waveforms: run_ours(
                    key, checkpoints[name], examples, stores / key, waveforms, options.device, options.batch_seconds
                ),
            }
            results = {}
            for side in sorted(sides, reverse=turn % 2 == 1):
                began = time.perf_counter(), time.process_time()
                results[side] = sides[side]()
                spent = time.perf_counter() - began[0], time.process_time() - began[1]
                # The first round warms up.
                if turn:
                    times.setdefault((key, side), []).append(spent)
            found[key] = largest_difference(results["ours"], examples, results["stock"])
    rows = []
    for key in EXPERTS:
        spent = {f"{side}_{kind}": statistics.median(turn[at] for turn in times[key, side])
                 for side in ("stock", "stock_one", "ours") for at, kind in enumerate(("s", "cpu_s"))}  # fmt: skip
        rows.append({"expert": key, **spent, "difference": found[key][0], "relative_difference": found[key][1]})
    total = {"expert": "total"} | {name: sum(row[name] for row in rows) for name in spent}
    for row, audio_s in zip([*rows, total], [seconds] * len(rows) + [seconds * len(rows)], strict=True):
        row |= {"ratio": row["stock_s"] / row["ours_s"], "cpu_ratio": row["stock_cpu_s"] / row["ours_cpu_s"]}
        row |= {"one_thread_ratio": row["stock_one_s"] / row["ours_s"]}
        row |= {"stock_audio_s_per_s": audio_s / row["stock_s"], "ours_audio_s_per_s": audio_s / row["ours_s"]}
    return {"clips": len(clips), "audio_s": seconds, "rounds": options.rounds, "experts": rows, "total": total}


def _placed(model_class: Any, folder: Path, device: str) -> Any:
    return model_class.from_pretrained(folder, dtype="float32").eval().to(device)


def _framed(values: Any) -> Any:
    """Pad normalised samples `[1, N]` with silence, so that stock frames have our positions and number, ceil(N / 320)."""
    import torch

    frames = -(-values.shape[1] // 320)
    return torch.nn.functional.pad(values, (40, (frames - 1) * 320 + 400 - 40 - values.shape[1]))


def show(result: dict[str, Any]) -> None:
    print(f"{result['clips']} clips, {result['audio_s']:.0f} s of audio, median of {result['rounds']} rounds")
    print(
        "| expert | stock loop, s | ours, s | ratio | ratio of CPU time | ratio to stock on one thread | stock, audio s/s "
        "| ours, audio s/s | largest difference |"
    )
    print("| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: |")
    for row in [*result["experts"], result["total"]]:
        differs = f"{row['difference']:.1e} ({row['relative_difference']:.1e} of the largest)" if "difference" in row else ""
        figures = [f"{row[name]:.2f}" for name in ("stock_s", "ours_s", "ratio", "cpu_ratio", "one_thread_ratio")]
        figures += [f"{row[name]:.0f}" for name in ("stock_audio_s_per_s", "ours_audio_s_per_s")]
        print(f"| {row['expert']} | {' | '.join(figures)} | {differs} |")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clips", type=int, default=600)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--batch-seconds", type=float, help="default: the default of the device in params")
    parser.add_argument("--ast-frames", type=int, default=128)
    parser.add_argument("--synthesised", action="store_true")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
        os.environ[name] = str(options.threads)
    os.environ["HF_HUB_OFFLINE"] = "1"
    import torch
    import transformers

    from benchmarks.machine import describe_machine, print_machine

    torch.set_num_threads(options.threads)
    transformers.utils.logging.disable_progress_bar()
    transformers.utils.logging.set_verbosity_error()
    warnings.filterwarnings("ignore", message="At least one mel filter has all zero values")
    machine = describe_machine(options.device)
    print_machine(machine)
    with tempfile.TemporaryDirectory() as folder:
        result = measure(options, Path(folder).resolve()) | {"machine": machine}
    show(result)
    if options.json:
        options.json.write_text(json.dumps(result, indent=1) + "\n")
    differing = [row["expert"] for row in result["experts"] if row["relative_difference"] > TOLERANCE]
    if differing:
        sys.exit(f"the sides differ: {', '.join(differing)}")
    if options.device == "cpu" and result["total"]["ratio"] < TARGET:
        sys.exit(f"the total is {result['total']['ratio']:.2f} times faster; the target is {TARGET:g}")


if __name__ == "__main__":
    main()
