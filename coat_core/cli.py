"""`coat …`: one thin command per stage, and the few things around them. Heavy imports happen inside the commands."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer(
    name="coat", no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False,
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
    from coat_core.workspace import make_workspace

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


def _stage(name: str) -> None:
    from coat_core.stages import run_stage

    run_stage(name)


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
    except KeyboardInterrupt:
        typer.secho("coat: stopped; what was finished is kept, and the same command goes on from there", err=True, fg=typer.colors.YELLOW)
        sys.exit(130)


if __name__ == "__main__":
    main()
