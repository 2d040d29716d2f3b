"""The command for public benchmarks: a model answers one, or responses made elsewhere are scored, as the published script and as we do."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from coat_core.console import RESUMES, report_end, say
from coat_core.settings.base import Dtype

if TYPE_CHECKING:
    from coat_core.evaluation.benchmarks.judges import Judge
    from coat_core.evaluation.benchmarks.scoring import BenchmarkResult
    from coat_core.evaluation.benchmarks.suite import LoadedSuite

app = typer.Typer()
_LIST = "list"


@app.command(rich_help_panel="Models")
def benchmark(
    model: Annotated[
        str | None, typer.Argument(help="models:/NAME@champion, a release folder or an export; 'list': all benchmarks")
    ] = None,
    suite: Annotated[str | None, typer.Option(help="name of a benchmark, e.g. mmau")] = None,
    data: Annotated[str, typer.Option(help="folder with its published files, or owner/name@commit of a data set on the hub")] = ".",
    responses: Annotated[Path | None, typer.Option(help="score this file instead of a model: ours, or the log of another harness")] = None,
    layout: Annotated[str | None, typer.Option("--format", help="coat, lmms-eval, kimi or vlmevalkit; default: found out")] = None,
    prompts: Annotated[Path | None, typer.Option(help="write id, clip and prompt of each item to this JSON Lines file instead")] = None,
    out: Annotated[Path | None, typer.Option(help="of a model: folder of questions, responses and result; the same call resumes")] = None,
    split: Annotated[str | None, typer.Option(help="default: the first of the benchmark")] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="only so many items, chosen by their ids; default: all")] = None,
    by: Annotated[list[str] | None, typer.Option(help="group field of the table, repeatable; default: the first of the benchmark")] = None,
    json_file: Annotated[Path | None, typer.Option("--json", help="also write totals, groups and every item to this file")] = None,
    max_new_tokens: Annotated[int, typer.Option(min=1, help="longest response of a model, in tokens")] = 64,
    batch: Annotated[int, typer.Option(min=1, help="most questions that a model answers together")] = 8,
    device: Annotated[str, typer.Option(help="device of the model, and of a local judge: cpu or cuda")] = "cpu",
    dtype: Annotated[Dtype | None, typer.Option(help="dtype of the weights; default: as in training, or as exported")] = None,
    base: Annotated[str | None, typer.Option(help="folder of the model's base; default: as stored")] = None,
    judge: Annotated[
        str | None, typer.Option(help="open answers: 'stand-in', 'local', or the URL of a server with OpenAI's protocol")
    ] = None,
    judge_model: Annotated[
        str | None, typer.Option(help="of 'local': folder or hub id; of a server: name there, its key is read from OPENAI_API_KEY")
    ] = None,
    judge_revision: Annotated[str | None, typer.Option(help="of 'local' with a hub id: its commit")] = None,
    judge_cache: Annotated[Path, typer.Option(help="folder in which judgements are kept")] = Path(".scratch/judgements"),
    accept_licence: Annotated[bool, typer.Option("--accept-licence", help="you accept a licence that forbids commercial use")] = False,
) -> None:
    """Score a model, or responses made elsewhere, on a public benchmark: as its published script does, and as we do."""
    from coat_core.evaluation.benchmarks.catalogue import find_suite
    from coat_core.evaluation.benchmarks.prepared import SuiteChoice, choose

    if suite is None:
        _print_suites(model)
        return
    if sum(given is not None for given in (model, responses, prompts)) != 1:
        raise typer.BadParameter("give either MODEL, --responses or --prompts")
    choice = SuiteChoice(data, split, limit, accept_licence)
    if prompts is not None:
        _write_prompts(choose(choice.load(find_suite(suite)), limit), prompts)
        return
    asked = _judge(judge, judge_model, judge_revision, judge_cache, device)
    groups = find_suite(suite).groups
    fields = tuple(by) if by else groups[:1]
    if unknown := [field for field in fields if field not in groups]:
        raise typer.BadParameter(f"{unknown[0]} is no group field of {suite}; allowed: {', '.join(groups) or 'none'}")
    if model is not None:
        from coat_core.benchmark import Asking, benchmark_model

        if out is None:
            raise typer.BadParameter("name the folder of questions, responses and result", param_hint="--out")
        asking = Asking(max_new_tokens, batch, device, dtype, base)
        with report_end(RESUMES):
            result = benchmark_model(model, suite, choice, asking, out, asked)
        _report(result, fields, json_file, None)
        return
    assert responses is not None
    _score_file(choose(choice.load(find_suite(suite)), limit), responses, layout, asked, fields, json_file)


def _print_suites(word: str | None) -> None:
    from coat_core.evaluation.benchmarks.catalogue import SUITES, find_suite

    if word not in (None, _LIST):
        raise typer.BadParameter(f"name the benchmark; known: {', '.join(SUITES)}", param_hint="--suite")
    for name in SUITES:
        found = find_suite(name)
        say(f"{name:22} {', '.join(found.layout.splits):45} {found.licence.name}")


def _write_prompts(loaded: LoadedSuite, path: Path) -> None:
    from coat_core.storage import write_jsonl

    write_jsonl(path, ({"id": item.id, "audio": item.audio, "prompt": loaded.suite.prompt(item)} for item in loaded.items))
    say(f"{len(loaded.items)} prompts in {path} ({loaded.suite.prompt_source})")


def _judge(judge: str | None, model: str | None, revision: str | None, cache: Path, device: str) -> Judge | None:
    from coat_core.evaluation.benchmarks.judge_choice import choose_judge
    from coat_core.evaluation.benchmarks.judges import CachedJudge
    from coat_core.settings.suites import LOCAL, STAND_IN

    if judge is None:
        return None
    if judge not in (STAND_IN, LOCAL) and not judge.startswith(("http://", "https://")):
        raise typer.BadParameter(f"allowed: {STAND_IN}, {LOCAL}, or a URL", param_hint="--judge")
    if judge != STAND_IN and not model:
        raise typer.BadParameter("name the folder or hub id of the judge, or its name at the server", param_hint="--judge-model")
    if judge != LOCAL and revision is not None:
        raise typer.BadParameter("only a local judge has a commit", param_hint="--judge-revision")
    asked = choose_judge(judge, model, revision, device=device)
    return CachedJudge(asked, cache) if asked is not None else None


def _score_file(
    loaded: LoadedSuite, path: Path, layout: str | None, judge: Judge | None, fields: tuple[str, ...], json_file: Path | None
) -> None:
    from coat_core.evaluation.benchmarks.judges import with_judge
    from coat_core.evaluation.benchmarks.logs.comparison import comparison_json, comparison_text, rescore
    from coat_core.evaluation.benchmarks.logs.formats import OURS, read_log
    from coat_core.evaluation.benchmarks.scoring import read_given, score_benchmark

    loaded = with_judge(loaded, judge) if judge is not None else loaded
    log = read_log(path, layout)
    if log.format.name == OURS:
        # Ours have the ids of the benchmark: another one is a mistake.
        _report(score_benchmark(loaded, read_given(path)), fields, json_file, None)
        return
    compared = rescore(log, loaded)
    _report(compared.result, fields, json_file, comparison_json(compared))
    say(f"\n{comparison_text(compared)}")


def _report(result: BenchmarkResult, fields: tuple[str, ...], json_file: Path | None, compared: dict[str, object] | None) -> None:
    from coat_core.evaluation.benchmarks.scoring import to_json
    from coat_core.evaluation.benchmarks.table import table_text
    from coat_core.storage import write_json

    say(table_text(result, fields))
    if json_file is not None:
        write_json(json_file, {**to_json(result), **({"log": compared} if compared is not None else {})})
