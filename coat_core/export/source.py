"""The input of `coat export`: a release and the files of its base."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from coat_core.errors import CoatError, ReleaseError
from coat_core.hub import SMALL_FILES, checkpoint_folder
from coat_core.registry.lineage import MODEL_PREFIX


@dataclass(frozen=True)
class ExportSource:
    """A release and its base.

    Attributes:
        release: folder of the release.
        info: content of the release's `coat.json`.
        architecture: architecture of the LALM.
        base: folder of the base.
        packed: whether that folder is the registry's copy of the base.
        config: configuration of the stock class.
        part: key of that configuration in a checkpoint of several models (`thinker_config`); None for a checkpoint of one model.
    """

    release: Path
    info: Any
    architecture: Any
    base: Path
    packed: bool
    config: Any
    part: str | None

    @property
    def on_hub(self) -> bool:
        """Whether the base is a repository on the hub, so that every host can load it."""
        return not self.packed and not Path(self.info.base.id).is_dir()

    @property
    def model_class(self) -> Any:
        """The stock class."""
        return self.architecture.model_class()

    def plan(self, dtype: str | None, max_shard_bytes: int) -> Any:
        """Return the plan of the merged weights (`MergedWeights`).

        Raises:
            ReleaseError: the base's files are incomplete, or the adapter does not belong to them.
        """
        from coat_core.export.merge import MergedWeights, read_changes
        from coat_core.export.weights import WeightFiles, match_parameters

        files = WeightFiles(self.base)
        parameters = match_parameters(self.model_class, self.config, files.tensors)
        return MergedWeights(files, parameters, read_changes(self.release), dtype=dtype, max_shard_bytes=max_shard_bytes)

    def base_dtype(self) -> str:
        """Return the dtype of the base on disk.

        Raises:
            ReleaseError: the base's files are incomplete.
        """
        from coat_core.export.merge import stored_dtype
        from coat_core.export.weights import WeightFiles, match_parameters

        files = WeightFiles(self.base)
        return stored_dtype(files, match_parameters(self.model_class, self.config, files.tensors))


def find_source(model: str, *, merge: bool, speakers: bool = False) -> ExportSource:
    """Find a model's release and base.

    Args:
        model: `models:/name@alias`, `models:/name/version`, or a release folder.
        merge: whether the adapter is merged into the base; required for arm `base`, which has no adapter.
        speakers: whether `spk_dict.pt` is needed too.

    Raises:
        CoatError: the model or its base does not exist, or the release has no adapter and `merge` is false.
    """
    from coat_core.backbones.catalogue import load_architecture
    from coat_core.export.files import FROM_BASE, SPEAKERS
    from coat_core.registry.versions import packed_release
    from coat_core.thinking.release import read_info

    release, base = packed_release(model) if model.startswith(MODEL_PREFIX) else (Path(model), None)
    info = read_info(release)
    if not info.trained and not merge:
        raise ReleaseError(
            "the untouched base has no adapter to export", field="arm", value=info.arm,
            next_step="use --merge: the base is copied, with unchanged weights",
        )  # fmt: skip
    architecture = load_architecture(info.backbone)
    folder = base or checkpoint_folder(
        info.base.id, info.base.revision, field="base", allow_moving=info.base.allow_moving_revision,
        patterns=(*SMALL_FILES, *FROM_BASE, *(SPEAKERS,) * speakers),
    )  # fmt: skip
    config, part = _model_config(architecture, folder)
    return ExportSource(release, info, architecture, folder, base is not None, config, part)


def find_portable(model: str, *, merge: bool, speakers: bool = False) -> ExportSource:
    """Find a model's release and base (see `find_source`) for an export that other hosts load.

    Raises:
        CoatError: see `find_source`; or the model is an adapter on a base in a folder of this host.
    """
    source = find_source(model, merge=merge, speakers=speakers)
    if not merge and not source.on_hub:
        raise CoatError(
            "the adapter's base is a folder of this host, so no other host could load it", field="base", value=source.info.base.id,
            allowed="a base on the hub", next_step="use --merge",
        )  # fmt: skip
    return source


def _model_config(architecture: Any, base: Path) -> tuple[Any, str | None]:
    from transformers import AutoConfig

    from coat_core.export.stock import suppress_loading_messages

    try:
        with suppress_loading_messages():
            found = AutoConfig.from_pretrained(base, local_files_only=True)
    except (OSError, ValueError) as error:
        raise ReleaseError(f"the base cannot be read: {error}", field="base", value=str(base)) from error
    config = architecture.model_config(found)
    if config is None:
        raise ReleaseError("the base is another model", field="base", value=found.model_type, allowed=architecture.key)
    return config, next((name for name in found.sub_configs if getattr(found, name) is config), None)
