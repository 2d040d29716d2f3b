"""Sharding of the frozen base over the processes of a training (PyTorch's FSDP2, `fully_shard`).

Each process holds a part of every tensor of the embedding, the decoder layers and the output layer. A module's whole tensors are gathered
before its forward and before its backward, and freed after each. What is trained (LoRA, trainable tokens, heads) is small and stays whole
in every process, so optimizer, clipping, checkpoints and releases are those of a training without shards. The audio tower stays whole
too: it runs once a clip, so not at the same time in all processes.

Sources: Zhao et al., "PyTorch FSDP", arXiv:2304.11277; the documentation of `torch.distributed.fsdp.fully_shard`.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, cast

import torch
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, fully_shard, register_fsdp_forward_method
from torch.distributed.tensor import DTensor

from coat_core.errors import TrainingError
from coat_core.thinking.model import ThinkingModel

_FORWARD_METHODS = ("final_states",)
"""Methods of `ThinkingModel` that run the base, besides `forward`."""


def shard_base(model: ThinkingModel, device: torch.device, world: int, *, tower: bool = True) -> None:
    """Shard the base of a new model in place, and move the rest of the model to the device.

    Every process calls this with equal weights; afterwards all processes must run the same forwards and backwards at the same time.

    Args:
        model: a new model, most usefully on the CPU: then no device ever holds more than the shards and one whole module.
        device: device of this process.
        world: number of processes.
        tower: whether the audio tower is moved to the device; False leaves it where it is (its outputs are read from a store).

    Raises:
        TrainingError: the base has weights that cannot be sharded: quantised ones, or an embedding that is also the output layer.
    """
    backbone = model.backbone
    modules = [backbone.embedding, *backbone.layers, _output_layer(model)]
    _check(model, modules)
    mesh = init_device_mesh(device.type, (world,))
    trained = {parameter for parameter in model.parameters() if parameter.requires_grad}
    for module in modules:
        fully_shard(module, mesh=mesh, reshard_after_forward=True, ignored_params=trained & {*module.parameters()})
    # The embedding's gradient does not depend on its weights.
    cast(FSDPModule, backbone.embedding).set_unshard_in_backward(False)
    whole = {parameter for parameter in model.parameters() if not is_sharded(parameter)}
    # The root has no shards of its own; with it, the modules share their streams, and prefetch each other.
    fully_shard(model, mesh=mesh, ignored_params={*model.parameters()})
    for name in _FORWARD_METHODS:
        register_fsdp_forward_method(model, name)
    left = set() if tower else {tensor.data_ptr() for tensor in backbone.audio_state().values()}
    with torch.no_grad():
        for tensor in [*whole, *model.buffers()]:
            if tensor.data_ptr() not in left:
                tensor.data = tensor.data.to(device)


def is_sharded(parameter: torch.Tensor) -> bool:
    """Return whether this process holds only a part of a parameter."""
    return isinstance(parameter, DTensor)


@contextmanager
def gathered(module: nn.Module) -> Iterator[None]:
    """Gather a module's own shards within the context, on all processes at once; a module without shards is left as it is."""
    if not isinstance(module, FSDPModule):
        yield
        return
    module.unshard()
    try:
        yield
    finally:
        module.reshard()


def _output_layer(model: ThinkingModel) -> nn.Module:
    stock: Any = model.backbone.model
    return cast(nn.Module, stock.get_output_embeddings())


def _check(model: ThinkingModel, modules: list[nn.Module]) -> None:
    frozen = [(name, parameter) for module in modules for name, parameter in module.named_parameters() if not parameter.requires_grad]
    quantised = next((f"{name}: {parameter.dtype}" for name, parameter in frozen if not parameter.is_floating_point()), None)
    if quantised is not None:
        raise TrainingError(
            "a quantised base cannot be sharded", field="training.strategy", value=f"fsdp ({quantised})", allowed="single, ddp",
            next_step="set training.strategy: ddp, or use a base in bfloat16",
        )  # fmt: skip
    if model.backbone.embedding.weight is _output_layer(model).weight:
        raise TrainingError(
            "a base whose embedding is also its output layer cannot be sharded", field="training.strategy", value="fsdp",
            allowed="single, ddp", next_step="set training.strategy: ddp",
        )  # fmt: skip
