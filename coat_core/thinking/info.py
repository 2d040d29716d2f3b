"""The metadata of a release: `coat.json`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from coat_core.backbones.catalogue import MINIMUM_TRANSFORMERS
from coat_core.experts.base import ExpertSpec
from coat_core.settings import HeadSettings, LoraSettings, LossSettings, find_arm
from coat_core.thinking.block import ThinkingBlock

MINIMUM_PEFT = "0.21"


@dataclass(frozen=True)
class BaseInfo:
    """The base of a release.

    Attributes:
        id: hub id, or a path relative to the workspace.
        revision: revision of the hub repository.
        licence: licence of the weights, or None if unknown.
        allow_moving_revision: whether the revision may be a branch or tag.
        dtype: dtype of the base's weights in training.
        long_audio: treatment of a clip longer than one window of the audio tower: `refuse` or `windows`.
    """

    id: str
    revision: str | None = None
    licence: str | None = None
    allow_moving_revision: bool = False
    dtype: str = "float32"
    long_audio: str = "refuse"


@dataclass(frozen=True)
class ReleaseInfo:
    """The content of `coat.json`.

    Attributes:
        backbone: key of the LALM.
        arm: name of the arm.
        seed: seed of the trial.
        base: the base that the adapter was trained on.
        fingerprint: the stage key of the training.
        block: the thinking block, or None.
        experts: spec of the expert of each head, by key.
        heads: settings of the heads; None without heads.
        lora: settings of the adapter; None for arm `base`.
        losses: settings of the losses; None for arm `base`.
        audio_read_layer: the layer that heads without a block read; None with a block or without heads.
        minimum_transformers: oldest version of transformers that loads the release.
        minimum_peft: oldest version of peft that loads the release.
        files: SHA-256 of every other file of the folder, set when the release is written.
        start: how the embeddings of the block were initialised (`Start.to_json`); None without a block, and in older releases.
    """

    backbone: str
    arm: str
    seed: int
    base: BaseInfo
    fingerprint: str
    block: ThinkingBlock | None = None
    experts: Mapping[str, ExpertSpec] = field(default_factory=dict)
    heads: HeadSettings | None = None
    lora: LoraSettings | None = None
    losses: LossSettings | None = None
    audio_read_layer: int | None = None
    minimum_transformers: str = MINIMUM_TRANSFORMERS
    minimum_peft: str = MINIMUM_PEFT
    files: Mapping[str, str] = field(default_factory=dict)
    start: Mapping[str, Any] | None = None

    @property
    def trained(self) -> bool:
        """Whether there is an adapter; False for the untouched base."""
        return find_arm(self.arm).lora

    def with_files(self, files: Mapping[str, str]) -> ReleaseInfo:
        """Return the info with the hashes of its files."""
        return replace(self, files=dict(files))

    def to_json(self) -> dict[str, Any]:
        """Return the info as JSON values; `read_layer` and `target_rate_hz` are repeated at the top level for readers."""
        return {
            "backbone": self.backbone,
            "arm": self.arm,
            "seed": self.seed,
            "base": asdict(self.base),
            "fingerprint": self.fingerprint,
            "block": self.block.to_json() if self.block else None,
            "start": dict(self.start) if self.start is not None else None,
            "read_layer": self.block.read_layer if self.block else self.audio_read_layer,
            "target_rate_hz": self.heads.target_rate_hz if self.heads else None,
            "experts": {key: spec.to_json() for key, spec in self.experts.items()},
            "heads": self.heads.model_dump(mode="json") if self.heads else None,
            "lora": self.lora.model_dump(mode="json") if self.lora else None,
            "losses": self.losses.model_dump(mode="json") if self.losses else None,
            "minimum_transformers": self.minimum_transformers,
            "minimum_peft": self.minimum_peft,
            "files": dict(self.files),
        }

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> ReleaseInfo:
        """Parse what `to_json` returned.

        Raises:
            KeyError: a field is missing.
            TypeError: a field is unknown.
            ValueError: no arm has this name.
        """
        return cls(
            backbone=value["backbone"],
            arm=find_arm(value["arm"]).name,
            seed=value["seed"],
            base=BaseInfo(**value["base"]),
            fingerprint=value["fingerprint"],
            block=ThinkingBlock.from_json(value["block"]) if value["block"] else None,
            experts={key: ExpertSpec(**{**spec, "dim_names": tuple(spec["dim_names"])}) for key, spec in value["experts"].items()},
            # Heads written before the setting `time` existed interpolate.
            heads=HeadSettings.model_validate({"time": "interpolation", **value["heads"]}) if value["heads"] else None,
            lora=LoraSettings.model_validate(value["lora"]) if value["lora"] else None,
            losses=LossSettings.model_validate(value["losses"]) if value["losses"] else None,
            audio_read_layer=None if value["block"] else value.get("read_layer"),
            minimum_transformers=value["minimum_transformers"],
            minimum_peft=value["minimum_peft"],
            files=value["files"],
            start=value.get("start"),
        )
