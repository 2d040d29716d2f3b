"""A training step with block and five heads against a stock `transformers.Trainer` + PEFT script, on the same batch, alternately.

    python -m benchmarks.gpu_training --backbone qwen2_audio [--rows 4] [--seconds 30] [--steps 10] [--json FILE]
    python -m benchmarks.gpu_training --backbone qwen2_audio --size tiny --device cpu      # the same code on a small model

**It has not been run on a GPU; there are no results.** `--size tiny --device cpu` only checks that the code runs.

Both sides train LoRA of the same rank on the same frozen random weights (shared tensors) of the published size, in bfloat16 autocast,
with gradient checkpointing as in params/published.yaml. "ours" is the project's `Trainer.step` with the settings of that file: block,
five heads with targets of the published experts' sizes, deterministic kernels, mel features and tower computed for every clip
(`--cached`: the tower's output is cached, as from the second epoch on). "stock" is `transformers.Trainer` with its default optimizer,
on a batch whose token ids and mel features are already computed, which favours it. Its callback runs one step of "ours" after each of
its own, so that both run under the same conditions. The time of a step includes the device's work.

Peak memory is `torch.cuda.max_memory_allocated` during a step, minus the tensors of the other side (LoRA, optimizer, heads).
Model FLOPs utilisation is the useful operations (see flops.py; recomputed ones are not useful) divided by time and peak.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch

from benchmarks.flops import Shapes, peak_flops, print_flops, step_flops, useful
from benchmarks.full_size import ANSWER, QUESTION, build_lalm, bytes_of, longest_s, noise, synchronize, twin
from benchmarks.machine import describe_machine, print_machine

TIME_TARGET = 1.15
WARM_UP = 2
EXPERTS = {
    "reconstruction": ("representation", 128, 75.0), "speech": ("representation", 1024, 50.0), "events": ("posteriors", 527, 10.0),
    "affect": ("regression", 3, 50.0), "pitch": ("pitch_bins", 361, 100.0),
}  # fmt: skip
"""Target, dimensions and native rate (Hz) of five experts of the published sizes."""


class RandomStore:
    """Random features of an expert's size, instead of an `ExpertStore`."""

    def __init__(self, key: str, seconds: float) -> None:
        import numpy as np

        from coat_core.experts.base import ExpertSpec
        from coat_core.experts.store.store import Normaliser

        target, dim, rate = EXPERTS[key]
        names = tuple(f"d{i}" for i in range(dim))
        self.spec = ExpertSpec("made_up", key, target, dim, rate, 16_000, "1", "none", True, "benchmark", names)  # type: ignore[arg-type]
        self.normaliser = Normaliser(np.zeros(dim, np.float32), np.ones(dim, np.float32))
        self._features = np.random.default_rng(0).random((round(seconds * rate), dim)).astype(np.float32)
        self._mask = np.ones(len(self._features), dtype=bool)

    def get(self, sha256: str) -> tuple[Any, Any]:
        """Return the same features and mask for every clip."""
        return self._features, self._mask


class Ours:
    """The project's training step."""

    def __init__(self, backbone: Any, settings: Any, options: argparse.Namespace, folder: Path) -> None:
        from accelerate import Accelerator

        from coat_core.settings import RuntimeSettings, find_arm
        from coat_core.thinking.block import ThinkingBlock
        from coat_core.thinking.heads import build_heads
        from coat_core.thinking.model import ThinkingModel
        from coat_core.training.batches import BatchOrder
        from coat_core.training.checkpoint import CheckpointFolder
        from coat_core.training.dataset import AudioEmbeddingCache, TrainingDataset
        from coat_core.training.targets import Targets
        from coat_core.training.tracker import History, NullTracker
        from coat_core.training.train import MIXED_PRECISION, fixed_compute
        from coat_core.training.trainer import Trainer, Trial

        block = ThinkingBlock.install(backbone, settings.thinking)
        stores: Any = {key: RandomStore(key, options.seconds) for key in EXPERTS}
        blank = {key: (torch.zeros(store.spec.dim), torch.ones(store.spec.dim)) for key, store in stores.items()}
        specs = {key: store.spec for key, store in stores.items()}
        heads = build_heads(specs, blank, backbone.hidden_size, settings.heads, 0)
        if settings.training.gradient_checkpointing:
            backbone.model.activation_checkpointing_enable({"use_reentrant": False})
        self.model = ThinkingModel(backbone, block, heads, settings.lora, settings.losses, 0)
        examples = write_corpus(folder, options)
        training = settings.training
        order = BatchOrder((1,) * options.rows, options.rows, accumulation=1, world=1, length_groups=1, seed=0)
        dataset = TrainingDataset(backbone, examples, folder, AudioEmbeddingCache(backbone, 8192 if options.cached else 0))
        mixed = MIXED_PRECISION[training.precision]
        accelerator = Accelerator(cpu=options.device == "cpu", mixed_precision=mixed, gradient_accumulation_steps=1)
        self.trainer = Trainer(
            self.model, Trial(find_arm("coat"), 0, training, settings.losses), dataset, order, Targets(stores), accelerator,
            CheckpointFolder(folder / "checkpoints", "benchmark"), History(None, NullTracker()),
        )  # fmt: skip
        self._fixed = lambda: fixed_compute(RuntimeSettings(device=options.device, threads=torch.get_num_threads()))
        self._deterministic = options.deterministic

    def step(self, number: int) -> None:
        """Run one optimizer step, as the training stage does."""
        if not self._deterministic:
            self.trainer.step(number)
            return
        with self._fixed():
            self.trainer.step(number)

    def kept_bytes(self) -> int:
        """Return the bytes on the device between steps, without the frozen weights."""
        state = [value for values in self.trainer.optimizer.state.values() for value in values.values() if isinstance(value, torch.Tensor)]
        trained = [parameter for group in self.trainer.groups.values() for parameter in group]
        return bytes_of([*trained, *state, *(buffer for buffer in self.model.heads.buffers())])

    def shapes(self) -> Shapes:
        """Return the shapes of a step."""
        dataset = self.trainer.dataset
        batch = dataset.batch(range(len(dataset.examples)), torch.device("cpu"))
        rows, length = batch.input_ids.shape
        return Shapes(rows, length, int(batch.answer_mask.sum()), 0, 0, 0)


def stock_trainer(backbone: Any, settings: Any, options: argparse.Namespace, folder: Path, between: Any) -> tuple[Any, Shapes]:
    """Return the stock trainer, and the shapes of its batch."""
    from peft import LoraConfig, get_peft_model
    from transformers import Trainer, TrainingArguments

    from coat_core.backbones.base import Query

    queries = [Query(str(i), noise(options.seconds, i), QUESTION, ANSWER, str(i)) for i in range(options.rows)]
    batch = backbone.encode(queries)
    inputs = {name: tensor.cpu() for name, tensor in backbone.generation_inputs(batch).items()}
    inputs["labels"] = torch.where(batch.answer_mask, batch.input_ids, -100)
    lora, training = settings.lora, settings.training
    config = LoraConfig(
        r=lora.rank, lora_alpha=lora.alpha, lora_dropout=lora.dropout, target_modules=backbone.lora_targets(lora.modules)
    )  # fmt: skip
    model = get_peft_model(backbone.model, config)
    arguments = TrainingArguments(
        output_dir=str(folder / "stock"), per_device_train_batch_size=options.rows, max_steps=options.steps + WARM_UP,
        learning_rate=training.learning_rate, max_grad_norm=training.max_gradient_norm, weight_decay=training.weight_decay,
        bf16=training.precision == "bfloat16", activation_checkpointing=training.gradient_checkpointing,
        activation_checkpointing_kwargs={"use_reentrant": False}, remove_unused_columns=False, label_names=["labels"], report_to="none",
        save_strategy="no", logging_strategy="no", disable_tqdm=True, use_cpu=options.device == "cpu",
        dataloader_pin_memory=options.device != "cpu",
    )  # fmt: skip
    dataset: Any = [{"row": i} for i in range(options.rows * (options.steps + WARM_UP))]
    trainer = Trainer(
        model=model, args=arguments, train_dataset=dataset, callbacks=[between],
        data_collator=lambda rows: {name: tensor.clone() for name, tensor in inputs.items()},
    )  # fmt: skip
    rows, length = batch.input_ids.shape
    return trainer, Shapes(rows, length, rows * length, 0, 0, 0)


def turns(device: str) -> Any:
    """Return a callback of the stock trainer that runs one step of "ours" after each of its own, and times both."""
    from transformers import TrainerCallback

    class Turns(TrainerCallback):
        ours: Ours
        times: dict[str, list[float]] = {"ours": [], "stock": []}  # noqa: RUF012
        peaks: dict[str, list[int]] = {"ours": [], "stock": []}  # noqa: RUF012

        def start(self) -> None:
            synchronize(device)
            if device != "cpu":
                torch.cuda.reset_peak_memory_stats()
            self.started = time.perf_counter()

        def stop(self, side: str) -> None:
            synchronize(device)
            self.times[side].append(time.perf_counter() - self.started)
            self.peaks[side].append(torch.cuda.max_memory_allocated() if device != "cpu" else 0)

        def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            self.start()

        def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            self.stop("stock")
            self.start()
            self.ours.step(state.global_step - 1)
            self.stop("ours")
            self.start()

    return Turns()


def write_corpus(folder: Path, options: argparse.Namespace) -> list[Any]:
    """Write the clips and return their examples."""
    from coat_core.corpus.audio import write_flac
    from coat_core.corpus.examples import Example
    from coat_core.storage import sha256_file

    examples = []
    for number in range(options.rows):
        path = folder / f"{number}.flac"
        write_flac(path, noise(options.seconds, number), 16_000)
        examples.append(Example(
            id=str(number), audio=path.name, sha256=sha256_file(path), duration_s=options.seconds, sample_rate_hz=16_000, split="train",
            group=str(number), family="understanding", task="benchmark", question=QUESTION, choices=None, answer=ANSWER,
            source="benchmark", licence="CC0-1.0",
        ))  # fmt: skip
    return examples


def tower_work(backbone: Any, seconds: float) -> tuple[int, int]:
    """Return the tower's positions for a clip (50 Hz, padded to full windows), and the positions that each attends to."""
    window = backbone.architecture.window_samples(backbone.model.config, backbone.extractor)
    if window is None:
        return round(seconds * 50), int(backbone.model.config.audio_config.n_window)
    return -(-round(seconds * 16_000) // window) * (window // 320), window // 320


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--backbone", default="qwen2_audio", choices=["qwen2_audio", "qwen2_5_omni", "audio_flamingo_3"])
    parser.add_argument("--size", default="full", choices=["full", "tiny"])
    parser.add_argument(
        "--layers", type=int, help="number of layers of decoder and tower, for the full width if the full depth does not fit"
    )
    parser.add_argument("--device", default="cuda", choices=["cuda", "cpu"])
    parser.add_argument("--rows", type=int, default=4, help="clips in a step")
    parser.add_argument("--seconds", type=float, default=30.0, help="length of each clip; limited by the tower")
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--cached", action="store_true", help="cache the tower's output, as from the second epoch on")
    parser.add_argument(
        "--deterministic", action=argparse.BooleanOptionalAction, default=True, help="deterministic kernels for ours, as in training"
    )
    parser.add_argument("--params", type=Path, help="default: params/published.yaml, for a tiny model params.yaml")
    parser.add_argument("--peak-tflops", type=float, help="peak of the GPU in bfloat16, if it is not in the table")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    if options.device == "cuda" and not torch.cuda.is_available():
        parser.error("no GPU was found; --size tiny --device cpu runs the same code on a small model")
    with tempfile.TemporaryDirectory() as name:
        return measure(options, Path(name))


def measure(options: argparse.Namespace, folder: Path) -> int:
    from coat_core.settings import load_settings
    from coat_core.thinking.resampling import frame_count

    root = Path(__file__).resolve().parent.parent
    settings = load_settings(options.params or root / ("params.yaml" if options.size == "tiny" else "params/published.yaml"))
    if options.device == "cpu":
        training = settings.training.model_copy(update={"precision": "float32"})
        settings = settings.model_copy(update={"training": training})
    # One forward pass per step, independent of the params file.
    settings = settings.model_copy(update={"training": settings.training.model_copy(update={"batch_seconds": None, "accumulation": 1})})
    machine = describe_machine(options.device)
    print_machine(machine)
    dtype = torch.float32 if options.size == "tiny" and options.device == "cpu" else torch.bfloat16
    backbone = build_lalm(options.backbone, options.size, options.device, dtype, options.layers)
    options.seconds = min(options.seconds, longest_s(backbone))
    stock_backbone = twin(backbone)
    between = turns(options.device)
    stock, stock_shapes = stock_trainer(stock_backbone, settings, options, folder, between)
    ours = between.ours = Ours(backbone, settings, options, folder)
    stock.train()

    positions, span = tower_work(backbone, options.seconds)
    frames = frame_count(options.seconds, settings.heads.target_rate_hz, settings.heads.max_frames)
    lora = sum(parameter.numel() for name, parameter in ours.model.named_parameters() if "lora_" in name)
    # The first linear layer of a head is applied to the think tokens, not to frames.
    heads = sum(parameter.numel() for name, parameter in ours.model.heads.named_parameters() if ".enter." not in name)
    checkpointing = settings.training.gradient_checkpointing
    own = ours.shapes()
    work = {
        "ours": step_flops(
            backbone.model, lora, heads,
            Shapes(own.rows, own.length, own.logit_rows, 0 if options.cached else positions, span, frames), checkpointing=checkpointing,
        ),
        "stock": step_flops(
            backbone.model, lora, 0,
            Shapes(stock_shapes.rows, stock_shapes.length, stock_shapes.logit_rows, positions, span, 0), checkpointing=checkpointing,
        ),
    }  # fmt: skip
    stock_state = [value for values in stock.optimizer.state.values() for value in values.values() if isinstance(value, torch.Tensor)]
    stock_kept = bytes_of([*(p for p in stock.model.parameters() if p.requires_grad), *stock_state])
    kept = {"ours": stock_kept, "stock": ours.kept_bytes()}
    peak = options.peak_tflops * 1e12 if options.peak_tflops else peak_flops(machine.get("gpu", ""))
    print(f"{options.backbone} {options.size}, {options.rows} x {options.seconds:g} s, "
          f"{'checkpointing' if checkpointing else 'no checkpointing'}, tower {'cached' if options.cached else 'computed'}")  # fmt: skip
    result: dict[str, Any] = {"machine": machine, "options": {k: str(v) for k, v in vars(options).items()}, "sides": {}}
    for side, shapes in (("ours", own), ("stock", stock_shapes)):
        times = between.times[side][WARM_UP:]
        seconds = statistics.median(times)
        memory = (max(between.peaks[side][WARM_UP:]) - kept[side]) / 2**30 if options.device != "cpu" else None
        audio = options.rows * options.seconds / seconds
        print(f"  {side}: {seconds:.4f} s per step ({min(times):.4f} to {max(times):.4f}), {audio:.1f} s of audio per second, "
              f"{shapes.length} tokens per row, logits on {shapes.logit_rows} positions, peak memory "
              + (f"{memory:.2f} GiB" if memory is not None else "measured on a GPU only"))  # fmt: skip
        print_flops(work[side])
        utilisation = useful(work[side]) / seconds / peak if peak else None
        if utilisation is not None:
            print(f"    utilisation: {useful(work[side]) / 1e12:.2f} TFLOP / {seconds:.4f} s / {peak / 1e12:g} TFLOP/s = {utilisation:.1%}")
        else:
            print("    utilisation: the peak of this machine is not known (--peak-tflops)")
        result["sides"][side] = {
            "times_s": times, "median_s": seconds, "audio_s_per_s": audio, "peak_gib": memory, "utilisation": utilisation,
            "flops": work[side], "length": shapes.length,
        }  # fmt: skip
    pairs = zip(between.times["ours"][WARM_UP:], between.times["stock"][WARM_UP:], strict=True)
    ratio = statistics.median(one / other for one, other in pairs)
    memories = [result["sides"][side]["peak_gib"] for side in ("ours", "stock")]
    missed = [f"step time {ratio:.3f} x, target <= {TIME_TARGET}"] if ratio > TIME_TARGET else []
    if memories[0] is not None and memories[0] > memories[1]:
        missed.append(f"peak memory {memories[0]:.2f} GiB, stock {memories[1]:.2f}")
    claimed = options.device != "cpu" and options.size == "full" and options.layers is None
    print(f"step time ours / stock: {ratio:.3f} (target <= {TIME_TARGET}; peak memory: no more)"
          + ("" if claimed else ": not a full-size model on a GPU, targets do not apply"))  # fmt: skip
    if claimed:
        print("\n".join(f"MISSED {line}" for line in missed) if missed else "all targets met")
    if options.json:
        options.json.write_text(json.dumps({**result, "ratio": ratio, "missed": missed if claimed else None}, indent=1) + "\n")
    return 1 if claimed and missed else 0


if __name__ == "__main__":
    sys.exit(main())
