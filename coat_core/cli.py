"""`coat …`: one thin command per stage, and the few things around them. Heavy imports happen inside the commands."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer(
    name="coat",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Teach a large audio language model to think in sound before it answers, and run that the way production software is run.",
)
Backbone = Annotated[str, typer.Argument(help="qwen2_audio, qwen2_5_omni or audio_flamingo_3")]
Trial = Annotated[str, typer.Argument(help="<arm>-<seed>, e.g. coat-0; params name them")]


@app.command(rich_help_panel="The chain")
def run(
    jobs: Annotated[int | None, typer.Option(help="stages side by side; default: the number of cores")] = None,
) -> None:
    """Run whatever is stale of the whole chain under Prefect, then register and promote. Resumes after Ctrl-C or a crash."""
    arguments = [sys.executable, "-m", "flows", "run", *([] if jobs is None else ["--jobs", str(jobs)])]
    os.execv(sys.executable, arguments)


@app.command(rich_help_panel="The chain")
def workspace(
    folder: Annotated[Path, typer.Argument(help="folder to make, below workspaces/ as a rule")],
    params: Annotated[Path, typer.Option(help="the params file it starts from")],
) -> None:
    """Make a workspace: the same graph with its own params, results, database and lock; the DVC cache is shared."""
    from coat_core.pipeline.workspace import make_workspace

    made = make_workspace(folder, params)
    typer.echo(f"workspace {made} is ready; next: cd {made} && coat run")


@app.command(rich_help_panel="Stages (what dvc.yaml calls)")
def corpus() -> None:
    """Make the corpus."""
    _stage("corpus")


@app.command(rich_help_panel="Stages (what dvc.yaml calls)")
def contract() -> None:
    """Hold the corpus to its contract."""
    _stage("contract")


@app.command(rich_help_panel="Stages (what dvc.yaml calls)")
def features(expert: Annotated[str, typer.Argument(help="an expert's key in params")]) -> None:
    """Extract one expert's frames."""
    _stage(f"features@{expert}")


@app.command(rich_help_panel="Stages (what dvc.yaml calls)")
def train(backbone: Backbone, trial: Trial) -> None:
    """Train one trial and publish its release."""
    _stage(f"train@{backbone}-{trial}")


@app.command(rich_help_panel="Stages (what dvc.yaml calls)")
def evaluate(backbone: Backbone, trial: Trial) -> None:
    """Ask one release the evaluation split, and score it."""
    _stage(f"evaluate@{backbone}-{trial}")


@app.command(rich_help_panel="Stages (what dvc.yaml calls)")
def latency(backbone: Backbone) -> None:
    """Time two releases of one backbone in turn."""
    _stage(f"latency@{backbone}")


@app.command(rich_help_panel="Stages (what dvc.yaml calls)")
def report() -> None:
    """Write tables, figures and the page."""
    _stage("report")


@app.command(rich_help_panel="Bases")
def bases(
    keys: Annotated[list[str] | None, typer.Argument(help="backbones; default: all three")] = None,
    target: Annotated[Path, typer.Option(help="folder that gets one folder a backbone")] = Path("bases"),
    recordings: Annotated[Path | None, typer.Option(help="folder of real recordings whose labels the vocabulary should cover")] = None,
) -> None:
    """Build the tiny bases: real classes, small enough for a laptop, already hearing a little. They ship built."""
    from coat_core.backbones.catalogue import BACKBONES
    from coat_core.corpus.examples import read_manifest
    from coat_core.settings import load_settings
    from coat_core.tiny_bases.build import build_bases

    manifest = Path("data/corpus/manifest.jsonl")
    avoid = {example.sha256 for example in read_manifest(manifest)} if manifest.exists() else set()
    build_bases(tuple(keys or BACKBONES), target, load_settings().corpus, recordings, avoid=avoid)


@app.command(rich_help_panel="Registry")
def register(backbone: Backbone, trial: Trial) -> None:
    """Register a trained and evaluated trial (idempotent by stage key)."""
    from coat_core.registry.releases import register_trial

    done = register_trial(Path(), _model_name(backbone), f"{backbone}-{trial}")
    typer.echo(f"{done.uri} {'registered' if done.created else 'was registered already'}")


@app.command(rich_help_panel="Registry")
def promote(backbone: Backbone, version: Annotated[str, typer.Argument(help="a registered version")]) -> None:
    """Put a version before the promotion gate and do what it decides."""
    from coat_core.registry.champions import apply
    from coat_core.registry.cold_load import probe
    from coat_core.registry.evidence import compare
    from coat_core.settings import load_settings

    name = _model_name(backbone)
    probe(name, version)
    decision = compare(name, version).decide(load_settings().registry)
    apply(name, version, decision)
    typer.echo(f"{name} version {version}: {decision.word}")
    for reason in decision.reasons:
        typer.echo(f"  {reason}")
    if decision.word == "refused":
        raise typer.Exit(1)


@app.command(rich_help_panel="Registry")
def rollback(
    backbone: Backbone,
    why: Annotated[str, typer.Option(help="the reason; it is written beside the version")],
    who: Annotated[str, typer.Option(help="who says so", envvar="USER")] = "",
) -> None:
    """Withdraw the champion and bring the previous one back."""
    from coat_core.registry.champions import rollback as withdraw

    bad, back = withdraw(_model_name(backbone), who=who, why=why)
    typer.echo(f"{_model_name(backbone)}: version {bad} withdrawn, version {back} is champion again")


@app.command(rich_help_panel="Registry")
def lineage(model: Annotated[str, typer.Argument(help="models:/NAME@champion or models:/NAME/VERSION")]) -> None:
    """Print the way back: commit, params, data and feature hashes, contract result, base and revision."""
    from coat_core.registry.lineage import lineage as trace
    from coat_core.registry.lineage import lineage_text

    typer.echo(lineage_text(trace(model)))


@app.command(rich_help_panel="Models")
def ask(
    model: Annotated[str, typer.Argument(help="models:/NAME@champion, or a release folder")],
    audio: Annotated[Path, typer.Argument(help="an audio file")],
    question: Annotated[str, typer.Argument(help="what to ask about it")],
    show: Annotated[Path | None, typer.Option(help="also write the picture of what it heard, as PNG")] = None,
    device: Annotated[str, typer.Option(help="where the model computes: cpu or cuda")] = "cpu",
) -> None:
    """Ask a model about a clip and print its answer."""
    from coat_core.ask import ask as ask_model

    typer.echo(ask_model(model, audio, question, show=show, device=device))


@app.command(rich_help_panel="Models")
def export(
    model: Annotated[str, typer.Argument(help="models:/NAME@champion, or a release folder")],
    to: Annotated[Path, typer.Option(help="folder to make; an earlier export there is replaced once the new one has passed")],
    merge: Annotated[bool, typer.Option("--merge", help="a plain checkpoint of the stock class; without: the PEFT adapter")] = False,
    dtype: Annotated[str | None, typer.Option(help="float32, bfloat16 or float16; default: what the base has on disk")] = None,
    device: Annotated[str, typer.Option(help="where the parity gate runs")] = "cpu",
    max_shard_size: Annotated[str, typer.Option(help="largest weight file of a merged export")] = "5GB",
    speakers: Annotated[bool, typer.Option("--speakers", help="Qwen2.5-Omni: copy its voices too (spk_dict.pt, a pickle)")] = False,
) -> None:
    """Export a model for stock transformers and peft; the folder appears once the parity gate has passed."""
    from coat_core.export.export import export as export_model

    done = export_model(
        model, to, merge=merge, dtype=dtype, device=device, max_shard_size=max_shard_size, speakers=speakers, say=typer.echo
    )
    typer.echo(f"{done.folder}  {done.size_bytes / 1e6:,.1f} MB\n\n{done.usage}")


@app.command()
def doctor(
    published: Annotated[
        str | None,
        typer.Option(help="work out a full-size model, without its weights: qwen2_audio, qwen2_5_omni, audio_flamingo_3 or all"),
    ] = None,
    params: Annotated[Path | None, typer.Option(help="params file; default: ./params.yaml if there is one")] = None,
    base: Annotated[str | None, typer.Option(help="folder or cached hub id whose configuration is read, not the built-in one")] = None,
    batch: Annotated[int | None, typer.Option(min=1, help="examples of one forward; default: params")] = None,
    seconds: Annotated[float | None, typer.Option(min=0.1, help="audio of each example, s; default: contract.max_duration_s")] = None,
    answer_tokens: Annotated[int | None, typer.Option(min=1, help="tokens of an answer; default: 64, or evaluation.max_new_tokens")] = None,
    gpu_memory: Annotated[float, typer.Option(min=1.0, help="of the GPU, GB")] = 80.0,
    as_json: Annotated[bool, typer.Option("--json", help="print JSON")] = False,
) -> None:
    """Look at versions, disk, device and endpoints, and say what to do; or (--published) at what a full-size model needs."""
    if published is not None:
        from coat_core.sizing.diagnosis import Question
        from coat_core.sizing.page import print_published

        print_published(published, params, Question(batch, seconds, answer_tokens, gpu_memory, base), as_json=as_json)
        return
    from coat_core.doctor import examine

    findings = examine(Path())
    for finding in findings:
        typer.secho(f"{'ok  ' if finding.ok else 'BAD '} {finding.name:20} {finding.found}", fg=None if finding.ok else typer.colors.RED)
        if not finding.ok:
            typer.echo(f"     {finding.advice}")
    if not all(finding.ok for finding in findings):
        raise typer.Exit(1)


def _model_name(backbone: str) -> str:
    from coat_core.errors import CoatError
    from coat_core.settings import load_settings

    names = load_settings().registry.names
    if backbone not in names:
        raise CoatError("no such backbone", field="backbone", value=backbone, allowed=list(names), next_step="name one of these")
    return names[backbone]


def _stage(name: str) -> None:
    from coat_core.pipeline.stages import run_stage

    try:
        run_stage(name)
    except KeyboardInterrupt:  # typer would end in silence
        typer.secho("coat: stopped; what was finished is kept, and the same command goes on from there", err=True, fg=typer.colors.YELLOW)
        raise typer.Exit(130) from None


def main() -> None:
    """Run the command line; a mistake of the user's is one message, not a traceback."""
    for switch in ("DO_NOT_TRACK", "DVC_NO_ANALYTICS", "MLFLOW_DISABLE_TELEMETRY", "HF_HUB_DISABLE_TELEMETRY"):
        os.environ.setdefault(switch, "true")
    from coat_core.errors import CoatError

    try:
        app()
    except CoatError as error:
        typer.secho(f"coat: {error}", err=True, fg=typer.colors.RED)
        sys.exit(1)


if __name__ == "__main__":
    main()
