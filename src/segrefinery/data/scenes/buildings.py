"""Houses, fences and the skyline."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from .canvas import ALBEDO, GLOW, NEARNESS, SHADE, Canvas, Color, paint
from .classes import BUILDING, FENCE
from .street import Street
from .textures import lookup, noise_bank, white_bank


def strip(canvas: Canvas, street: Street, lateral: float, near: float, far: float):
    """Columns where a wall along the street stands, their depths and pixels a metre; None if it is out of sight."""
    depth = street.column_depths(canvas, lateral)
    columns = np.flatnonzero((depth > 0) & (depth >= near) & (depth < far))
    if len(columns) == 0:
        return None
    cols = slice(int(columns[0]), int(columns[-1]) + 1)
    z = np.maximum(depth[cols], 0.3)
    return cols, z, (canvas.height * canvas.camera.focal) / z


@dataclass(frozen=True)
class House:
    """A house on the side of the street from ``near`` to ``far``, with a front facing us where its neighbour is lower."""

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
        return self.near

    def draw(self, canvas: Canvas, street: Street) -> None:
        if self.near > 1:  # else its end is behind us
            self._draw_end(canvas, street)
        self._draw_facade(canvas, street)

    def _draw_end(self, canvas: Canvas, street: Street) -> None:
        z = self.near
        inner = street.x(self.lateral, z)
        x0, y0 = canvas.project(inner, self.tall, z)
        x1, y1 = canvas.project(inner + self.side * 14.0, 0.0, z)
        left, right = min(x0, x1), max(x0, x1)
        shade = 0.75 if self.sunny else 0.3
        canvas.rectangle(left, right, y0, y1, paint(self.color, z, shade), BUILDING)
        if right < 0 or left > canvas.width or (y1 - y0) < 10:
            return
        canvas.rectangle(left, right, y0, y0 + (y1 - y0) * self.roof, paint(self.trim, z, shade), BUILDING)
        where = canvas.window(left, right, y0, y1)
        if where is not None:
            along = (canvas.xs[where[1]] - x0) * (1 / canvas.scale(z))
            up = (y1 - canvas.ys[where[0]]) * (1 / canvas.scale(z))
            self._windows(canvas, where, np.abs(along) - 1.0, up, canvas.scale(z), 1.5)

    def _draw_facade(self, canvas: Canvas, street: Street) -> None:
        found = strip(canvas, street, self.lateral, self.near, self.far)
        if found is None:
            return
        cols, z, scale = found
        horizon = canvas.height * canvas.camera.horizon
        top = horizon - scale * (self.tall - canvas.camera.height)
        bottom = horizon + scale * canvas.camera.height
        first = min(canvas.height - 1, max(0, int(max(-1.0, float(top.min())) - 1)))
        last = min(canvas.height, max(0, int(min(1e6, float(bottom.max()))) + 2))
        where = slice(first, last), cols
        ys = canvas.ys[where[0]]
        alpha = np.clip(np.minimum(ys - top, bottom - ys) + 0.5, 0, 1)
        shade = 1.0 if self.sunny else 0.3
        canvas.lay(where, alpha, paint(self.color, 1.0, shade), BUILDING)
        block = canvas.planes[:, where[0], where[1]]
        block[NEARNESS] += alpha * (1 / z - 1)  # paint() had a depth of 1 m
        up = (bottom - ys) / scale
        cornice = np.clip((up - (self.tall * (1 - self.roof))) * scale + 0.5, 0, 1) * alpha
        for channel in range(3):
            block[channel] += cornice * ((self.trim[channel] * self.trim[channel]) - block[channel])
        self._windows(canvas, where, z - self.near, up, scale, 1.0, alpha)

    def _windows(self, canvas, where, along, up, scale, sparse: float, alpha=None) -> None:
        """Windows in metres along and up the wall; they fade to their mean where they are smaller than pixels."""
        bay, storey = (self.bay * sparse), self.storey
        wide, high = self.duty
        base = 3.4 if self.shop is not None else 0.6
        floor = (up - base) * (1 / storey)
        room = along * (1 / bay)
        row, col = np.floor(floor), np.floor(room)
        # Walls seen at a slant are foreshortened, so a pixel spans more of them sideways.
        slant = np.minimum(scale * bay * (0.35 if alpha is not None else 1.0), 8)
        glass_x = np.clip((0.5 * wide - np.abs(room - col - 0.5)) * slant + 0.5, 0, 1)
        glass_y = np.clip((0.5 * high - np.abs(floor - row - 0.5)) * np.minimum(scale * storey, 12) + 0.5, 0, 1)
        fade = np.clip(scale * 0.5, 0, 1)
        glass = glass_x * glass_y * fade * (floor > 0) * (up < (self.tall * (1 - self.roof)))
        if alpha is not None:
            glass = glass * alpha
        decision = lookup(white_bank(), row + self.key, col * 3 + self.key)
        block = canvas.planes[:, where[0], where[1]]
        pane = 0.02 + 0.1 * decision
        for channel, tint in enumerate((0.8, 0.95, 1.1)):
            block[channel] += glass * (pane * tint - block[channel])
        lit = glass * (decision < self.lit) * (0.35 + 1.3 * decision)
        for channel in range(3):
            block[GLOW][channel] += lit * (self.warm[channel] * self.warm[channel])
        wall = 1 + 0.3 * (lookup(noise_bank(), up * 6 + self.key, along * 5 + self.key) - 0.5) * (1 - glass)
        block[ALBEDO] *= wall
        if self.shop is not None:
            inside = (np.abs(room * 0.5 - np.floor(room * 0.5) - 0.5) < 0.42) & (up > 0.5) & (up < 2.5)
            front = inside * fade if alpha is None else inside * fade * alpha
            sign = ((up > 2.6) & (up < 3.2)) * fade if alpha is None else ((up > 2.6) & (up < 3.2)) * fade * alpha
            open_shop = 0.9 if self.key % 3 else 0.05
            for channel in range(3):
                hue = self.shop[channel] * self.shop[channel]
                block[channel] += front * (0.06 - block[channel])
                block[channel] += sign * (hue - block[channel])
                warm = self.warm[channel] * self.warm[channel]
                block[GLOW][channel] += (front * warm * 0.8 + sign * hue * 1.2) * open_shop


@dataclass(frozen=True)
class Fence:
    """Railings (thin bars, rails) or boards along the street."""

    near: float
    far: float
    lateral: float
    tall: float
    color: Color
    boards: bool
    sunny: float

    @property
    def z(self) -> float:
        return self.near

    def draw(self, canvas: Canvas, street: Street) -> None:
        found = strip(canvas, street, self.lateral, max(self.near, 2.0), self.far)
        if found is None:
            return
        cols, z, scale = found
        horizon = canvas.height * canvas.camera.horizon
        bottom = horizon + scale * canvas.camera.height
        top = bottom - scale * self.tall
        first = min(canvas.height - 1, max(0, int(float(top.min()) - 1)))
        last = min(canvas.height, max(0, int(min(1e6, float(bottom.max()))) + 2))
        where = slice(first, last), cols
        ys = canvas.ys[where[0]]
        cover = np.clip(np.minimum(ys - top, bottom - ys) + 0.5, 0, 1)
        up = (bottom - ys) / scale * (1 / self.tall)
        pitch = 0.25 if self.boards else 0.5
        gap = np.abs(z % pitch * (1 / pitch) - 0.5)
        if self.boards:
            opacity = cover * (0.8 + 0.2 * (gap < 0.42))
        else:
            rails = (np.abs(up - 0.92) < 0.08) | (np.abs(up - 0.15) < 0.06) | (np.abs(up - 0.55) < 0.06)
            opacity = cover * np.maximum(rails * 1.0, np.where(gap < 0.2, 0.95, 0.4))
        coat = paint(self.color, 1.0, self.sunny)
        block = canvas.planes[:, where[0], where[1]]
        coats = coat[:, None, None] * np.ones((1, 1, len(z)), np.float32)
        coats[NEARNESS] = 1 / z
        coats[ALBEDO] *= np.where(gap < 0.42, 1.0, 0.6).astype(np.float32)
        block += opacity.astype(np.float32) * (coats - block)
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
            block[ALBEDO] *= 1 - 0.3 * pane
            lit = pane * (decision < self.lit) * 0.5
            block[GLOW] += lit * np.array([1.0, 0.75, 0.4], np.float32)[:, None, None]
            block[SHADE] *= 0.9
