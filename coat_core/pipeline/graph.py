"""The graph of `dvc.yaml` as data: the declared dependencies of each stage, and the key that names its result.

DVC runs the graph. This module returns, for one stage, the parameters, inputs and code that `dvc.yaml` declares, and one SHA-256 over
all of them.
"""

from __future__ import annotations

import difflib
import itertools
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from coat_core.errors import StageError
from coat_core.storage import sha256_json, sha256_tree

_REFERENCE = re.compile(r"\$\{([a-z0-9_.]+)\}")
CODE = "coat_core"


@dataclass(frozen=True)
class Stage:
    """One stage with all references resolved."""

    name: str
    """DVC's name, e.g. `train@<backbone>-coat-0`."""
    command: str
    deps: tuple[str, ...]
    params: tuple[str, ...]
    """Dotted paths into params.yaml."""
    outs: tuple[str, ...]
    axes: tuple[str, ...] = ()
    """Values of `foreach` or `matrix`, e.g. `(<backbone>, "coat-0")`."""

    @property
    def kind(self) -> str:
        """The name before `@`."""
        return self.name.split("@")[0]

    @property
    def module(self) -> str:
        """Dotted name of the module whose `run` is the stage."""
        return f"coat_core.pipeline.stages.{self.kind}"

    @property
    def sections(self) -> frozenset[str]:
        """Top-level parameter sections that the stage declares."""
        return frozenset(path.split(".")[0] for path in self.params)

    @property
    def code(self) -> tuple[str, ...]:
        """Dependencies that are code."""
        return tuple(dep for dep in self.deps if dep.split("/")[0] == CODE)

    @property
    def inputs(self) -> tuple[str, ...]:
        """Dependencies that are data."""
        return tuple(dep for dep in self.deps if dep.split("/")[0] != CODE)

    def check_experts(self, experts: Iterable[str]) -> None:
        """Refuse a graph and params that name different experts: the key would not cover the stores that the stage reads.

        Raises:
            StageError: the stores among the inputs are not those of `experts`.
        """
        named = [dep.removeprefix("features/") for dep in self.inputs if dep.startswith("features/")]
        if set(named) != set(experts):
            raise other_experts(named, list(experts))


def read_graph(workspace: Path, values: Mapping[str, Any]) -> dict[str, Stage]:
    """Read `dvc.yaml` of a workspace against its raw parameter values.

    Raises:
        StageError: the file is missing, or names a parameter that is not there.
    """
    path = workspace / "dvc.yaml"
    if not path.is_file():
        raise StageError(
            "there is no graph here", field="dvc.yaml", value=str(path), next_step="change to a workspace, or make one: coat workspace DIR"
        )
    stages = (stage for name, body in yaml.safe_load(path.read_text())["stages"].items() for stage in _expand(name, body, values))
    return {stage.name: stage for stage in stages}


def other_experts(named: Sequence[str], experts: Sequence[str]) -> StageError:
    """Return the error of a graph whose `train` depends on other stores than those of the experts in params."""
    return StageError(
        "train depends on other stores in dvc.yaml than those of the experts in params.yaml",
        field="experts",
        value=sorted(experts),
        allowed=sorted(named),
        next_step="in a workspace: coat workspace . --params params.yaml. In the repository: leave an expert out with "
        "losses.expert_weights: {NAME: 0}, add one as docs/extending.md says, or make a workspace",
    )


def find_stage(name: str, workspace: Path, values: Mapping[str, Any]) -> Stage:
    """Return one stage of the graph.

    Raises:
        StageError: the graph has no such stage; the error names the nearest one and the values of each axis.
    """
    stages = read_graph(workspace, values)
    if name not in stages:
        kind = name.split("@")[0]
        same = [stage for stage in stages.values() if stage.kind == kind]
        near = difflib.get_close_matches(name, [stage.name for stage in same] or list(stages), n=1, cutoff=0.0)
        axes = [list(dict.fromkeys(values)) for values in zip(*(stage.axes for stage in same), strict=True)]
        raise StageError(
            "params name no such stage",
            field="stage",
            value=name,
            allowed=f"{kind} of " + " and of ".join(f"({', '.join(axis)})" for axis in axes)
            if axes
            else list(dict.fromkeys(stage.kind for stage in stages.values())),
            next_step=f"did you mean {' and '.join(near)}? Otherwise fix backbones, experts or trials in params.yaml",
        )
    return stages[name]


def stage_key(stage: Stage, workspace: Path, values: Mapping[str, Any]) -> str:
    """Return the SHA-256 that names a stage's result: its name, its parameters, the hashes of its inputs and of its code.

    Raises:
        StageError: an input is missing.
    """
    missing = [dep for dep in stage.inputs if not (workspace / dep).exists()]
    if missing:
        raise StageError(
            f"stage {stage.name} lacks inputs", field="deps", value=missing, next_step="run the pipeline: coat run (or dvc repro)"
        )
    return sha256_json(
        {
            "stage": stage.name,
            "params": {path: _lookup(path, values) for path in stage.params},
            "inputs": {dep: sha256_tree(workspace / dep) for dep in stage.inputs},
            "code": {dep: sha256_tree(workspace / dep) for dep in stage.code},
        }
    )


def _expand(name: str, body: Mapping[str, Any], values: Mapping[str, Any]) -> Iterator[Stage]:
    if "foreach" in body:
        for key in _lookup(body["foreach"][2:-1], values):
            yield _fill(f"{name}@{key}", body["do"], {**values, "key": key}, (key,))
    elif "matrix" in body:
        axes = {axis: list(_lookup(reference[2:-1], values)) for axis, reference in body["matrix"].items()}
        for point in itertools.product(*axes.values()):
            item = dict(zip(axes, point, strict=True))
            key = "-".join(map(str, point))
            yield _fill(f"{name}@{key}", body, {**values, "item": item, "key": key}, point)
    else:
        yield _fill(name, body, values)


def _fill(name: str, body: Mapping[str, Any], context: Mapping[str, Any], axes: tuple[str, ...] = ()) -> Stage:
    def text(value: Any) -> str:
        return _REFERENCE.sub(lambda match: str(_lookup(match[1], context)), next(iter(value)) if isinstance(value, dict) else value)

    outs = [text(out) for kind in ("outs", "metrics", "plots") for out in body.get(kind, [])]
    return Stage(name, text(body["cmd"]), tuple(map(text, body["deps"])), tuple(map(text, body.get("params", []))), tuple(outs), axes)


def _lookup(path: str, values: Mapping[str, Any]) -> Any:
    found: Any = values
    for part in path.split("."):
        if not isinstance(found, Mapping) or part not in found:
            raise StageError(
                "dvc.yaml names a parameter that params.yaml lacks", field=path, next_step="write the whole section out in params.yaml"
            )
        found = found[part]
    return found
