"""Rendered streets as a data set: labels and depth are exact, and no file is read."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Protocol

from mtl_perception.errors import ConfigError
from mtl_perception.labels import STREET
from mtl_perception.training.data.dataset import Setting
from mtl_perception.types import Sample

LICENSE = "none: rendered by mtl_perception, free of others' rights"
KINDS = ("scenes", "drive")


class Renderer(Protocol):
    """What renders picture number `index`, the same at each call."""

    def sample(self, index: int) -> Sample:
        """The picture with its truth."""


class Synthetic:
    """`count` pictures of `width` x `height` by `seed`: single scenes, or one drive through a street. See `Dataset`.

    Args:
        path: Not used.
        setting: Keys `kind` (scenes or drive), `count`, `width`, `height`, `seed`.

    Raises:
        ConfigError: A key is wrong.
    """

    OPTIONS = ("kind", "count", "width", "height", "seed")

    def __init__(self, path: Path, setting: Setting) -> None:
        fields = setting.fields
        if "path" in fields or setting.mapping is not None:
            raise ConfigError(f"{fields.where}: a synthetic set has neither `path` nor `mapping`")
        self.kind = fields.choice("kind", KINDS, KINDS[0])
        self.count = fields.integer("count", low=1)
        self.width, self.height = fields.integer("width", 1242, low=8), fields.integer("height", 375, low=8)
        self.seed = fields.integer("seed", 0)
        self.name = setting.name or f"synthetic-{self.kind}-{self.seed}"
        self.license = LICENSE
        self.classes = STREET
        self.keys = [f"{i:06d}" for i in range(self.count)]
        self._labels, self._depth = setting.labels, setting.depth
        self._renderer: Renderer | None = None

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> Sample:
        key = self.keys[index]
        if self._renderer is None:
            self._renderer = self._make()
        sample = self._renderer.sample(index % self.count)
        return replace(
            sample,
            labels=sample.labels if self._labels else None,
            depth=sample.depth if self._depth else None,
            name=key,
        )

    def has_labels(self, index: int) -> bool:
        """Every picture has, if they were asked for."""
        return self._labels

    def has_depth(self, index: int) -> bool:
        """Every picture has, if it was asked for."""
        return self._depth

    def _make(self) -> Renderer:
        # Here, because rendering needs open3d, which not every machine has and which takes seconds to load.
        if self.kind == "drive":
            from mtl_perception.synthetic.drive import SyntheticDrive

            return SyntheticDrive(self.count, self.width, self.height, self.seed)
        from mtl_perception.synthetic.scenes import SyntheticScenes

        scenes: Renderer = SyntheticScenes(self.count, self.width, self.height, self.seed)
        return scenes

    def __getstate__(self) -> dict[str, object]:
        return {**self.__dict__, "_renderer": None}
