"""Cars and buses, seen from behind or in front, with the flank that perspective shows."""

from __future__ import annotations

from dataclasses import dataclass

from .canvas import BLACK, Canvas, Color, paint
from .classes import BUS, CAR
from .street import Street

GLASS: Color = (0.22, 0.27, 0.32)
TYRE: Color = (0.1, 0.1, 0.1)
FLOOR = 0.28
"""Metres between the ground and a car's body."""
WHITE_LAMP: Color = (0.95, 0.95, 0.9)
RED_LAMP: Color = (0.75, 0.08, 0.06)
HEADLIGHT: Color = (7.0, 6.4, 5.2)
TAIL_LIGHT: Color = (2.6, 0.12, 0.08)


@dataclass(frozen=True)
class _Vehicle:
    z: float
    lateral: float
    color: Color
    oncoming: bool
    lights: bool
    wide: float
    tall: float
    long: float
    sunny: float

    def _lamp(self) -> tuple[Color, Color]:
        """Colour of the lamps we see, and the light they send out."""
        if self.oncoming:
            return WHITE_LAMP, HEADLIGHT if self.lights else BLACK
        return RED_LAMP, TAIL_LIGHT if self.lights else BLACK

    def _corners(self, street: Street) -> tuple[float, float, float, float, float]:
        """x of the near face's edges, z of the far end, x of the visible flank near and far."""
        far = self.z + self.long
        near_x, far_x = street.x(self.lateral, self.z), street.x(self.lateral, far)
        left, right = near_x - self.wide / 2, near_x + self.wide / 2
        inner = 1 if near_x < 0 else -1
        return left, right, far, near_x + inner * self.wide / 2, far_x + inner * self.wide / 2

    def _ground(self, canvas: Canvas, street: Street) -> None:
        middle = self.z + self.long / 2
        x, y = canvas.project(street.x(self.lateral, middle), 0, middle)
        _, near = canvas.project(0, 0, max(self.z - 0.3, 1.0))
        canvas.shadow(x, (y + near) / 2, canvas.scale(self.z) * self.wide * 0.62, max(1.0, (near - y) * 1.1))


@dataclass(frozen=True)
class Car(_Vehicle):
    cabin: float  # share of the width that the roof has
    waist: float  # m; lower edge of the windows

    def draw(self, canvas: Canvas, street: Street) -> None:
        z, far = self.z, self.z + self.long
        left, right, far, flank, flank_far = self._corners(street)
        self._ground(canvas, street)
        project, roof, waist = canvas.project, self.tall, self.waist
        flank_coat = paint(tuple(c * 0.85 for c in self.color), z, self.sunny * 0.6)  # type: ignore[arg-type]
        inset = (1 - self.cabin) * self.wide / 2 * (1 if flank > (left + right) / 2 else -1)
        front_lean, back_lean = (1.15, 0.55) if self.oncoming else (0.35, 1.35)

        def quad(y0: float, y1: float, z0: float, z1: float, top0: float, top1: float, lean: float):
            """A panel of the flank: bottom from z0 to z1, top from top0 to top1, leaning inwards."""

            def at(depth: float, y: float, lean: float):
                share = (depth - z) / self.long
                return project(flank + (flank_far - flank) * share - lean, y, depth)

            return [at(z0, y0, 0), at(z1, y0, 0), at(top1, y1, lean), at(top0, y1, lean)]

        canvas.polygon(quad(FLOOR, waist, z, far, z, far, 0), flank_coat, CAR)
        canvas.polygon(quad(waist, roof, z, far - 0.6, z + front_lean, far - back_lean, inset), flank_coat, CAR)
        if z < 40:
            window = quad(
                waist + 0.04, roof - 0.1, z + 0.3, far - 0.9, z + front_lean + 0.1, far - back_lean - 0.1, inset
            )
            canvas.polygon(window, paint(GLASS, z, 0.6), CAR)
            for share in (0.18, 0.8):
                depth = z + self.long * share
                x, y = project(flank + (flank_far - flank) * share, 0.32, depth)
                x2, _ = project(flank + (flank_far - flank) * (share + 0.14), 0.32, depth + self.long * 0.14)
                radius = canvas.scale(depth) * 0.33
                canvas.ellipse(x, y, max(abs(x2 - x) * 0.55, radius * 0.2), radius, paint(TYRE, depth, 0.4), CAR)
        self._draw_face(canvas, left, right, z + front_lean)

    def _draw_face(self, canvas: Canvas, left: float, right: float, depth: float) -> None:
        """The near face: cabin (whose roof begins at ``depth``), body, glass, lamps."""
        z, cx = self.z, (left + right) / 2
        project, scale = canvas.project, canvas.scale(z)
        roof, waist = self.tall, self.waist
        body = paint(self.color, z, self.sunny * 0.9)
        half_roof, half = self.wide * self.cabin / 2, self.wide / 2

        def panel(y0: float, y1: float, w0: float, w1: float):
            return [
                project(cx - w0, y0, z),
                project(cx + w0, y0, z),
                project(cx + w1, y1, depth),
                project(cx - w1, y1, depth),
            ]

        canvas.polygon(panel(waist, roof, half, half_roof), body, CAR)
        x0, y0 = project(left, waist, z)
        x1, y1 = project(right, FLOOR, z)
        canvas.rectangle(x0, x1, y0, y1, body, CAR)
        if scale > 4:
            canvas.polygon(panel(waist + 0.05, roof - 0.1, half * 0.84, half_roof * 0.9), paint(GLASS, z, 0.6), CAR)
        tyre = paint(TYRE, z, 0.3)
        _, ground = project(0, 0, z)
        for x in (left + 0.14, right - 0.14):
            px = project(x, 0, z)[0]
            canvas.rectangle(px - scale * 0.11, px + scale * 0.11, y1 - 0.5, ground, tyre, CAR)
        color, light = self._lamp()
        lamp = paint(color, z, self.sunny, light)
        for x in (left + 0.22, right - 0.22):
            px, py = project(x, waist - 0.2, z)
            canvas.rectangle(
                px - scale * 0.16, px + scale * 0.16, py - scale * 0.07, py + max(scale * 0.07, 0.6), lamp, CAR
            )
        if z < 25:
            dark = paint((0.16, 0.16, 0.17), z, 0.5)
            canvas.rectangle(x0, x1, y1 - scale * 0.16, y1, dark, CAR)
            px, py = project(cx, 0.55, z)
            plate = paint((0.85, 0.85, 0.75), z, self.sunny)
            canvas.rectangle(px - scale * 0.25, px + scale * 0.25, py - scale * 0.06, py + scale * 0.06, plate, CAR)


@dataclass(frozen=True)
class Bus(_Vehicle):
    band: Color

    def draw(self, canvas: Canvas, street: Street) -> None:
        z = self.z
        left, right, _, flank, flank_far = self._corners(street)
        self._ground(canvas, street)
        project, scale = canvas.project, canvas.scale(z)
        side = paint(tuple(c * 0.85 for c in self.color), z, self.sunny * 0.6)  # type: ignore[arg-type]
        inside = (0.22, 0.21, 0.16) if self.lights else BLACK
        glass = paint(GLASS, z, 0.5, inside)

        def quad(y0: float, y1: float, a: float, b: float):
            xa, xb = flank + (flank_far - flank) * a, flank + (flank_far - flank) * b
            za, zb = z + self.long * a, z + self.long * b
            return [project(xa, y0, za), project(xb, y0, zb), project(xb, y1, zb), project(xa, y1, za)]

        canvas.polygon(quad(0.3, self.tall, 0, 1), side, BUS)
        canvas.polygon(quad(0.9, 1.25, 0, 1), paint(self.band, z, self.sunny * 0.6), BUS)
        for number in range(5):
            canvas.polygon(quad(1.5, self.tall - 0.5, number / 5 + 0.02, (number + 1) / 5 - 0.015), glass, BUS)
        for share in (0.2, 0.8):
            depth = z + self.long * share
            x, y = project(flank + (flank_far - flank) * share, 0.45, depth)
            x2, _ = project(flank + (flank_far - flank) * (share + 0.05), 0.45, depth + self.long * 0.05)
            radius = canvas.scale(depth) * 0.46
            canvas.ellipse(x, y, max(abs(x2 - x), radius * 0.2), radius, paint(TYRE, depth, 0.4), BUS)
        x0, y0 = project(left, self.tall, z)
        x1, y1 = project(right, 0.3, z)
        canvas.rectangle(x0, x1, y0, y1, paint(self.color, z, self.sunny * 0.9), BUS)
        canvas.rectangle(x0, x1, y1 - scale * 0.95, y1 - scale * 0.6, paint(self.band, z, self.sunny * 0.9), BUS)
        low = 1.2 if self.oncoming else 1.7
        top = y1 - scale * (self.tall - 0.3 - 0.55)
        canvas.rectangle(x0 + scale * 0.15, x1 - scale * 0.15, top, y1 - scale * (low - 0.3), glass, BUS)
        board = paint((0.1, 0.1, 0.1), z, 0.5, (1.2, 0.6, 0.1) if self.lights else (0.2, 0.1, 0.0))
        canvas.rectangle(x0 + scale * 0.5, x1 - scale * 0.5, y0 + scale * 0.12, y0 + scale * 0.38, board, BUS)
        color, light = self._lamp()
        lamp = paint(color, z, self.sunny, light)
        _, ground = project(0, 0, z)
        for x in (left + 0.3, right - 0.3):
            px, py = project(x, 0.7, z)
            canvas.rectangle(
                px - scale * 0.16, px + scale * 0.16, py - scale * 0.1, py + max(scale * 0.1, 0.6), lamp, BUS
            )
            canvas.rectangle(px - scale * 0.15, px + scale * 0.15, y1 - 0.5, ground, paint(TYRE, z, 0.3), BUS)
