"""Course of a road, and placement of ground and objects along it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from mtl_perception.synthetic.geometry.mesh import Mesh, Surface, triangles


@dataclass(frozen=True)
class Road:
    """Sinusoidal center line x = offset(y), with bends so gentle that y approximates its arc length.

    Attributes:
        bend: Amplitude, m.
        wave: Wavelength over 2 pi, m.
        phase: Phase at y = 0, radians.
    """

    bend: float
    wave: float
    phase: float

    def offset(self, y: np.ndarray | float) -> np.ndarray:
        """Return x of the center line at y, m; it is 0 at y = 0."""
        return np.asarray(self.bend * (np.sin(np.asarray(y) / self.wave + self.phase) - np.sin(self.phase)))

    def heading(self, y: float) -> float:
        """Return the direction of the road at y, radians to the left of the y axis."""
        return -float(np.arctan(self.bend / self.wave * np.cos(y / self.wave + self.phase)))

    def at(self, lateral: float, y: float) -> tuple[float, float]:
        """Return world x and y of the point `lateral` meters to the right of the center line at y."""
        heading = self.heading(y)
        return float(self.offset(y)) + lateral * float(np.cos(heading)), y + lateral * float(np.sin(heading))

    def put(self, mesh: Mesh, lateral: float, y: float, turn: float = 0.0, z: float = 0.0) -> Mesh:
        """Return an object placed `lateral` meters to the right of the center line and rotated with the road."""
        return mesh.placed(*self.at(lateral, y), z, self.heading(y) + turn)

    def strip(
        self,
        surface: Surface,
        y: tuple[float, float],
        lateral: tuple[float, float],
        z: float,
        mark: float = 0.0,
        stretch: float = 1.0,
    ) -> Mesh:
        """Return flat ground along the road.

        Args:
            surface: Appearance and class.
            y: Start and end along the center line, m.
            lateral: Left and right edge, m to the right of the center line.
            z: Height, m.
            mark: Third texture coordinate.
            stretch: Scale of the texture across the road: lane width over patterns.LANE_WIDTH.
        """
        count = max(1, int(np.ceil((y[1] - y[0]) / 6)))
        along = np.linspace(y[0], y[1], count + 1)
        left, right = (self._edge(along, side, z) for side in lateral)
        i = np.arange(count)
        faces = np.concatenate([np.stack([i, i + count + 1, i + 1], -1), np.stack([i + 1, i + count + 1, i + count + 2], -1)])
        texture = [np.stack([np.full(count + 1, side / stretch), along, np.full(count + 1, mark)], -1) for side in lateral]
        return triangles(surface, np.concatenate([left, right]), faces, np.concatenate(texture))

    def wall(self, surface: Surface, y: tuple[float, float], lateral: float, z: tuple[float, float]) -> Mesh:
        """Return a vertical surface along the road between two heights, such as the face of a curb."""
        count = max(1, int(np.ceil((y[1] - y[0]) / 6)))
        along = np.linspace(y[0], y[1], count + 1)
        i = np.arange(count)
        faces = np.concatenate([np.stack([i, i + count + 1, i + 1], -1), np.stack([i + 1, i + count + 1, i + count + 2], -1)])
        return triangles(surface, np.concatenate([self._edge(along, lateral, height) for height in z]), faces)

    def _edge(self, along: np.ndarray, lateral: float, z: float) -> np.ndarray:
        slope = self.bend / self.wave * np.cos(along / self.wave + self.phase)
        across = lateral / np.sqrt(1 + slope**2)
        return np.stack([self.offset(along) + across, along - across * slope, np.full_like(along, z)], -1)
