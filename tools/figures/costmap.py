"""Rules of two of Nav2's costmap layers, for the figure of docs/nav2.md and for tests of the node's messages.

Written from the behavior of kiwicampus/semantic_segmentation_layer (commit a70cf6e) and of nav2_costmap_2d's VoxelLayer and
InflationLayer (ros-navigation/navigation2, commit a3a9704). They are no substitute for Nav2.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from typing import Any

import cv2
import numpy as np

FREE, INSCRIBED, LETHAL, UNKNOWN = 0, 253, 254, 255
"""Costs of nav2_costmap_2d."""
UNDEFINED: dict[str, Any] = {"max_cost": 0}


class SemanticLayer:
    """Costs of the cells from labels, confidence and points.

    Args:
        source: Parameters of an observation source of the layer.
        resolution: Size of a cell, m.

    Attributes:
        ignored: Class names of the last `set_classes` that no class type lists.
    """

    def __init__(self, source: Mapping[str, Any], resolution: float) -> None:
        self._source, self._resolution = source, resolution
        self._cost_of_name = {name: source[kind] for kind in source["class_types"] for name in source[kind]["classes"]}
        self._cost_of_id: dict[int, dict[str, Any]] | None = None
        self._tiles: dict[tuple[int, int], _Tile] = {}
        self.ignored: list[str] = []

    def set_classes(self, names: Mapping[int, str]) -> None:
        """Take the classes of a LabelInfo message, name by id."""
        self.ignored = [name for name in names.values() if name not in self._cost_of_name]
        self._cost_of_id = {i: self._cost_of_name[name] for i, name in names.items() if name in self._cost_of_name}

    def update(self, points: np.ndarray, labels: np.ndarray, confidence: np.ndarray, origin: np.ndarray, time: float) -> int:
        """Add an image.

        Args:
            points: H x W x 3 float, in the frame of the costmap, m; NaN where there is none.
            labels: H x W uint8.
            confidence: H x W uint8.
            origin: Position of the camera in the frame of the costmap, m.
            time: Stamp, s.

        Returns:
            Number of cells that got an observation.

        Raises:
            ValueError: The sizes differ, which the layer logs, or no classes are known, for which it reads a null pointer.
        """
        if labels.size != points.size // 3:
            raise ValueError(f"{labels.size} labels for {points.size // 3} points")
        if self._cost_of_id is None:
            raise ValueError("no LabelInfo was received")
        points, labels, confidence = points.reshape(-1, 3), labels.ravel(), confidence.ravel()
        distance = np.linalg.norm(points - origin, axis=1)
        near = (distance > self._source["min_obstacle_distance"]) & (distance < self._source["max_obstacle_distance"])
        chosen = np.flatnonzero(near & np.isfinite(points[:, 2]))
        cells = np.floor(points[chosen, :2] / self._resolution).astype(int)
        if self._source["use_cost_selection"]:
            table = np.array([self._cost_of_id.get(i, UNDEFINED)["max_cost"] for i in range(256)])
            rank = table[labels[chosen]]
        else:
            rank = confidence[chosen].astype(int)
        # Of the pixels in a cell, the first with the highest rank.
        order = np.lexsort((chosen, -rank, cells[:, 1], cells[:, 0]))
        first = np.ones(len(order), bool)
        first[1:] = (np.diff(cells[order], axis=0) != 0).any(axis=1)
        count = 0
        for tile in self._tiles.values():
            tile.purge(time - self._source["tile_map_decay_time"])
        for position in order[first]:
            pixel = chosen[position]
            cost = self._cost_of_id.get(int(labels[pixel]))
            if cost is not None:
                x, y = cells[position].tolist()
                tile = self._tiles.setdefault((x, y), _Tile())
                tile.push(int(labels[pixel]), int(confidence[pixel]), time, cost["dominant_priority"])
                count += 1
        return count

    def costs(self) -> dict[tuple[int, int], int]:
        """Return the cost by cell (x, y); cells without observations are left out."""
        return {cell: self._cost(tile) for cell, tile in self._tiles.items() if tile.dominant is not None}

    def _cost(self, tile: _Tile) -> int:
        assert self._cost_of_id is not None
        assert tile.dominant is not None
        cost, confidences = self._cost_of_id[tile.dominant], [confidence for confidence, _ in tile.queues[tile.dominant]]
        enough = len(confidences) >= cost["samples_to_max_cost"]
        is_sure = sum(confidences) / len(confidences) > cost["mark_confidence"]
        return int(cost["max_cost"] if enough and is_sure else cost["base_cost"])


class _Tile:
    """Observations of a cell by class; the dominant class determines the cost."""

    def __init__(self) -> None:
        self.queues: dict[int, deque[tuple[int, float]]] = {}
        self.dominant: int | None = None

    def push(self, label: int, confidence: int, time: float, has_priority: bool) -> None:
        queue = self.queues.setdefault(label, deque())
        queue.append((confidence, time))
        rival = 0 if self.dominant is None else len(self.queues[self.dominant])
        if has_priority or len(queue) > rival:
            if self.dominant not in (None, label):
                self.queues = {label: queue}
            self.dominant = label

    def purge(self, oldest: float) -> None:
        for queue in self.queues.values():
            while queue and queue[0][1] < oldest:
                queue.popleft()
        self.queues = {label: queue for label, queue in self.queues.items() if queue}
        if self.dominant not in self.queues:
            self.dominant = max(self.queues, key=lambda label: len(self.queues[label]), default=None)


def voxel_marks(points: np.ndarray, origin: np.ndarray, layer: Mapping[str, Any], resolution: float) -> set[tuple[int, int]]:
    """Return the cells (x, y) that VoxelLayer marks as lethal for one cloud.

    Args:
        points: ... x 3 float, in the frame of the costmap, m; NaN where there is none.
        origin: Position of the camera, m.
        layer: Parameters of the layer, with one observation source.
        resolution: Size of a cell, m.
    """
    source, points = layer[layer["observation_sources"]], points.reshape(-1, 3)
    height, distance = points[:, 2], np.linalg.norm(points - origin, axis=1)
    low, high = source["min_obstacle_height"], min(source["max_obstacle_height"], layer["max_obstacle_height"])
    top = min(high, layer["origin_z"] + layer["z_voxels"] * layer["z_resolution"])
    marked = (height >= low) & (height <= top) & (distance >= source["obstacle_min_range"])
    marked &= distance < source["obstacle_max_range"]
    return set(map(tuple, np.floor(points[marked, :2] / resolution).astype(int).tolist()))


def inflate(costs: np.ndarray, layer: Mapping[str, Any], inscribed_radius: float, resolution: float) -> np.ndarray:
    """Return H x W uint8 costs after InflationLayer.

    Args:
        costs: H x W uint8.
        layer: Parameters of the layer.
        inscribed_radius: Radius of the robot, m.
        resolution: Size of a cell, m.
    """
    distance = resolution * cv2.distanceTransform((costs != LETHAL).astype(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_PRECISE)
    decay = (INSCRIBED - 1) * np.exp(-layer["cost_scaling_factor"] * (distance - inscribed_radius))
    ring = np.where(distance <= inscribed_radius, INSCRIBED, decay).astype(np.uint8)
    ring[(distance > layer["inflation_radius"]) | (distance == 0)] = 0
    return np.where(
        (costs == UNKNOWN) & (ring < INSCRIBED), costs, np.maximum(np.where(costs == UNKNOWN, 0, costs), ring)
    ).astype(np.uint8)
