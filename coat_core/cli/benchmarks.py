"""The command for public benchmarks: responses made elsewhere, scored as the published script does and as we do."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer

from coat_core.console import say

app = typer.Typer()


@app.command(rich_help_panel="Models")
def benchmark(
    suite: Annotated[str, typer.Argument(help="name of a benchmark, e.g. mmau; 'list' prints all")],
    data: Annotated[str, typer.Option(help="folder with its published files, or owner/name@commit of a data set on the hub")] = ".",
    responses: Annotated[Path | None, typer.Option(help='JSON Lines of {"id": …, "response": …}')] = None,
    prompts: Annotated[Path | None, typer.Option(help="write id, clip and prompt of each item to this JSON Lines file instead")] = None,
    split: Annotated[str | None, typer.Option(help="default: the first of the benchmark")] = None,
    by: Annotated[list[str] | None, typer.Option(help="group field of the table, repeatable; default: the first of the benchmark")] = None,
    json_file: Annotated[Path | None, typer.Option("--json", help="also write totals, groups and every item to this file")] = None,
    judge: Annotated[str | None, typer.Option(help="open answers: URL of a server with OpenAI's protocol, or 'stand-in'")] = None,
    judge_model: Annotated[str, typer.Option(help="name of the judge's model at the server; its key is read from OPENAI_API_KEY")] = "",
    judge_cache: Annotated[Path, typer.Option(help="folder in which judgements are kept")] = Path(".scratch/judgements"),
    accept_licence: Annotated[bool, typer.Option("--accept-licence", help="you accept a licence that forbids commercial use")] = False,
) -> None:
    """Score responses to a public benchmark under two readings: the published script's, and ours, where an unclear answer is wrong."""
    from coat_core.evaluation.benchmarks.catalogue import SUITES, find_suite
    from coat_core.evaluation.benchmarks.suite import load

    if suite == "list":
        for name in SUITES:
            found = find_suite(name)
            say(f"{name:22} {', '.join(found.layout.splits):45} {found.licence.name}")
        return
    if (responses is None) == (prompts is None):
        raise typer.BadParameter("give either --responses or --prompts")
    loaded = load(find_suite(suite), data, split, accept_licence=accept_licence)
    if prompts is not None:
        from coat_core.storage import write_jsonl

        write_jsonl(prompts, ({"id": item.id, "audio": item.audio, "prompt": loaded.suite.prompt(item)} for item in loaded.items))
        say(f"{len(loaded.items)} prompts in {prompts} ({loaded.suite.prompt_source})")
        return
    if judge is not None:
        from coat_core.evaluation.benchmarks.judges import CachedJudge, Judge, ServedJudge, StandIn, with_judge

        if judge != "stand-in" and not judge_model:
            raise typer.BadParameter("name the model at the server", param_hint="--judge-model")
        asked: Judge = StandIn() if judge == "stand-in" else ServedJudge(judge, judge_model, os.environ.get("OPENAI_API_KEY", ""))
        loaded = with_judge(loaded, CachedJudge(asked, judge_cache))
    from coat_core.evaluation.benchmarks.scoring import read_given, score_benchmark, to_json
    from coat_core.evaluation.benchmarks.table import table_text
    from coat_core.storage import write_json

    assert responses is not None
    fields = tuple(by) if by else loaded.suite.groups[:1]
    if unknown := [field for field in fields if field not in loaded.suite.groups]:
        raise typer.BadParameter(f"{unknown[0]} is no group field of {suite}; allowed: {', '.join(loaded.suite.groups) or 'none'}")
    result = score_benchmark(loaded, read_given(responses))
    say(table_text(result, fields))
    if json_file is not None:
        write_json(json_file, to_json(result))
