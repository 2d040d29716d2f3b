"""The command line `coat`: one thin command for each stage, and the commands around them. Heavy imports happen inside the commands."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Annotated, Literal

import typer

from coat_core.cli import benchmarks, models, operations, stages
from coat_core.cli.stages import Backbone, Trial
from coat_core.console import RESUMES, account, report_end, say
from coat_core.settings.base import Dtype
from coat_core.sizing.published import PUBLISHED

app = typer.Typer(
    name="coat",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    help="Train a thinking block into a large audio language model, and run every step as a production pipeline.",
)
Model = Annotated[str, typer.Argument(help="models:/NAME@champion, or a release folder")]
Version = Annotated[str, typer.Argument(help="models:/NAME@champion or models:/NAME/VERSION")]


def _print_version(wanted: bool) -> None:
    if wanted:
        from importlib.metadata import version

        typer.echo(f"coat {version('coat')}")
        raise typer.Exit


@app.callback()
def coat(
    version: Annotated[bool, typer.Option("--version", help="print the version", callback=_print_version, is_eager=True)] = False,
) -> None:
    """Train a thinking block into a large audio language model, and run every step as a production pipeline."""


@app.command(rich_help_panel="The pipeline")
def run(
    jobs: Annotated[int | None, typer.Option(min=1, help="number of stages that run in parallel; default: the number of cores")] = None,
) -> None:
    """Run all stale stages of the pipeline under Prefect, then register and promote. Resumes after Ctrl-C or a crash."""
    from coat_core import logs
    from coat_core.servers import sigterm_as_interrupt
    from flows.main import run_chain

    logs.start()
    with report_end(RESUMES), sigterm_as_interrupt():
        run_chain(Path(), jobs)


@app.command(rich_help_panel="The pipeline")
def workspace(
    folder: Annotated[Path, typer.Argument(help="folder to create, usually below workspaces/")],
    params: Annotated[Path, typer.Option(help="params file to copy into it")],
    change: Annotated[list[str] | None, typer.Option("--set", metavar="NAME=VALUE", help="a value of its own; repeatable")] = None,
) -> None:
    """Create a workspace: the same graph with its own params, results, database and lock; the DVC cache is shared."""
    from coat_core.pipeline.changes import parse_changes
    from coat_core.pipeline.workspace import make_workspace

    made = make_workspace(folder, params, parse_changes(change or []))
    typer.echo(f"workspace {made} is ready; next: cd {made} && coat run")


@app.command(rich_help_panel="The pipeline")
def ui(
    start: Annotated[bool, typer.Option("--start/--no-start", help="start the pages, or only print the commands that do")] = True,
    mlflow_port: Annotated[int | None, typer.Option(min=1, max=65535, help="TCP port of MLflow; default: a free one")] = None,
    prefect_port: Annotated[int | None, typer.Option(min=1, max=65535, help="TCP port of Prefect; default: a free one")] = None,
) -> None:
    """Open the pages of MLflow and Prefect over the results of this workspace, on this machine only. Ctrl-C stops them."""
    from flows.ui import show_pages

    with report_end("the pages are closed; the records are kept"):
        show_pages(Path(), start=start, mlflow_port=mlflow_port, prefect_port=prefect_port, echo=say)


app.add_typer(operations.app)
app.add_typer(stages.app)
app.add_typer(benchmarks.app)
app.add_typer(models.app)


@app.command(rich_help_panel="Bases")
def bases(
    keys: Annotated[list[str] | None, typer.Argument(help="keys of backbones; default: all")] = None,
    target: Annotated[Path, typer.Option(help="folder in which each backbone gets a folder")] = Path("bases"),
    recordings: Annotated[Path | None, typer.Option(help="folder of real recordings whose labels the vocabulary should cover")] = None,
    encoder: Annotated[str | None, typer.Option(help="small bases: folder of a Whisper encoder, or owner/name@commit")] = None,
    language_model: Annotated[
        str | None, typer.Option(help="small bases: folder of a language model, or owner/name@commit; default: a small one, trained here")
    ] = None,
    to: Annotated[Path | None, typer.Option(help="small bases: folder in which each backbone gets a folder")] = None,
    window: Annotated[int, typer.Option(min=1, max=30, help="small bases: window of the audio tower, s")] = 10,
    clips: Annotated[int, typer.Option(min=1, help="small bases: generated clips of each family")] = 600,
    recording_clips: Annotated[
        int, typer.Option(min=0, help="small bases: further clips of each family from the recordings' training groups")
    ] = 0,
    steps: Annotated[int, typer.Option(min=1, help="small bases: training steps")] = 2000,
    device: Annotated[str, typer.Option(help="small bases: device of the training")] = "cpu",
    precision: Annotated[
        Literal["float32", "bfloat16"] | None,
        typer.Option(help="small bases: precision of the training; default: bfloat16 with --language-model, else float32"),
    ] = None,
) -> None:
    """Build and pretrain the tiny bases: the real model classes, small enough for a laptop. The repository contains them already built.

    With --encoder and --to: build small bases from a published Whisper encoder and, if given, a published language model.
    """
    from coat_core.backbones.catalogue import BACKBONES
    from coat_core.corpus.examples import read_manifest
    from coat_core.settings import load_settings
    from coat_core.tiny_bases.build import build_bases

    manifest = Path("data/corpus/manifest.jsonl")
    avoid = {example.sha256 for example in read_manifest(manifest)} if manifest.exists() else set()
    chosen, settings = tuple(keys or BACKBONES), load_settings().corpus
    if encoder is None:
        build_bases(chosen, target, settings, recordings, avoid=avoid)
        return
    from coat_core.tiny_bases.projector import default_training
    from coat_core.tiny_bases.small import SmallBaseOptions, build_small_bases

    if to is None:
        raise typer.BadParameter("name the folder of the small bases", param_hint="--to")
    training = default_training(language_model, steps=steps, **({"precision": precision} if precision else {}))
    options = SmallBaseOptions(encoder, language_model, window, clips, recording_clips, device, training=training)
    with report_end(RESUMES):
        build_small_bases(chosen, to, settings, options, recordings=recordings, avoid=avoid)


@app.command(rich_help_panel="Bases")
def classifiers(
    names: Annotated[list[str] | None, typer.Argument(help="sound, style, word; default: all")] = None,
    to: Annotated[Path, typer.Option(help="folder of the networks")] = Path("coat_core/experts/classifiers"),
    scenes: Annotated[int, typer.Option(min=20, help="generated scenes for each classifier")] = 800,
    seed: Annotated[int, typer.Option(help="seed of the scenes and of the weights")] = 0,
) -> None:
    """Fit the classifiers of the experts on generated audio. The repository contains them already fitted."""
    from coat_core.experts.fitting.fit import fit_classifiers
    from coat_core.experts.fitting.scenes import RECIPES

    fit_classifiers(to, scenes=scenes, seed=seed, names=tuple(names or RECIPES))


@app.command(rich_help_panel="Registry")
def register(backbone: Backbone, trial: Trial) -> None:
    """Register a trained and evaluated trial (idempotent by stage key)."""
    from coat_core.registry.releases import register_trial
    from coat_core.settings import load_settings

    done = register_trial(Path(), _model_name(backbone), f"{backbone}-{trial}", list(load_settings().evaluation.suites))
    typer.echo(f"{done.uri} {'registered' if done.created else 'was already registered'}")


@app.command(rich_help_panel="Registry")
def promote(
    backbone: Backbone,
    version: Annotated[str | None, typer.Argument(help="a registered version; default: registry.candidate, registered first")] = None,
) -> None:
    """Run the promotion gate on a version and apply its decision."""
    from coat_core.registry.promotion import promote_candidate
    from coat_core.settings import load_settings

    done = promote_candidate(Path(), load_settings(), backbone, version)
    typer.echo(f"{done.model} version {done.version}: {done.decision}")
    for reason in done.reasons:
        typer.echo(f"  {reason}")
    if done.decision == "refused":
        raise typer.Exit(1)


@app.command(rich_help_panel="Registry")
def rollback(
    backbone: Backbone,
    why: Annotated[str, typer.Option(help="the reason; it is stored with the version")],
    who: Annotated[str, typer.Option(help="your name; it is stored with the version; default: the name of your account")] = "",
) -> None:
    """Withdraw the champion and restore the previous one, if there is one."""
    from coat_core.registry.champions import rollback as withdraw

    withdrawn, restored = withdraw(_model_name(backbone), who=who or account(), why=why)
    after = f"version {restored} is champion again" if restored else "there is no champion now"
    typer.echo(f"{_model_name(backbone)}: version {withdrawn} withdrawn, {after}")


@app.command(rich_help_panel="Registry")
def lineage(model: Version) -> None:
    """Print where a model comes from: commit, params, data and feature hashes, contract result, base and revision."""
    from coat_core.registry.lineage import lineage as trace
    from coat_core.registry.lineage import lineage_text
    from coat_core.registry.references import existing_version

    typer.echo(lineage_text(trace(existing_version(model))))


@app.command(rich_help_panel="Models")
def ask(
    model: Model,
    audio: Annotated[Path, typer.Argument(help="an audio file")],
    question: Annotated[str, typer.Argument(help="a question about it")],
    choices: Annotated[str | None, typer.Option(help="choices with a comma between them; they are appended to the question")] = None,
    show: Annotated[Path | None, typer.Option(help="also write a figure of the predicted features, as PNG")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="print one JSON object: model, version, answer, choice …")] = False,
    max_new_tokens: Annotated[int, typer.Option(min=1, help="largest length of the answer, in tokens")] = 24,
    base: Annotated[str | None, typer.Option(help="folder of the base; default: as stored in the release")] = None,
    device: Annotated[str, typer.Option(help="device of the model: cpu or cuda")] = "cpu",
    server: Annotated[str | None, typer.Option(help="address of a running `coat serve MODEL`, which has the model loaded")] = None,
) -> None:
    """Ask a model a question about a clip and print the answer."""
    from coat_core.ask import Answer, ask_resident
    from coat_core.ask import ask as ask_model

    def report(answer: Answer) -> None:
        if as_json:
            import json

            say(json.dumps(answer.to_json(), ensure_ascii=False))
        else:
            say(answer.answer)
            for note in answer.notes():
                typer.echo(f"coat: {note}", err=True)

    listed = choices.split(",") if choices is not None else None
    if server is not None:
        if show is not None or as_json or base is not None:
            raise typer.BadParameter("--show, --json and --base need the model in this process: leave out --server", param_hint="--server")
        text, notes = ask_resident(server, model, audio, question, max_new_tokens=max_new_tokens, choices=listed)
        say(text)
        for note in notes:
            typer.echo(f"coat: {note}", err=True)
        return
    ask_model(
        model, audio, question, show=show, max_new_tokens=max_new_tokens, device=device, choices=listed, base=base, report=report
    )  # fmt: skip


@app.command(rich_help_panel="Models")
def serve(
    model: Version,
    port: Annotated[int, typer.Option(min=1, max=65535, help="TCP port")] = 5000,
    host: Annotated[str, typer.Option(help="address of the interface; 0.0.0.0: every interface")] = "127.0.0.1",
    device: Annotated[str, typer.Option(help="device of the model: cpu or cuda")] = "cpu",
    dtype: Annotated[Dtype | None, typer.Option(help="dtype of the weights; default: as in training")] = None,
    requests: Annotated[int, typer.Option(min=1, help="requests in the server at once; a further one gets status 503")] = 64,
    batch: Annotated[int, typer.Option(min=1, help="most questions that are answered together")] = 8,
    body_mb: Annotated[float, typer.Option(min=0.001, help="largest body of a request, MB; then 413")] = 32.0,
    audio_s: Annotated[float, typer.Option(min=0.1, help="longest audio of a chat completion, s; then 422")] = 60.0,
    tokens: Annotated[int, typer.Option(min=1, help="most tokens of an answer")] = 256,
    timeout_s: Annotated[float, typer.Option(min=1.0, help="longest time to an answer, s; then 504")] = 300.0,
) -> None:
    """Serve a registered version over HTTP: OpenAI's chat completions, and MLflow's scoring protocol. Ctrl-C stops it."""
    from coat_core import logs
    from coat_core.serve import serve as serve_model
    from coat_core.serving.limits import Limits

    logs.start()
    limits = Limits(requests, batch, body_mb, audio_s, tokens, timeout_s=timeout_s)
    with report_end("the server is stopped"):
        serve_model(model, port, host=host, device=device, dtype=dtype, limits=limits, echo=say)


@app.command(rich_help_panel="Models")
def export(
    model: Model,
    to: Annotated[
        str | None, typer.Option(help="folder or s3://bucket/prefix; an earlier export there is replaced once the new one has passed")
    ] = None,
    push_to: Annotated[str | None, typer.Option(metavar="OWNER/NAME", help="repository on the hub; private unless --public")] = None,
    public: Annotated[bool, typer.Option("--public", help="with --push-to: everybody may read the repository")] = False,
    merge: Annotated[bool, typer.Option("--merge", help="a merged checkpoint of the stock class, not the PEFT adapter")] = False,
    dtype: Annotated[str | None, typer.Option(help="float32, bfloat16 or float16; default: the dtype of the base's files")] = None,
    device: Annotated[str, typer.Option(help="device of the parity gate: cpu or cuda")] = "cpu",
    max_shard_size: Annotated[str, typer.Option(help="largest weight file of a merged export")] = "5GB",
    speakers: Annotated[bool, typer.Option("--speakers", help="Qwen2.5-Omni: also copy its voices (spk_dict.pt, a pickle)")] = False,
) -> None:
    """Export a model for stock transformers and peft; the folder appears once the parity gate has passed."""
    from coat_core.export.bucket import export_to_bucket
    from coat_core.export.export import Export
    from coat_core.export.export import export as export_model
    from coat_core.registry.references import model_uri

    if push_to is not None:
        from coat_core.export.hub import export_to_hub

        if to is not None and to.startswith("s3://"):
            raise typer.BadParameter("beside --push-to it names a folder that keeps the export", param_hint="--to")
        export_to: Callable[..., Export] = partial(export_to_hub, repository=push_to, target=Path(to) if to else None, public=public)
    elif to is None or public:
        raise typer.BadParameter("name a folder, or a repository with --push-to" if to is None else "--public needs --push-to")
    else:
        export_to = partial(export_to_bucket, uri=to) if to.startswith("s3://") else partial(export_model, target=Path(to))
    done = export_to(
        model_uri(model) or model,
        merge=merge,
        dtype=dtype,
        device=device,
        max_shard_size=max_shard_size,
        speakers=speakers,
        progress=typer.echo,
    )
    typer.echo(f"{done.address}  {done.size_bytes / 1e6:,.1f} MB\n\n{done.usage}")


@app.command()
def doctor(
    published: Annotated[
        str | None,
        typer.Option(help=f"estimate a full-size model without its weights: {', '.join(PUBLISHED)} or all"),
    ] = None,
    params: Annotated[Path | None, typer.Option(help="params file; default: ./params.yaml if it exists")] = None,
    base: Annotated[str | None, typer.Option(help="folder or cached hub id whose configuration replaces the built-in one")] = None,
    batch: Annotated[int | None, typer.Option(min=1, help="examples in one forward pass; default: from params")] = None,
    seconds: Annotated[float | None, typer.Option(min=0.1, help="audio of each example, s; default: contract.max_duration_s")] = None,
    answer_tokens: Annotated[int | None, typer.Option(min=1, help="tokens of an answer; default: 64, or evaluation.max_new_tokens")] = None,
    gpu_memory: Annotated[float, typer.Option(min=1.0, help="memory of the GPU, GB")] = 80.0,
    as_json: Annotated[bool, typer.Option("--json", help="print JSON")] = False,
) -> None:
    """Check versions, disk, device and endpoints, with advice; or (--published) estimate what a full-size model needs."""
    if published is not None:
        from coat_core.sizing.diagnosis import SizingRequest
        from coat_core.sizing.page import print_published

        print_published(published, params, SizingRequest(batch, seconds, answer_tokens, gpu_memory, base), as_json=as_json)
        return
    from coat_core.doctor import examine

    typer.echo("importing the modules that the pipeline uses: about a minute", err=True)
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
        raise CoatError("no such backbone", field="backbone", value=backbone, allowed=list(names), next_step="use one of these")
    return names[backbone]


def main() -> None:
    """Run the command line; an error that the user can fix is one message, not a traceback."""
    for switch in ("DO_NOT_TRACK", "DVC_NO_ANALYTICS", "MLFLOW_DISABLE_TELEMETRY", "HF_HUB_DISABLE_TELEMETRY"):
        os.environ.setdefault(switch, "true")
    from coat_core import logs
    from coat_core.errors import CoatError, file_problem
    from coat_core.full_disk import full_disk

    try:
        app()
    except Exception as raised:
        error = full_disk(raised) or raised
        message = str(error) if isinstance(error, CoatError) else file_problem(error) if isinstance(error, OSError) else ""
        if not message:
            raise
        if logs.active():
            logs.event("failed", message, level=logging.ERROR, error=error)
        else:
            typer.secho(f"coat: {message}", err=True, fg=typer.colors.RED)
        sys.exit(error.exit_status if isinstance(error, CoatError) else 1)
