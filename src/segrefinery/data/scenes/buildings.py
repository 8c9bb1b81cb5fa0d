"""Houses, fences and the skyline."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from .canvas import ALBEDO, GLOW, NEARNESS, Canvas, Color, linear, paint
from .classes import BUILDING, FENCE
from .street import Street
from .textures import Plane, clamp, lookup, noise_bank, white_bank

WINDOWS_END = 70.0  # m; windows farther away are not drawn


def strip(canvas: Canvas, street: Street, lateral: float, near: float, far: float):
    """Columns where a wall along the street shows, their depths and pixels a metre; None if it is out of sight."""
    depth = street.column_depths(canvas, lateral)
    columns = np.flatnonzero((depth > 0) & (depth >= near) & (depth < far))
    if len(columns) == 0:
        return None
    cols = slice(int(columns[0]), int(columns[-1]) + 1)
    z = np.maximum(depth[cols], 0.3)
    return cols, z, (canvas.height * canvas.camera.focal) / z


@dataclass(frozen=True)
class House:
    """A house along the street from ``near`` to ``far``; its end faces us.

    storey, bay: distance of the windows in m; duty: their share of it, across and up; roof: share of the height;
    shop: colour of the board over the shop windows on the ground floor; lit: share of windows with light at night.
    """

    near: float
    far: float
    side: int
    lateral: float
    tall: float
    color: Color
    trim: Color
    storey: float
    bay: float
    duty: tuple[float, float]
    shop: Color | None
    roof: float
    key: int
    lit: float
    warm: Color
    sunny: bool

    @property
    def z(self) -> float:
        return self.far  # all that stands beside it is nearer to us

    def draw(self, canvas: Canvas, street: Street) -> None:
        if self.near > 1:  # else its end is behind us
            self._draw_end(canvas, street)
        self._draw_facade(canvas, street)

    def _draw_end(self, canvas: Canvas, street: Street) -> None:
        z, scale = self.near, canvas.scale(self.near)
        inner = street.x(self.lateral, z)
        x0, y0 = canvas.project(inner, self.tall, z)
        x1, y1 = canvas.project(inner + self.side * 14.0, 0.0, z)
        left, right = min(x0, x1), max(x0, x1)
        where = canvas.window(left, right, y0, y1)
        if where is None:
            return
        shade = 0.75 if self.sunny else 0.3
        canvas.rectangle(left, right, y0, y1, paint(self.color, z, shade), BUILDING)
        canvas.rectangle(left, right, y0, y0 + (y1 - y0) * self.roof, paint(self.trim, z, shade), BUILDING)
        if z < WINDOWS_END:
            along = np.abs((canvas.xs[where[1]] - x0) * (1 / scale)) - 1
            up = (y1 - canvas.ys[where[0]]) * (1 / scale)
            self._windows(canvas, where, along, up, np.full(1, scale, np.float32), 1.0)

    def _draw_facade(self, canvas: Canvas, street: Street) -> None:
        visible = strip(canvas, street, self.lateral, self.near, self.far)
        if visible is None:
            return
        cols, z, scale = visible
        horizon = canvas.height * canvas.camera.horizon
        top = horizon - scale * (self.tall - canvas.camera.height)
        bottom = horizon + scale * canvas.camera.height
        where = canvas.rows(top, bottom), cols
        ys = canvas.ys[where[0]]
        cover = clamp(np.minimum(ys - top, bottom - ys) + 0.5)
        canvas.lay(where, cover, paint(self.color, 1.0, 1.0 if self.sunny else 0.3), BUILDING)
        block = canvas.planes[:, where[0], where[1]]
        block[NEARNESS] += cover * (1 / z - 1)  # it was painted at a depth of 1 m
        up = (bottom - ys) / scale
        cornice = clamp((up - self.tall * (1 - self.roof)) * scale + 0.5) * cover
        block[ALBEDO] += cornice * (linear(self.trim) - block[ALBEDO])
        if self.near < WINDOWS_END:
            # A wall seen at a slant is foreshortened: a pixel spans about three times more of it sideways.
            self._windows(canvas, where, z - self.near, up, scale, 0.35, cover)

    def _windows(self, canvas, where, along, up, scale, slant: float, cover: Plane | None = None) -> None:
        """Windows, given metres along (W) and up (H x W or H x 1) the wall; they fade where pixels are larger."""
        fade = clamp(scale * 0.5) if cover is None else clamp(scale * 0.5) * cover
        floor = (up - (3.4 if self.shop is not None else 0.6)) * (1 / self.storey)
        room = along * (1 / self.bay)
        row, col = np.floor(floor), np.floor(room)
        across, high = self.duty
        across = clamp((0.5 * across - np.abs(room - col - 0.5)) * np.minimum(scale * (self.bay * slant), 8) + 0.5)
        high = clamp((0.5 * high - np.abs(floor - row - 0.5)) * np.minimum(scale * self.storey, 12) + 0.5)
        high *= (floor > 0) & (up < self.tall * (1 - self.roof))
        glass = across * high * fade
        decision = lookup(white_bank(), row + self.key, col * 3 + self.key)
        block = canvas.planes[:, where[0], where[1]]
        grain = lookup(noise_bank(), up * 6 + self.key, along * 5 + self.key) - 0.5
        block[ALBEDO] *= 1 + grain * 0.3
        block[ALBEDO] += glass * ((0.02 + 0.1 * decision) * linear((0.9, 0.97, 1.05)) - block[ALBEDO])
        light = glass * (0.25 + 0.8 * decision)
        light *= decision < self.lit
        warm = linear(self.warm)
        block[GLOW] += light * warm
        if self.shop is not None:
            panes = np.abs(room * 0.5 - np.floor(room * 0.5) - 0.5) < 0.42
            front = fade * (panes & (up > 0.5) & (up < 2.5))
            board = fade * ((up > 2.6) & (up < 3.2))
            hue = linear(self.shop)
            block[ALBEDO] += front * (0.06 - block[ALBEDO])
            block[ALBEDO] += board * (hue - block[ALBEDO])
            if self.key % 3:  # the others are closed
                block[GLOW] += front * (warm * 0.4) + board * (hue * 0.8)


@dataclass(frozen=True)
class Fence:
    """A short piece of railings (thin bars, rails) or boards along the street."""

    near: float
    far: float
    lateral: float
    tall: float
    color: Color
    boards: bool
    sunny: float

    @property
    def z(self) -> float:
        return (self.near + self.far) / 2

    def draw(self, canvas: Canvas, street: Street) -> None:
        visible = strip(canvas, street, self.lateral, max(self.near, 2.0), self.far)
        if visible is None:
            return
        cols, z, scale = visible
        horizon = canvas.height * canvas.camera.horizon
        bottom = horizon + scale * canvas.camera.height
        top = bottom - scale * self.tall
        where = canvas.rows(top, bottom), cols
        ys = canvas.ys[where[0]]
        cover = clamp(np.minimum(ys - top, bottom - ys) + 0.5)
        up = (bottom - ys) / scale * (1 / self.tall)
        pitch = 0.25 if self.boards else 0.5
        gap = np.abs(z % pitch * (1 / pitch) - 0.5)
        if self.boards:
            opacity = cover
        else:
            rails = (np.abs(up - 0.92) < 0.08) | (np.abs(up - 0.15) < 0.06) | (np.abs(up - 0.55) < 0.06)
            opacity = cover * np.where(rails | (gap < 0.2), np.float32(0.95), np.float32(0.4))
        coats = np.repeat(paint(self.color, 1.0, self.sunny)[:, None, None], len(z), 2)
        coats[NEARNESS] = 1 / z
        coats[ALBEDO] *= 1 - 0.4 * (gap >= 0.42).astype(np.float32)
        block = canvas.planes[:, where[0], where[1]]
        block += opacity * (coats - block)
        canvas.label[where][cover > 0.5] = FENCE  # as annotators do, the gaps between the bars belong to it


@dataclass(frozen=True)
class Backdrop:
    """A far block of houses or a wood that closes the view. ``profile`` holds (left, right, height) in metres."""

    z: float
    profile: tuple[tuple[float, float, float], ...]
    colors: tuple[Color, ...]
    label: int
    lit: float

    def draw(self, canvas: Canvas, street: Street) -> None:
        for number, ((left, right, tall), color) in enumerate(zip(self.profile, self.colors)):
            x0, y0 = canvas.project(left, tall, self.z)
            x1, y1 = canvas.project(right, 0.0, self.z)
            if self.label != BUILDING:
                # Crowns: the top of a wood is a row of bumps.
                middle, half = (x0 + x1) / 2, (x1 - x0) / 2
                where = canvas.window(middle - half * 1.4, middle + half * 1.4, y0, y1)
                if where is not None:
                    crown = canvas.disc(where, middle, y1, half * 1.4, y1 - y0)
                    canvas.lay(where, crown, paint(color, self.z, 0.8), self.label)
                continue
            canvas.rectangle(x0, x1, y0, y1, paint(color, self.z, 0.6), self.label)
            where = canvas.window(x0, x1, y0, y1)
            if where is None:
                continue
            scale = 1 / canvas.scale(self.z)
            along, up = (canvas.xs[where[1]] - x0) * scale, (y1 - canvas.ys[where[0]]) * scale
            pane = (np.abs(along % 3 - 1.5) < 0.8) & (np.abs(up % 3.2 - 1.6) < 0.9)
            decision = lookup(white_bank(), np.floor(up * 0.31) + number * 7, np.floor(along * 0.33))
            block = canvas.planes[:, where[0], where[1]]
            block[ALBEDO] *= 1 - 0.3 * pane.astype(np.float32)
            block[GLOW] += (pane & (decision < self.lit)) * linear((0.36, 0.31, 0.23))
