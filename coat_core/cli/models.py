"""The command that shows models on a page."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from coat_core.console import report_end, say

app = typer.Typer()
_Dtype = Literal["float32", "bfloat16", "float16"]


@app.command(rich_help_panel="Models")
def demo(
    models: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[MODEL]...",
            help="models:/NAME@ALIAS, models:/NAME/VERSION, folders of releases or exports; default: base, sft and coat in models/",
        ),
    ] = None,
    port: Annotated[int, typer.Option(min=1, max=65535, help="TCP port")] = 7860,
    host: Annotated[str, typer.Option(help="address of the interface; other than a loopback address it needs a password")] = "127.0.0.1",
    auth_file: Annotated[
        Path | None, typer.Option(help="file with one line, user:password; without it the variable COAT_DEMO_AUTH is read")
    ] = None,
    device: Annotated[str, typer.Option(help="device of the models: cpu or cuda")] = "cpu",
    dtype: Annotated[_Dtype | None, typer.Option(help="dtype of the weights; default: as in training, or as exported")] = None,
    base: Annotated[str | None, typer.Option(help="folder of the base of every release; default: as stored in each release")] = None,
    requests: Annotated[int, typer.Option(min=1, help="questions in the server at once, those that wait included; then 503")] = 16,
    body_mb: Annotated[float, typer.Option(min=0.001, help="largest body of a question, MB; then 413")] = 32.0,
    audio_s: Annotated[float, typer.Option(min=0.1, help="longest clip, s; then 422")] = 30.0,
    tokens: Annotated[int, typer.Option(min=1, help="most tokens of an answer")] = 256,
    timeout_s: Annotated[float, typer.Option(min=1.0, help="longest time to the answers of all models, s")] = 300.0,
) -> None:
    """Show a page on which models answer the same question side by side, with the read-out, and the saved responses. Ctrl-C stops it."""
    from coat_core.demo.server import show_demo
    from coat_core.serving.limits import Limits

    limits = Limits(requests, 1, body_mb, audio_s, tokens, timeout_s=timeout_s)
    with report_end("the page is closed"):
        show_demo(
            models or [], port, host=host, auth_file=auth_file, device=device, dtype=dtype, base=base, limits=limits, echo=say
        )  # fmt: skip
