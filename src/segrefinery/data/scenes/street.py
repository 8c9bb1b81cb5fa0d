"""The street: a curved ribbon of road and sidewalks on a plane, with side streets, markings and verges."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from .canvas import ALBEDO, NEARNESS, SHADE, SOLID, Canvas, Color, linear
from .classes import ROAD, SIDEWALK, TERRAIN
from .textures import Plane, clamp, lookup, noise_bank

FAR = 150.0  # m; where the ground ends


@dataclass(frozen=True)
class Street:
    """Lengths in m. A lateral position is measured from the middle of the road, to the right.

    center: of the road at the camera, right of it; curve: the road's middle lies at center + curve * z^2;
    walks: width of the sidewalk left and right; setbacks: verge between sidewalk and facades (grass when green);
    crossings: (side, z0, z1) of side streets; shadow: buildings of side ``sun`` shade the ground up to this position.
    """

    center: float
    curve: float
    half_width: float
    walks: tuple[float, float]
    setbacks: tuple[float, float]
    greens: tuple[bool, bool]
    crossings: tuple[tuple[int, float, float], ...]
    zebra: float | None
    sun: int
    shadow: float
    asphalt: Color
    paving: Color
    grass: Color
    dashes: tuple[float, float]
    texture: tuple[float, float]

    def x(self, lateral: float, z: float) -> float:
        """Metres right of the camera of a lateral position at depth z."""
        return self.center + lateral + self.curve * z * z

    def kerb(self, side: int) -> float:
        """Lateral position of the edge between road and sidewalk."""
        return side * self.half_width

    def front(self, side: int) -> float:
        """Lateral position of the facades."""
        index = (side + 1) // 2
        return side * (self.half_width + self.walks[index] + self.setbacks[index])

    def daylight(self, lateral: float) -> float:
        """Share of direct sun at a lateral position: little in the shadow of the houses."""
        return 0.25 if lateral * self.sun > self.shadow else 1.0

    def column_depths(self, canvas: Canvas, lateral: float) -> Plane:
        """Depth at which each column of the image meets a wall along the street; 0 where it does not."""
        d = self.center + lateral
        w = (canvas.xs - canvas.width / 2) * (1 / (canvas.height * canvas.camera.focal))
        inner = w * w - (4 * self.curve * d)
        root = np.sqrt(np.maximum(inner, 0))
        slope = w + root if d > 0 else w - root
        met = (inner >= 0) & (slope * d > 1e-6)
        return np.where(met, (2 * d) / np.where(met, slope, 1), 0).astype(np.float32)

    def draw(self, canvas: Canvas) -> None:
        """Everything that lies on the ground."""
        camera = canvas.camera
        top = min(canvas.height, max(0, int(canvas.height * (camera.horizon + camera.focal * camera.height / FAR))))
        if top >= canvas.height:
            return
        rows = slice(top, canvas.height)
        z = np.minimum(camera.focal * camera.height / (canvas.ys[rows] * (1 / canvas.height) - camera.horizon), FAR)
        z = np.maximum(z, 0.5).astype(np.float32)
        pixel = z * (1 / (camera.focal * canvas.height))  # metres across one pixel
        lateral = (canvas.xs - canvas.width / 2) * pixel - (self.center + self.curve * z * z)
        beyond = np.abs(lateral)
        right = (lateral > 0).astype(np.float32)

        soft = 1 / pixel
        road = clamp((self.half_width - beyond) * soft + 0.5)
        rows_a_metre = camera.focal * camera.height * canvas.height
        for side, near, far in self.crossings:
            rows_in = np.minimum(z - near, far - z) * (rows_a_metre / (z * z)) + 0.5
            road = np.maximum(road, clamp(rows_in) * (right if side > 0 else 1 - right))
        walk_ends = [self.half_width + walk if green else FAR * 9 for walk, green in zip(self.walks, self.greens)]
        grass = clamp((beyond - (walk_ends[0] + (walk_ends[1] - walk_ends[0]) * right)) * soft + 0.5)
        grass *= 1 - road

        u, v = self.texture
        grain = lookup(noise_bank(), z * 9 + u, lateral * 14 + v) - 0.5
        patches = lookup(noise_bank(), z * 1.5 + v, lateral * 3.0 + u) - 0.5
        detail = grain * clamp(18 / z, 0.15, 1)
        asphalt = 1 + 0.35 * detail + 0.45 * patches
        # Kerb line and slabs of the sidewalk, tufts in the grass.
        slabs = clamp(9 / z - 0.3) * (np.abs(z % 1.5 - 0.75) > 0.7)
        edge = clamp(1 - np.abs(beyond - (self.half_width + 0.12)) * np.minimum(soft, 7)) * (1 - road)
        paving = (1 + 0.25 * detail) * (1 - 0.25 * slabs) * (1 + 0.35 * edge)
        turf = 1 + 0.8 * detail + 0.7 * patches
        white = self._markings(z, lateral, beyond, soft) * road

        planes = canvas.planes[:, rows]
        walk = 1 - road - grass
        color = (road * asphalt) * linear(self.asphalt) + (walk * paving) * linear(self.paving)
        color += (grass * turf) * linear(self.grass)
        color += white * (0.62 * (1 + patches) - color)
        np.maximum(color, 0, out=planes[ALBEDO])
        planes[SHADE] = 1 - 0.75 * clamp((lateral * self.sun - self.shadow) * np.minimum(soft, 2.5) + 0.5)
        planes[NEARNESS] = 1 / z
        planes[SOLID] = 1
        canvas.label[rows] = np.where(road > 0.5, ROAD, np.where(grass > 0.5, TERRAIN, SIDEWALK))

    def _markings(self, z: Plane, lateral: Plane, beyond: Plane, soft: Plane) -> Plane:
        period, length = self.dashes
        dash = (z % period) < length
        white = clamp((0.08 - np.abs(lateral)) * soft + 0.5) * dash
        side_line = clamp((0.07 - np.abs(beyond - (self.half_width - 0.25))) * soft + 0.5)
        white = np.maximum(white, side_line * 0.7)
        if self.zebra is not None:
            bars = ((lateral + 40.0) % 1.0) < 0.5
            white = np.maximum(white, bars & (np.abs(z - self.zebra) < 1.5) & (beyond < self.half_width - 0.4))
        return white
