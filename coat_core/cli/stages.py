"""The commands of the stages: what `dvc.yaml` calls."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated

import typer

from coat_core.console import RESUMES, report_end

app = typer.Typer()
Backbone = Annotated[str, typer.Argument(help="a key of `backbones` in params")]
Trial = Annotated[str, typer.Argument(help="<arm>-<seed>, e.g. coat-0; one of `trials` in params")]
Suite = Annotated[str, typer.Argument(help="a public benchmark: a key of `evaluation.suites` in params")]
_PANEL = "Stages (what dvc.yaml calls)"


@app.command(rich_help_panel=_PANEL)
def corpus() -> None:
    """Generate or import the corpus."""
    _stage("corpus")


@app.command(rich_help_panel=_PANEL)
def source() -> None:
    """List the corpus in its S3 bucket (source.jsonl) and the files of public benchmarks (suites/*/source.json), as `coat run` does."""
    from coat_core.pipeline.source import list_source, summary_text
    from coat_core.settings import load_settings

    settings = load_settings()
    if settings.corpus.in_bucket or not settings.evaluation.suites:
        typer.echo(summary_text(list_source(Path(), settings.corpus)))
    if settings.evaluation.suites:
        from coat_core.pipeline.suites import list_suites

        changed = list_suites(Path(), settings.evaluation.suites)
        typer.echo(f"{len(settings.evaluation.suites)} public benchmarks: {changed} new or changed")


@app.command(rich_help_panel=_PANEL)
def contract() -> None:
    """Check the corpus against its data contract."""
    _stage("contract")


@app.command(rich_help_panel=_PANEL)
def features(expert: Annotated[str, typer.Argument(help="an expert's key in params")]) -> None:
    """Extract the features of one expert."""
    _stage(f"features@{expert}")


@app.command(rich_help_panel=_PANEL)
def audio(backbone: Backbone) -> None:
    """Run the frozen audio tower of one backbone once on every clip, for all trainings and evaluations."""
    _stage(f"audio@{backbone}")


@app.command(rich_help_panel=_PANEL)
def train(backbone: Backbone, trial: Trial) -> None:
    """Train one trial and publish its release; under torchrun, join a training over several hosts."""
    from coat_core.pipeline.processes import join, launched_rank

    stage, rank = f"train@{backbone}-{trial}", launched_rank()
    if rank is None:
        _stage(stage)
    else:
        join(stage, rank)


@app.command(rich_help_panel=_PANEL)
def answer(backbone: Backbone, trial: Trial) -> None:
    """Answer the evaluation split with one release and save the responses."""
    _stage(f"answer@{backbone}-{trial}")


@app.command(rich_help_panel=_PANEL)
def score(backbone: Backbone, trial: Trial) -> None:
    """Score the saved responses of one trial; no model is needed."""
    _stage(f"score@{backbone}-{trial}")


@app.command(rich_help_panel=_PANEL)
def suite(name: Suite) -> None:
    """Read one public benchmark: its questions for the models, its items for the scorers."""
    _stage(f"suite@{name}")


@app.command(rich_help_panel=_PANEL)
def answer_suite(backbone: Backbone, trial: Trial, name: Suite) -> None:
    """Answer one public benchmark with one release and save the responses."""
    _stage(f"answer_suite@{backbone}-{trial}-{name}")


@app.command(rich_help_panel=_PANEL)
def score_suite(backbone: Backbone, trial: Trial, name: Suite) -> None:
    """Score the saved responses to one public benchmark, as its published script does and as we do."""
    _stage(f"score_suite@{backbone}-{trial}-{name}")


@app.command(rich_help_panel=_PANEL)
def probe(backbone: Backbone, trial: Trial) -> None:
    """Measure whether the supervision of the thinking block reaches the answer: knock-out, head skill, linear probes, choices."""
    _stage(f"probe@{backbone}-{trial}")


@app.command(rich_help_panel=_PANEL)
def latency(backbone: Backbone) -> None:
    """Measure the latency of two releases of one backbone, alternating between them."""
    _stage(f"latency@{backbone}")


@app.command(rich_help_panel=_PANEL)
def latency_described(backbone: Backbone, trial: Trial) -> None:
    """Measure the latency of the candidate against a trial that writes the experts' outputs as text before its answer."""
    _stage(f"latency_described@{backbone}-{trial}")


@app.command(rich_help_panel=_PANEL)
def report() -> None:
    """Write the tables, the figures and the report page."""
    _stage("report")


def _stage(name: str) -> None:
    from coat_core import logs
    from coat_core.pipeline.runner import run_stage
    from coat_core.servers import sigterm_as_interrupt

    if logs.start(stage=name):
        from coat_core.registry.tracking import recorded_run

        kind, _, trial = name.partition("@")
        # `train` makes a run of its own.
        logs.bind(mlflow_run=recorded_run(Path("runs") / trial) if kind != "train" else None)
    with report_end(RESUMES), sigterm_as_interrupt():
        logs.event("command_started", f"coat {name}")
        began = time.monotonic()
        run_stage(name)
        logs.event("command_completed", f"coat {name}", seconds=round(time.monotonic() - began, 3))
