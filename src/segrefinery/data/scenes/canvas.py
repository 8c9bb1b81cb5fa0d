"""A canvas that draws shapes far to near into the planes from which every look is lit, and into the mask."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from .textures import Plane, clamp

Color = tuple[float, float, float]
Point = tuple[float, float]

BLACK: Color = (0.0, 0.0, 0.0)

# Planes: what a surface is, apart from the light that falls on it. All are 0 where the sky shows.
ALBEDO = slice(0, 3)  # linear reflectance
SHADE = 3  # share of direct daylight it gets
GLOW = slice(4, 7)  # light it sends out itself (lamps, windows)
NEARNESS = 7  # 1 / depth in 1 / m
SOLID = 8  # 1 for surfaces, 0 for sky
PLANES = 9


@dataclass(frozen=True)
class Camera:
    """A pinhole camera ``height`` m above the road; ``focal`` and ``horizon`` are in units of the image's height."""

    focal: float
    horizon: float
    height: float


def paint(color: Color, z: float, shade: float = 1.0, glow: Color = BLACK) -> Plane:
    """One value for each plane; colours are given as they look (gamma 2) and stored linear."""
    r, g, b = color
    return np.array([r * r, g * g, b * b, shade, *glow, 1.0 / z, 1.0], np.float32)


def linear(color: Color) -> Plane:
    """A colour as it looks -> linear, 3 x 1 x 1."""
    return np.array([c * c for c in color], np.float32)[:, None, None]


class Canvas:
    """Draws with soft edges into ``planes`` and with the matching hard edges (half coverage) into ``label``."""

    def __init__(self, camera: Camera, height: int, width: int, background: int):
        self.camera = camera
        self.height, self.width = height, width
        self.planes = np.zeros((PLANES, height, width), np.float32)
        self.label: NDArray[np.uint8] = np.full((height, width), background, np.uint8)
        self.xs = np.arange(width, dtype=np.float32) + 0.5
        self.ys = (np.arange(height, dtype=np.float32) + 0.5)[:, None]

    def scale(self, z: float) -> float:
        """Pixels a metre at depth z."""
        return self.height * self.camera.focal / z

    def project(self, x: float, y: float, z: float) -> Point:
        """Pixel position of a point x m right of the camera, y m above the road, z m ahead."""
        scale = self.scale(z)
        return self.width / 2 + scale * x, self.height * self.camera.horizon + scale * (self.camera.height - y)

    def window(self, x0: float, x1: float, y0: float, y1: float) -> tuple[slice, slice] | None:
        """Rows and columns that a box touches, or None when it lies outside the image."""
        left, right = max(0, int(max(-1.0, x0 - 0.5))), min(self.width, int(min(1e6, max(-1.0, x1 + 1.5))))
        top, bottom = max(0, int(max(-1.0, y0 - 0.5))), min(self.height, int(min(1e6, max(-1.0, y1 + 1.5))))
        if left >= right or top >= bottom:
            return None
        return slice(top, bottom), slice(left, right)

    def rows(self, top: Plane, bottom: Plane) -> slice:
        """Rows that columns from top to bottom touch; at least one."""
        first = min(self.height - 1, max(0, int(max(-1.0, float(top.min())) - 1)))
        return slice(first, max(first + 1, min(self.height, int(min(1e6, float(bottom.max()))) + 2)))

    def lay(self, where: tuple[slice, slice], alpha: Plane, coat: Plane, label: int | None) -> None:
        """Covers the window ``where`` by a coat of paint with opacity alpha; label None leaves the mask as it is."""
        block = self.planes[:, where[0], where[1]]
        block += alpha * (coat[:, None, None] - block)
        if label is not None:
            self.label[where][alpha > 0.5] = label

    def rectangle(self, x0: float, x1: float, y0: float, y1: float, coat: Plane, label: int | None) -> None:
        where = self.window(x0, x1, y0, y1)
        if where is None:
            return
        xs, ys = self.xs[where[1]], self.ys[where[0]]
        across = np.minimum(xs + 0.5, x1) - np.maximum(xs - 0.5, x0)
        along = np.minimum(ys + 0.5, y1) - np.maximum(ys - 0.5, y0)
        self.lay(where, np.maximum(across, 0) * np.maximum(along, 0), coat, label)

    def polygon(self, points: list[Point], coat: Plane, label: int | None) -> None:
        """A convex polygon in pixel coordinates, in either direction of turn."""
        where = self.window(
            min(x for x, _ in points), max(x for x, _ in points), min(y for _, y in points), max(y for _, y in points)
        )
        if where is None:
            return
        xs, ys = self.xs[where[1]], self.ys[where[0]]
        area = sum(ax * by - bx * ay for (ax, ay), (bx, by) in zip(points, points[1:] + points[:1]))
        turn = 1.0 if area > 0 else -1.0
        edges = []  # inward normal and offset: the distance of (x, y) is nx x + ny y + offset
        for (ax, ay), (bx, by) in zip(points, points[1:] + points[:1]):
            length = math.sqrt((bx - ax) * (bx - ax) + (by - ay) * (by - ay))
            if length > 1e-6:
                nx, ny = turn * (ay - by) / length, turn * (bx - ax) / length
                edges.append((nx, ny, 0.5 - nx * ax - ny * ay))
        if edges:
            normals = np.array(edges, np.float32)[:, :, None, None]
            distance = (ys * normals[:, 1] + normals[:, 2]) + xs * normals[:, 0]
            self.lay(where, clamp(np.minimum.reduce(distance)), coat, label)

    def line(self, a: Point, b: Point, thickness: float, coat: Plane, label: int | None) -> None:
        """A bar from a to b, at least one pixel thick so that it stays visible."""
        dx, dy = b[0] - a[0], b[1] - a[1]
        length = math.sqrt(dx * dx + dy * dy)
        if length < 1e-6:
            return
        half = max(thickness, 1.0) / 2
        ox, oy = -dy / length * half, dx / length * half
        corners = [(a[0] + ox, a[1] + oy), (b[0] + ox, b[1] + oy), (b[0] - ox, b[1] - oy), (a[0] - ox, a[1] - oy)]
        self.polygon(corners, coat, label)

    def ellipse(self, x: float, y: float, rx: float, ry: float, coat: Plane, label: int | None) -> None:
        where = self.window(x - rx, x + rx, y - ry, y + ry)
        if where is None:
            return
        alpha = self.disc(where, x, y, rx, ry)
        self.lay(where, alpha, coat, label)

    def disc(self, where: tuple[slice, slice], x: float, y: float, rx: float, ry: float) -> Plane:
        """Coverage of an ellipse in a window."""
        rx, ry = max(rx, 0.3), max(ry, 0.3)
        dx, dy = (self.xs[where[1]] - x) * (1 / rx), (self.ys[where[0]] - y) * (1 / ry)
        # (1 - r^2) / 2 is close to the distance from the rim in units of the radius.
        return clamp((1 - (dx * dx + dy * dy)) * (0.5 * min(rx, ry)) + 0.5)

    def shadow(self, x: float, y: float, rx: float, ry: float, strength: float = 0.65) -> None:
        """A soft contact shadow; the mask does not change."""
        where = self.window(x - rx, x + rx, y - ry, y + ry)
        if where is None:
            return
        dx, dy = (self.xs[where[1]] - x) * (1 / rx), (self.ys[where[0]] - y) * (1 / ry)
        dark = np.maximum(1 - (dx * dx + dy * dy), 0) * strength
        self.planes[:4, where[0], where[1]] *= 1 - dark
