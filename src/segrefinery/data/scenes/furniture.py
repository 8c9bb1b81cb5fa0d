"""What stands along a street: lamps, traffic lights, signs, trees and hedges."""

from __future__ import annotations

from dataclasses import dataclass

from .canvas import ALBEDO, BLACK, SHADE, Canvas, Color, paint
from .classes import LIGHT, POLE, SIGN, VEGETATION
from .street import Street
from .textures import clamp, lookup, noise_bank

STEEL: Color = (0.42, 0.43, 0.45)
DARK: Color = (0.09, 0.1, 0.1)


def draw_pole(canvas: Canvas, x: float, z: float, tall: float, thick: float, color: Color, sunny: float) -> None:
    px, bottom = canvas.project(x, 0, z)
    _, top = canvas.project(x, tall, z)
    half = max(canvas.scale(z) * thick, 1.0) / 2
    canvas.shadow(px, bottom, half * 4, max(1.0, half), 0.4)
    canvas.rectangle(px - half, px + half, top, bottom, paint(color, z, sunny), POLE)
    if half > 1.2:  # the bright side of a round pole
        bright = tuple(min(1.0, c * 1.3) for c in color)
        canvas.rectangle(px - half * 0.6, px, top, bottom, paint(bright, z, sunny), None)  # type: ignore[arg-type]


@dataclass(frozen=True)
class Lamp:
    """A street lamp whose arm of length ``arm`` points over the road; ``light`` is its colour at night."""

    z: float
    lateral: float
    tall: float
    arm: float
    color: Color
    light: Color
    sunny: float

    def head(self, street: Street) -> tuple[float, float, float]:
        """Where its light comes from, in the camera's metres."""
        return street.x(self.lateral + self.arm, self.z), self.tall + 0.1, self.z

    def draw(self, canvas: Canvas, street: Street) -> None:
        scale, x = canvas.scale(self.z), street.x(self.lateral, self.z)
        draw_pole(canvas, x, self.z, self.tall, 0.16, self.color, self.sunny)
        hx, hy, _ = self.head(street)
        tip = canvas.project(hx, hy, self.z)
        canvas.line(
            canvas.project(x, self.tall - 0.05, self.z), tip, scale * 0.1, paint(self.color, self.z, self.sunny), POLE
        )
        glow = tuple(c * 7.0 for c in self.light)
        head = paint((0.7, 0.7, 0.66), self.z, self.sunny, glow)  # type: ignore[arg-type]
        canvas.ellipse(tip[0], tip[1], max(scale * 0.32, 0.9), max(scale * 0.12, 0.7), head, POLE)


@dataclass(frozen=True)
class TrafficLight:
    z: float
    lateral: float
    tall: float
    state: int  # 0 red, 1 amber, 2 green
    arm: float  # m; over the road when not 0
    sunny: float

    def draw(self, canvas: Canvas, street: Street) -> None:
        scale, x = canvas.scale(self.z), street.x(self.lateral, self.z)
        draw_pole(canvas, x, self.z, self.tall, 0.14, STEEL, self.sunny)
        if self.arm:
            a, b = canvas.project(x, self.tall, self.z), canvas.project(x + self.arm, self.tall, self.z)
            canvas.line(a, b, scale * 0.12, paint(STEEL, self.z, self.sunny), POLE)
        for offset in {0.0, self.arm}:
            px, py = canvas.project(x + offset, self.tall - 0.45, self.z)
            half_w, half_h = max(scale * 0.21, 1.0), max(scale * 0.58, 2.2)
            canvas.rectangle(px - half_w, px + half_w, py - half_h, py + half_h, paint(DARK, self.z, self.sunny), LIGHT)
            for number, (color, light) in enumerate(LAMPS):
                on = number == self.state
                dim = tuple(c * 0.25 for c in color)
                coat = paint(color if on else dim, self.z, 1.0, light if on else BLACK)  # type: ignore[arg-type]
                r = half_h * 0.27
                canvas.ellipse(px, py + (number - 1) * half_h * 0.62, min(r, half_w * 0.85), r, coat, LIGHT)


LAMPS: tuple[tuple[Color, Color], ...] = (
    ((1.0, 0.12, 0.08), (3.2, 0.15, 0.1)),
    ((1.0, 0.7, 0.1), (3.0, 1.5, 0.1)),
    ((0.1, 0.95, 0.5), (0.2, 2.8, 1.3)),
)

RED: Color = (0.85, 0.08, 0.1)
BLUE: Color = (0.08, 0.25, 0.75)
WHITE: Color = (0.95, 0.95, 0.93)
YELLOW: Color = (0.98, 0.8, 0.1)
GREEN: Color = (0.02, 0.45, 0.28)


@dataclass(frozen=True)
class Sign:
    """A sign on a pole. kind: ban, order, give way, main road, parking, or direction board."""

    z: float
    lateral: float
    tall: float
    kind: str
    size: float
    sunny: float

    def draw(self, canvas: Canvas, street: Street) -> None:
        x = street.x(self.lateral, self.z)
        draw_pole(canvas, x, self.z, self.tall, 0.09, STEEL, self.sunny)
        px, py = canvas.project(x, self.tall - self.size / 2, self.z)
        r = max(canvas.scale(self.z) * self.size / 2, 1.3)

        def coat(color: Color):
            return paint(color, self.z, 0.35 + 0.65 * self.sunny)

        if self.kind == "ban":
            canvas.ellipse(px, py, r, r, coat(RED), SIGN)
            canvas.ellipse(px, py, r * 0.68, r * 0.68, coat(WHITE), SIGN)
            canvas.rectangle(px - r * 0.35, px + r * 0.35, py - r * 0.14, py + r * 0.14, coat(DARK), SIGN)
        elif self.kind == "order":
            canvas.ellipse(px, py, r, r, coat(BLUE), SIGN)
            canvas.rectangle(px - r * 0.13, px + r * 0.13, py - r * 0.5, py + r * 0.5, coat(WHITE), SIGN)
        elif self.kind == "give way":
            canvas.polygon([(px - r, py - r * 0.85), (px + r, py - r * 0.85), (px, py + r)], coat(RED), SIGN)
            inner = [(px - r * 0.6, py - r * 0.6), (px + r * 0.6, py - r * 0.6), (px, py + r * 0.5)]
            canvas.polygon(inner, coat(WHITE), SIGN)
        elif self.kind == "main road":
            canvas.polygon([(px - r, py), (px, py - r), (px + r, py), (px, py + r)], coat(WHITE), SIGN)
            inner = r * 0.72
            canvas.polygon([(px - inner, py), (px, py - inner), (px + inner, py), (px, py + inner)], coat(YELLOW), SIGN)
        elif self.kind == "parking":
            canvas.rectangle(px - r, px + r, py - r, py + r, coat(BLUE), SIGN)
            canvas.rectangle(px - r * 0.35, px - r * 0.1, py - r * 0.6, py + r * 0.6, coat(WHITE), SIGN)
            canvas.ellipse(px + r * 0.12, py - r * 0.25, r * 0.35, r * 0.35, coat(WHITE), SIGN)
        else:
            canvas.rectangle(px - r * 1.9, px + r * 1.9, py - r, py + r, coat(GREEN), SIGN)
            for row in (-0.4, 0.35):
                canvas.rectangle(
                    px - r * 1.4, px + r, py + r * row - r * 0.12, py + r * row + r * 0.12, coat(WHITE), SIGN
                )


@dataclass(frozen=True)
class Tree:
    """A trunk and a ragged crown; ``blobs`` are (x, y, rx, ry) in metres from the foot. Bushes have no trunk."""

    z: float
    lateral: float
    trunk: float
    thick: float
    blobs: tuple[tuple[float, float, float, float], ...]
    color: Color
    key: int
    sunny: float

    def draw(self, canvas: Canvas, street: Street) -> None:
        scale, x = canvas.scale(self.z), street.x(self.lateral, self.z)
        px, ground = canvas.project(x, 0, self.z)
        if self.trunk:
            half = max(scale * self.thick, 1.0) / 2
            bark = paint((0.3, 0.24, 0.19), self.z, self.sunny * 0.8)
            canvas.shadow(px, ground, half * 5, max(1.0, half * 1.2), 0.5)
            top = ground - scale * self.trunk
            foot = [
                (px - half * 1.3, ground),
                (px + half * 1.3, ground),
                (px + half * 0.8, top),
                (px - half * 0.8, top),
            ]
            canvas.polygon(foot, bark, VEGETATION)
        else:
            reach = max(rx for _, _, rx, _ in self.blobs)
            canvas.shadow(px, ground, scale * reach, max(1.0, scale * 0.15), 0.5)
        leaves = paint(self.color, self.z, self.sunny)
        for dx, dy, rx, ry in self.blobs if self.z < 60 else self.blobs[:1]:
            self._crown(canvas, px + scale * dx, ground - scale * dy, scale * rx, scale * ry, scale, leaves)

    def _crown(self, canvas: Canvas, x: float, y: float, rx: float, ry: float, scale: float, leaves) -> None:
        where = canvas.window(x - rx, x + rx, y - ry, y + ry)
        if where is None or rx < 0.5 or ry < 0.5:
            return
        dx, dy = (canvas.xs[where[1]] - x) * (1 / rx), (canvas.ys[where[0]] - y) * (1 / ry)
        frequency = 14.0 / scale  # texels of the bank a pixel: 14 a metre
        v, u = (canvas.ys[where[0]] - y) * frequency + self.key, (canvas.xs[where[1]] - x) * frequency + self.key * 3
        leaf = lookup(noise_bank(), v, u) - 0.5
        radius = dx * dx + dy * dy
        alpha = clamp((0.92 - radius + 0.9 * leaf) * (0.5 * min(rx, ry)) + 0.5)
        canvas.lay(where, alpha, leaves, VEGETATION)
        block = canvas.planes[:, where[0], where[1]]
        # Bright above, dark below and inside.
        light = clamp(1 + 1.3 * leaf - 0.5 * dy, 0.25, 2)
        block[ALBEDO] *= 1 + alpha * (light - 1)
        block[SHADE] *= 1 - alpha * clamp(0.45 * dy + 0.1, 0, 0.6)
