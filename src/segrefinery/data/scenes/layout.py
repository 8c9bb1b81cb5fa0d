"""The layout of a world, drawn from a seed: which street, and what stands where."""

from __future__ import annotations

from .buildings import Backdrop, Fence, House
from .canvas import Camera, Color
from .classes import BUILDING, VEGETATION
from .dice import Dice
from .furniture import Lamp, Sign, TrafficLight, Tree
from .palette import CARS, CLOTHES, HAIRS, LEAVES, LED, SHOPS, SKINS, SODIUM, TRIMS, TROUSERS, WALLS
from .people import Bicycle, Person, Rider
from .street import Street
from .vehicles import Bus, Car
from .world import Prop, Sky, World


def make_world(seed: int) -> World:
    return _Layout(Dice(seed)).build()


class _Layout:
    def __init__(self, dice: Dice):
        self.dice = dice
        self.props: list[Prop] = []
        between, chance = dice.between, dice.chance
        self.camera = Camera(between(1.25, 1.75), between(0.4, 0.49), between(1.25, 1.55))
        half = between(3.4, 6.6)
        crossings = []
        if chance(0.6):
            near = between(10, 30)
            sides = dice.pick([(-1,), (1,), (-1, 1)])
            crossings = [(side, near, near + between(6, 9)) for side in sides]
        greens = (chance(0.55), chance(0.55))
        setbacks = tuple(
            between(3, 10) if green else (between(0, 1) if chance(0.7) else between(1, 4)) for green in greens
        )
        sun = dice.sign()
        self.crossing_z = crossings[0][1] if crossings else None
        self.street = Street(
            center=-half * between(0.35, 0.6),
            curve=dice.sign() * between(0, 0.0035) * (1 if chance(0.6) else 0.2),
            half_width=half,
            walks=(between(1.6, 3.6), between(1.6, 3.6)),
            setbacks=setbacks,  # type: ignore[arg-type]
            greens=greens,
            crossings=tuple(crossings),
            zebra=self.crossing_z - 3 if self.crossing_z is not None and chance(0.7) else None,
            sun=sun,
            shadow=between(-0.5, 1.6) * half if chance(0.75) else 99.0,
            asphalt=dice.near(dice.pick([(0.4, 0.4, 0.41), (0.34, 0.34, 0.35), (0.45, 0.43, 0.42)]), 0.04),
            paving=dice.near(dice.pick([(0.6, 0.58, 0.55), (0.55, 0.5, 0.46), (0.64, 0.56, 0.5)]), 0.05),
            grass=dice.near(dice.pick([(0.36, 0.46, 0.2), (0.42, 0.46, 0.24), (0.46, 0.42, 0.26)]), 0.05),
            dashes=(between(6, 9), between(2.5, 4)),
            texture=(between(0, 256), between(0, 256)),
        )
        self.sky = Sky(between(0, 1), (between(0, 256), between(0, 256)), between(-1, 1), between(-0.9, 0.9))
        self.lamp_light = dice.pick([SODIUM, SODIUM, LED])

    def build(self) -> World:
        self._backdrop()
        for side in (-1, 1):
            self._houses(side)
            self._greenery(side)
            self._parked(side)
            self._walkers(side)
        self._lamps()
        self._signals()
        self._traffic()
        self._riders()
        self.props.sort(key=lambda prop: -prop.z)
        return World(self.camera, self.street, self.sky, tuple(self.props))

    def _free(self, side: int, z: float, margin: float = 1.0) -> bool:
        """Whether no side street leaves the road there."""
        return not any(s == side and near - margin < z < far + margin for s, near, far in self.street.crossings)

    def _backdrop(self) -> None:
        dice = self.dice
        z = 145.0
        middle = self.street.x(0, z)
        profile, colors, x = [], [], middle - 220
        wood = dice.chance(0.3)
        while x < middle + 220:
            wide = dice.between(10, 26)
            profile.append((x, x + wide, dice.between(8, 14) if wood else dice.between(8, 34)))
            colors.append(dice.near(dice.pick(LEAVES[:4]) if wood else dice.pick(WALLS)))
            x += wide
        label = VEGETATION if wood else BUILDING
        self.props.append(Backdrop(z, tuple(profile), tuple(colors), label, dice.between(0.1, 0.4)))

    def _houses(self, side: int) -> None:
        dice, street = self.dice, self.street
        lateral = street.front(side)
        district, z = dice.between(5, 14), -4.0
        park = dice.chance(0.2)
        sunny = side != street.sun or dice.chance(0.2)
        while z < 140:
            crossing = next(
                (far for s, near, far in street.crossings if s == side and near <= z + 14 and far > z), None
            )
            long = dice.between(9, 22)
            if crossing is not None:
                near = next(near for s, near, far in street.crossings if s == side and far == crossing)
                end = near - street.walks[0]
                if end - z > 4 and not park:
                    self.props.append(self._house(side, z, end, lateral, district, sunny))
                z = crossing + street.walks[0]
                continue
            gone = (park and z < 70) or dice.chance(0.12)
            if not gone:
                self.props.append(self._house(side, z, z + long, lateral, district, sunny))
            z += long
            if dice.chance(0.2):
                z += dice.between(2, 6)

    def _house(self, side: int, near: float, far: float, lateral: float, district: float, sunny: bool) -> House:
        dice = self.dice
        warm = dice.pick([(1.0, 0.78, 0.45), (1.0, 0.88, 0.65), (0.85, 0.92, 1.0)])
        return House(
            near=near,
            far=far,
            side=side,
            lateral=lateral,
            tall=district * dice.between(0.7, 1.35),
            color=dice.near(dice.pick(WALLS)),
            trim=dice.near(dice.pick(TRIMS)),
            storey=dice.between(2.8, 3.6),
            bay=dice.between(1.8, 3.2),
            duty=(dice.between(0.4, 0.7), dice.between(0.45, 0.65)),
            shop=dice.near(dice.pick(SHOPS)) if dice.chance(0.4) else None,
            roof=dice.between(0.04, 0.16),
            key=int(dice.between(0, 256)),
            lit=dice.between(0.1, 0.45),
            warm=warm,
            sunny=sunny,
        )

    def _greenery(self, side: int) -> None:
        dice, street = self.dice, self.street
        index = (side + 1) // 2
        green = street.greens[index]
        kerb, front = abs(street.kerb(side)), abs(street.front(side))
        fenced = dice.chance(0.75 if green else 0.12)
        if fenced:
            lateral = side * (kerb + street.walks[index] if green else kerb + 0.3)
            z, boards, tall = dice.between(1, 18), dice.chance(0.4), dice.between(0.9, 1.5)
            color = dice.near(dice.pick([(0.5, 0.38, 0.26), (0.2, 0.24, 0.22), (0.62, 0.62, 0.6), (0.36, 0.38, 0.4)]))
            while z < 60:
                far = z + dice.between(8, 20)
                for _, near, end in (c for c in street.crossings if c[0] == side):
                    if z < end and far > near:
                        far = max(z, near - 1)
                piece = z
                while piece < far:  # short pieces, so that each is hidden by what is nearer and hides what is farther
                    end = min(far, piece + 2 + 0.15 * piece)
                    self.props.append(Fence(piece, end, lateral, tall, color, boards, street.daylight(lateral)))
                    piece = end
                z = max(far, z + 4) + dice.between(0, 10) + (12 if not self._free(side, max(far, z) + 2) else 0)
        if dice.chance(0.85 if green else 0.45):
            lateral = side * (dice.between(kerb + street.walks[index], front) if green else kerb + 0.9)
            self._row_of_trees(side, lateral)
        if green:
            z = dice.between(3, 15)
            while z < 60:
                lateral = side * dice.between(
                    kerb + street.walks[index] + 0.6, max(front, kerb + street.walks[index] + 1)
                )
                if self._free(side, z, 2):
                    self.props.append(self._bush(lateral, z))
                z += dice.between(4, 14)

    def _row_of_trees(self, side: int, lateral: float) -> None:
        dice = self.dice
        leaf, tall, gap = dice.pick(LEAVES), dice.between(4.5, 8), dice.between(8, 16)
        slim, z = dice.chance(0.2), dice.between(5, 14)
        while z < 85:
            if self._free(side, z, 2):
                self.props.append(self._tree(lateral, z, tall * dice.between(0.8, 1.2), slim, dice.near(leaf, 0.04)))
            z += gap * dice.between(0.85, 1.15)

    def _tree(self, lateral: float, z: float, tall: float, slim: bool, color: Color) -> Tree:
        dice = self.dice
        trunk = tall * dice.between(0.35, 0.5)
        if slim:
            blobs = [(0.0, trunk * 0.5 + tall * 0.5, tall * 0.16, tall * 0.55)]
        else:
            wide = tall * dice.between(0.26, 0.36)
            blobs = [(0.0, trunk + tall * 0.3, wide * 1.25, tall * 0.36)]
            for _ in range(2):
                blobs.append(
                    (dice.between(-wide, wide) * 0.8, trunk + tall * dice.between(0.15, 0.45), wide * 0.8, tall * 0.24)
                )
        light = self.street.daylight(lateral)
        return Tree(
            z, lateral, trunk * 1.15, 0.06 * tall, tuple(blobs), color, int(dice.between(0, 200)), 0.4 + 0.6 * light
        )

    def _bush(self, lateral: float, z: float) -> Tree:
        dice = self.dice
        tall, wide = dice.between(0.7, 1.6), dice.between(0.6, 1.6)
        blobs = (
            (0.0, tall * 0.5, wide, tall * 0.65),
            (dice.between(-wide, wide) * 0.7, tall * 0.4, wide * 0.7, tall * 0.5),
        )
        color, light = dice.near(dice.pick(LEAVES[:5])), self.street.daylight(lateral)
        return Tree(z, lateral, 0.0, 0.0, blobs, color, int(dice.between(0, 200)), 0.4 + 0.6 * light)

    def _car(self, z: float, lateral: float, oncoming: bool, moving: bool) -> Car:
        dice = self.dice
        estate = dice.between(0, 1)
        return Car(
            z=z,
            lateral=lateral,
            color=dice.near(dice.pick(CARS), 0.04),
            oncoming=oncoming,
            lights=moving or dice.chance(0.08),
            wide=dice.between(1.7, 1.9),
            tall=1.42 + 0.35 * estate,
            long=dice.between(3.9, 4.8),
            sunny=self.street.daylight(lateral),
            cabin=dice.between(0.7, 0.82),
            waist=0.88 + 0.14 * estate,
        )

    def _parked(self, side: int) -> None:
        dice, street = self.dice, self.street
        if street.half_width < 4 or not dice.chance(0.8):
            return
        lateral, density = street.kerb(side) - side * 1.05, dice.between(0.4, 0.95)
        z = dice.between(5, 10)
        while z < 65:
            if dice.chance(density) and self._free(side, z + 2, 4):
                self.props.append(self._car(z, lateral + dice.between(-0.1, 0.1), side < 0, False))
            z += dice.between(5.6, 7.5)

    def _traffic(self) -> None:
        dice, street = self.dice, self.street
        lane = street.half_width * 0.45
        if dice.chance(0.75):
            self._vehicle(dice.between(7, 26), lane, False)
        z = dice.between(8, 28)
        while z < 90:
            self._vehicle(z, -lane, True)
            z += dice.between(14, 60)
        z = dice.between(50, 75)
        while z < 90:
            self._vehicle(z, lane, False)
            z += dice.between(12, 40)

    def _vehicle(self, z: float, lateral: float, oncoming: bool) -> None:
        dice = self.dice
        if dice.chance(0.14):
            color = dice.near(
                dice.pick([(0.85, 0.83, 0.78), (0.75, 0.18, 0.15), (0.9, 0.72, 0.2), (0.2, 0.4, 0.6)]), 0.04
            )
            band = dice.near(dice.pick(CLOTHES))
            light = self.street.daylight(lateral)
            size = (2.5, dice.between(2.9, 3.3), dice.between(9, 12))
            self.props.append(Bus(z + 3, lateral, color, oncoming, True, *size, light, band))
        else:
            self.props.append(self._car(z, lateral + dice.between(-0.3, 0.3), oncoming, True))

    def _person(self, z: float, lateral: float) -> Person:
        dice = self.dice
        bag = dice.near(dice.pick(CLOTHES)) if dice.chance(0.3) else None
        top, legs = dice.near(dice.pick(CLOTHES)), dice.near(dice.pick(TROUSERS), 0.04)
        light = self.street.daylight(lateral)
        look = (dice.near(dice.pick(SKINS), 0.03), dice.pick(HAIRS))
        return Person(z, lateral, dice.between(1.5, 1.9), top, legs, *look, dice.between(0.05, 0.6), bag, light)

    def _walkers(self, side: int) -> None:
        dice, street = self.dice, self.street
        walk = street.walks[(side + 1) // 2]
        for _ in range(int(dice.between(0.5, 6))):
            near = dice.between(0.05, 1)
            z, lateral = 5.5 + 40 * near * near, street.kerb(side) + side * dice.between(0.5, walk - 0.3)
            self.props.append(self._person(z, lateral))
            if dice.chance(0.35):
                self.props.append(self._person(z + dice.between(-0.4, 0.4), lateral + dice.between(0.5, 0.8)))
        if dice.chance(0.14):
            z = street.zebra if street.zebra is not None else dice.between(10, 30)
            self.props.append(self._person(z, dice.between(-0.9, 0.9) * street.half_width))
        if dice.chance(0.35):
            z, lateral = dice.between(6, 24), street.kerb(side) + side * dice.between(0.4, 0.9)
            for number in range(int(dice.between(1, 4))):
                across = dice.sign() * dice.between(0.5, 1)
                color = dice.near(dice.pick(CLOTHES))
                self.props.append(Bicycle(z + number * 0.8, lateral, across, color, street.daylight(lateral)))

    def _riders(self) -> None:
        dice, street = self.dice, self.street
        for _ in range(int(dice.between(0.1, 2.4))):
            side = 1 if dice.chance(0.7) else -1
            lateral = street.kerb(side) - side * dice.between(0.6, 1.4) if dice.chance(0.7) else dice.between(-3, 3)
            across = dice.sign() * (dice.between(0.7, 1) if dice.chance(0.3) else dice.between(0.05, 0.4))
            near = dice.between(0.1, 1)
            light = street.daylight(lateral)
            bike = Bicycle(6.5 + 26 * near * near, lateral, across, dice.near(dice.pick(CLOTHES)), light, lights=True)
            top, legs = dice.near(dice.pick(CLOTHES)), dice.near(dice.pick(TROUSERS), 0.04)
            self.props.append(Rider(bike, top, legs, dice.pick(SKINS), dice.near(dice.pick(CLOTHES))))

    def _lamps(self) -> None:
        dice, street = self.dice, self.street
        gap, tall = dice.between(18, 30), dice.between(5.5, 8)
        both, side, z = dice.chance(0.4), dice.sign(), dice.between(6, 18)
        color = dice.near(dice.pick([(0.4, 0.41, 0.42), (0.22, 0.26, 0.25), (0.55, 0.55, 0.54)]), 0.03)
        while z < 85:
            for s in (-1, 1) if both else (side,):
                if self._free(s, z):
                    lateral = street.kerb(s) + s * 0.5
                    arm = -s * dice.between(1.2, 1.5)
                    self.props.append(Lamp(z, lateral, tall, arm, color, self.lamp_light, street.daylight(lateral)))
            side = -side if dice.chance(0.6) else side
            z += gap

    def _signals(self) -> None:
        dice, street = self.dice, self.street
        if self.crossing_z is not None and dice.chance(0.85):
            state, z = dice.pick([0, 0, 1, 2, 2]), self.crossing_z - 1.5
            for side in (1, -1) if dice.chance(0.6) else (1,):
                lateral = street.kerb(side) + side * 0.5
                arm = -street.half_width * dice.between(0.4, 0.7) if side > 0 and dice.chance(0.35) else 0.0
                tall = 5.2 if arm else dice.between(3.2, 3.7)
                self.props.append(TrafficLight(z, lateral, tall, state, arm, street.daylight(lateral)))
        for _ in range(int(dice.between(1, 4.9))):
            side, near = (1 if dice.chance(0.65) else -1), dice.between(0.2, 1)
            z, lateral = 5 + 40 * near * near, street.kerb(side) + side * dice.between(0.35, 0.7)
            kind = dice.pick(["ban", "order", "give way", "main road", "parking", "board"])
            size = dice.between(0.65, 0.95)
            self.props.append(Sign(z, lateral, dice.between(2.3, 3.2), kind, size, street.daylight(lateral)))
