"""Synthetic streets, rendered with exact labels and depth."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Protocol

from mtl_perception.errors import ConfigError
from mtl_perception.labels import STREET
from mtl_perception.training.data.dataset import DatasetOptions
from mtl_perception.types import Sample

LICENSE = "Apache-2.0"
KINDS = ("scenes", "drive")


class Renderer(Protocol):
    """Renders images by index, deterministically."""

    def sample(self, index: int) -> Sample:
        """Render an image with its labels and depth."""


class Synthetic:
    """Rendered images of random streets: independent scenes, or a drive along one street. See `Dataset`.

    Args:
        path: Unused.
        options: Keys `kind` (`scenes` or `drive`), `count`, `width` and `height` (pixels), `seed`.

    Raises:
        ConfigError: A key is invalid.
    """

    KEYS = ("kind", "count", "width", "height", "seed")

    def __init__(self, path: Path, options: DatasetOptions) -> None:
        fields = options.fields
        if "path" in fields or options.mapping is not None:
            raise ConfigError(f"{fields.where}: a synthetic set has neither `path` nor `mapping`; remove them")
        self.kind = fields.choice("kind", KINDS, KINDS[0])
        self.count = fields.integer("count", low=1)
        self.width, self.height = fields.integer("width", 1242, low=8), fields.integer("height", 375, low=8)
        self.seed = fields.integer("seed", 0)
        self.name = options.name or f"synthetic-{self.kind}-{self.seed}"
        self.license = LICENSE
        self.classes = STREET
        self.keys = [f"{i:06d}" for i in range(self.count)]
        self._labels, self._depth = options.labels, options.depth
        self._renderer: Renderer | None = None

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> Sample:
        key = self.keys[index]
        if self._renderer is None:
            self._renderer = self._create_renderer()
        sample = self._renderer.sample(index % self.count)
        return replace(
            sample,
            labels=sample.labels if self._labels else None,
            depth=sample.depth if self._depth else None,
            name=key,
        )

    def has_labels(self, index: int) -> bool:
        """Return whether labels are provided; every image has them."""
        return self._labels

    def has_depth(self, index: int) -> bool:
        """Return whether depth is provided; every image has it."""
        return self._depth

    def _create_renderer(self) -> Renderer:
        # Imported late because rendering needs Open3D, an optional package that takes seconds to load.
        if self.kind == "drive":
            from mtl_perception.synthetic.drive import SyntheticDrive

            return SyntheticDrive(self.count, self.width, self.height, self.seed)
        from mtl_perception.synthetic.scenes import SyntheticScenes

        scenes: Renderer = SyntheticScenes(self.count, self.width, self.height, self.seed)
        return scenes

    def __getstate__(self) -> dict[str, object]:
        return {**self.__dict__, "_renderer": None}
