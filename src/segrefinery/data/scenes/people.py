"""People on foot, riders and bicycles."""

from __future__ import annotations

from dataclasses import dataclass

from .canvas import BLACK, Canvas, Color, paint
from .classes import BICYCLE, PERSON, RIDER
from .street import Street


@dataclass(frozen=True)
class Person:
    z: float
    lateral: float
    tall: float
    top: Color
    legs: Color
    skin: Color
    hair: Color
    step: float  # m between the feet
    bag: Color | None
    sunny: float

    def draw(self, canvas: Canvas, street: Street) -> None:
        x, y = canvas.project(street.x(self.lateral, self.z), 0, self.z)
        h = canvas.scale(self.z) * self.tall
        coat = paint(self.top, self.z, self.sunny * 0.85)
        trousers = paint(self.legs, self.z, self.sunny * 0.85)
        canvas.shadow(x, y, h * 0.22, max(1.0, h * 0.05))
        stride = canvas.scale(self.z) * self.step / 2
        for foot in (-1, 1):
            hip = (x + foot * h * 0.045, y - h * 0.5)
            canvas.line(hip, (x + foot * max(stride, h * 0.05), y), h * 0.085, trousers, PERSON)
        if self.bag is not None and h > 9:
            side = x + h * 0.17
            canvas.rectangle(
                side - h * 0.05, side + h * 0.05, y - h * 0.55, y - h * 0.4, paint(self.bag, self.z), PERSON
            )
        hips, shoulders = h * 0.085, h * 0.12
        trunk = [
            (x - hips, y - h * 0.45),
            (x + hips, y - h * 0.45),
            (x + shoulders, y - h * 0.8),
            (x - shoulders, y - h * 0.8),
        ]
        canvas.polygon(trunk, coat, PERSON)
        if h > 12:
            for arm in (-1, 1):
                hand = (x + arm * (shoulders + h * 0.02) + stride * 0.3, y - h * 0.45)
                canvas.line((x + arm * shoulders, y - h * 0.78), hand, h * 0.055, coat, PERSON)
        canvas.ellipse(x, y - h * 0.915, h * 0.062, h * 0.085, paint(self.skin, self.z, self.sunny), PERSON)
        if h > 8:
            canvas.ellipse(x, y - h * 0.95, h * 0.064, h * 0.05, paint(self.hair, self.z, self.sunny), PERSON)


@dataclass(frozen=True)
class Bicycle:
    """A bicycle along the street (``across`` 0) or turned, up to a full side view (``across`` 1 or -1)."""

    z: float
    lateral: float
    across: float
    color: Color
    sunny: float
    lights: bool = False

    def draw(self, canvas: Canvas, street: Street) -> None:
        scale = canvas.scale(self.z)
        x, y = canvas.project(street.x(self.lateral, self.z), 0, self.z)
        tyre = paint((0.12, 0.12, 0.13), self.z, self.sunny * 0.7)
        frame = paint(self.color, self.z, self.sunny)
        radius = scale * 0.36
        canvas.shadow(x, y, scale * 0.9 * abs(self.across) + scale * 0.2, max(1.0, scale * 0.1))
        reach = scale * 0.55 * self.across
        width = max(radius * abs(self.across), scale * 0.05, 0.7)
        for hub in (x - reach, x + reach):
            canvas.ellipse(hub, y - radius, width, radius, tyre, BICYCLE)
            if width > 2.5:
                # What is behind the spokes shines through a little; the mask keeps the whole wheel.
                spokes = paint((0.38, 0.38, 0.38), self.z, self.sunny * 0.7)
                canvas.ellipse(hub, y - radius, width * 0.72, radius * 0.75, spokes, BICYCLE)
        saddle, bars, crank = (x - reach * 0.4, y - scale * 0.9), (x + reach * 0.75, y - scale), (x, y - scale * 0.35)
        for a, b in ((saddle, crank), (crank, bars), (saddle, bars), ((x - reach, y - radius), crank)):
            canvas.line(a, b, scale * 0.06, frame, BICYCLE)
        canvas.line(bars, (x + reach, y - radius), scale * 0.06, frame, BICYCLE)
        half = scale * 0.26 * (1 - 0.6 * abs(self.across))
        canvas.line((bars[0] - half, bars[1]), (bars[0] + half, bars[1]), scale * 0.05, tyre, BICYCLE)
        if self.lights:
            canvas.ellipse(
                x - reach,
                y - scale * 0.7,
                scale * 0.05,
                scale * 0.05,
                paint(BLACK, self.z, 0, (2.5, 0.1, 0.05)),
                BICYCLE,
            )


@dataclass(frozen=True)
class Rider:
    """A person on a moving bicycle."""

    bike: Bicycle
    top: Color
    legs: Color
    skin: Color
    helmet: Color

    @property
    def z(self) -> float:
        return self.bike.z

    def draw(self, canvas: Canvas, street: Street) -> None:
        self.bike.draw(canvas, street)
        z, across, sunny = self.z, self.bike.across, self.bike.sunny
        scale = canvas.scale(z)
        x, y = canvas.project(street.x(self.bike.lateral, z), 0, z)
        coat, trousers = paint(self.top, z, sunny * 0.9), paint(self.legs, z, sunny * 0.9)
        hip = (x - scale * 0.22 * across, y - scale * 0.95)
        neck = (x + scale * 0.12 * across, y - scale * 1.5)
        spread = scale * 0.12
        for leg, knee_up in ((-1, 0.72), (1, 0.6)):
            knee = (x + scale * 0.16 * across + leg * spread, y - scale * knee_up)
            canvas.line((hip[0] + leg * spread * 0.8, hip[1]), knee, scale * 0.16, trousers, RIDER)
            canvas.line(knee, (x + leg * spread * 0.9, y - scale * 0.3), scale * 0.13, trousers, RIDER)
        canvas.line(hip, neck, scale * (0.42 - 0.1 * abs(across)), coat, RIDER)
        grip = (x + scale * 0.42 * across, y - scale * 1.02)
        for arm in (-1, 1):
            shoulder = (neck[0] + arm * spread * 1.4 * (1 - abs(across)), neck[1] + scale * 0.08)
            canvas.line(shoulder, (grip[0] + arm * spread * 1.6 * (1 - abs(across)), grip[1]), scale * 0.1, coat, RIDER)
        head = (neck[0] + scale * 0.06 * across, neck[1] - scale * 0.17)
        canvas.ellipse(head[0], head[1], scale * 0.12, scale * 0.15, paint(self.skin, z, sunny), RIDER)
        canvas.ellipse(head[0], head[1] - scale * 0.06, scale * 0.13, scale * 0.1, paint(self.helmet, z, sunny), RIDER)
