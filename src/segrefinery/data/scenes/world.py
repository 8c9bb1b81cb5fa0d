"""A world: camera, street, sky and everything that stands there. It has no pixels before it is drawn."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from .canvas import Camera, Canvas
from .classes import SKY
from .furniture import Lamp
from .street import Street


class Prop(Protocol):
    """Anything that stands in the world at depth ``z``."""

    @property
    def z(self) -> float: ...

    def draw(self, canvas: Canvas, street: Street) -> None: ...


@dataclass(frozen=True)
class Sky:
    """State of the sky: clouds 0 (clear) to 1 (overcast), position of the texture, warmth -1 (cold) to 1 (low sun)."""

    clouds: float
    texture: tuple[float, float]
    warmth: float
    glow: float  # horizontal position of the brightest part, in image heights from the middle


@dataclass(frozen=True)
class World:
    camera: Camera
    street: Street
    sky: Sky
    props: tuple[Prop, ...]

    @property
    def lamps(self) -> list[Lamp]:
        return [prop for prop in self.props if isinstance(prop, Lamp)]

    def draw(self, height: int, width: int) -> Canvas:
        """Paints the world, far to near."""
        canvas = Canvas(self.camera, height, width, SKY)
        self.street.draw(canvas)
        for prop in self.props:
            prop.draw(canvas, self.street)
        return canvas
