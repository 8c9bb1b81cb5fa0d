"""The four looks: how day, night, fog and rain show the same painted world. Each returns linear light, 3 x H x W."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from .canvas import ALBEDO, GLOW, NEARNESS, SHADE, SOLID, Canvas
from .classes import ROAD, SIDEWALK, SIGN
from .dice import Dice
from .textures import Plane, bloom, clamp, decay, lookup, noise_bank, smooth, white_bank
from .world import World


def _rgb(*values: float) -> Plane:
    return np.array(values, np.float32)[:, None, None]


def _sky_position(world: World, canvas: Canvas) -> tuple[Plane, Plane]:
    """Height above the horizon (0 there, 1 at the top), H x 1, and the texture of the clouds, H x W."""
    horizon = world.camera.horizon
    up = clamp((horizon - canvas.ys * (1 / canvas.height)) / horizon).astype(np.float32)
    sideways = ((canvas.xs - canvas.width / 2) * (1 / canvas.height)).astype(np.float32)
    # Clouds lie on a plane overhead: they get flat and small towards the horizon.
    far = 1 / (up + 0.25)
    v, u = world.sky.texture
    cloud = lookup(noise_bank(), far * 40 + v, sideways * far * 38 + u)
    return up, cloud


def _over_sky(light: Plane, canvas: Canvas, sky: Plane) -> Plane:
    return light + (1 - canvas.planes[SOLID]) * sky


def day(world: World, canvas: Canvas, dice: Dice) -> Plane:
    """Clear light of a renderer: sun, long shadows, blue sky with clouds, a little haze."""
    planes, state = canvas.planes, world.sky
    up, cloud = _sky_position(world, canvas)
    warm = state.warmth
    sun = _rgb(1.25 + 0.12 * warm, 1.18, 1.06 - 0.14 * warm)
    shadow = _rgb(0.36, 0.4, 0.47)
    light = planes[ALBEDO] * (shadow + sun * planes[SHADE]) + planes[GLOW] * 0.06
    blue = _rgb(0.1, 0.27, 0.62) * up + _rgb(0.52 + 0.1 * warm, 0.64, 0.76 - 0.08 * warm) * (1 - up)
    cover = clamp((cloud - (0.75 - 0.5 * state.clouds)) * 5)
    white = (0.72 + 0.5 * (cloud - 0.5)) * _rgb(1, 1, 1.02)
    sky = blue + cover * 0.85 * (white - blue)
    haze = 1 - decay(1 / (np.maximum(planes[NEARNESS], 1e-3) * 420))
    light = light + haze * planes[SOLID] * (_rgb(0.5, 0.6, 0.72) - light)
    return _over_sky(light, canvas, sky)


def night(world: World, canvas: Canvas, dice: Dice) -> Plane:
    """Darkness with pools of lamp light, our headlights, lit windows, glare, a colour cast and a noisy sensor."""
    planes, camera, state = canvas.planes, world.camera, world.sky
    up, cloud = _sky_position(world, canvas)
    z = 1 / np.maximum(planes[NEARNESS], (1 / 150))
    ray = z * (1 / (camera.focal * canvas.height))
    x = (canvas.xs - canvas.width / 2) * ray
    y = camera.height - (canvas.ys - camera.horizon * canvas.height) * ray

    lamps = sorted(world.lamps, key=lambda lamp: lamp.z)[:6]
    pool = np.zeros_like(z)
    for lamp in lamps:
        lx, ly, lz = lamp.head(world.street)
        dx, dy, dz = x - lx, y - ly, z - lz
        distance = dx * dx + dy * dy + dz * dz
        pool += 1 / (6 + distance) * (y < ly)
    # Our own headlights: a wide low beam, dim above the height of a bonnet.
    spread = x * 1 / (1.2 + z * 0.28)
    reach = z * (1 / 14)
    low = clamp(1.5 - y * 0.75, 0.12, 1)
    beam = low / ((1 + spread * spread * 1.5) * (1 + reach * reach))
    lamp_light = np.array(lamps[0].light if lamps else (1, 0.7, 0.4), np.float32)[:, None, None]
    ambient = _rgb(0.034, 0.04, 0.056) * dice.between(0.7, 1.6)
    strength, ours = dice.between(5, 9), dice.between(0.35, 0.6)
    light = planes[ALBEDO] * (ambient + lamp_light * (pool * strength) + _rgb(1, 0.95, 0.82) * (beam * ours))
    # Signs throw our headlights straight back.
    light += planes[ALBEDO] * ((canvas.label == SIGN) * beam * 0.9)

    town = _rgb(0.07, 0.05, 0.035) if dice.chance(0.5) else _rgb(0.03, 0.045, 0.085)
    # Clouds throw the light of the town back; a clear sky keeps some blue.
    lit = _rgb(0.085, 0.08, 0.085) * state.clouds + _rgb(0.02, 0.035, 0.075) * (1 - state.clouds)
    sky = lit * dice.between(0.6, 1.6) + town * (1 - up) * (1 - up) * dice.between(0.4, 1.2)
    sky = sky * (0.8 + (0.8 * state.clouds) * cloud)
    light = _over_sky(light, canvas, sky) + planes[GLOW]
    light = smooth(light)
    glare = np.minimum(planes[GLOW], 6) if canvas.height >= 16 else planes[GLOW]
    light += bloom(glare, (0.3, 0.3, 0.35, 0.4)) * dice.between(0.7, 1.3)
    light += _rgb(0.0022, 0.0022, 0.003)  # veil of the lens: black is never black
    cast = _rgb(dice.between(0.9, 1.2), 1.0, dice.between(0.75, 1.15))
    light = light * cast * dice.between(1.7, 2.8)
    return light / (1 + 0.55 * light)


def fog(world: World, canvas: Canvas, dice: Dice) -> Plane:
    """Airlight that swallows what is far: contrast falls with depth, colours fade, lamps get halos."""
    planes = canvas.planes
    up, cloud = _sky_position(world, canvas)
    soft = _rgb(0.62, 0.64, 0.68) * (0.85 + 0.15 * planes[SHADE])
    light = planes[ALBEDO] * soft + planes[GLOW] * 0.25
    grey = 0.299 * light[0] + 0.587 * light[1] + 0.114 * light[2]
    light += 0.35 * (grey - light)
    bright = dice.between(0.42, 0.62)
    air = _rgb(0.98 + dice.between(-0.04, 0.05), 1.0, 1.02 + dice.between(-0.03, 0.05)) * bright
    air = air * (0.92 + 0.12 * up + 0.05 * (cloud - 0.5))
    visibility = dice.between(14, 34)
    clear = decay(1 / (np.maximum(planes[NEARNESS], (1e-4)) * visibility))
    light = air + clear * (light - air * planes[SOLID])
    light = np.where(planes[SOLID] > 0, light, air)
    light += bloom(planes[GLOW] * clear, (0.1, 0.15, 0.25, 0.3)) * 0.35
    return smooth(light)


def rain(world: World, canvas: Canvas, dice: Dice) -> Plane:
    """A dark wet day: the road mirrors what stands on it, streaks and drops on the lens, spray in the distance."""
    planes, camera = canvas.planes, world.camera
    height, width = canvas.height, canvas.width
    _, cloud = _sky_position(world, canvas)
    wet = ((canvas.label == ROAD) | (canvas.label == SIDEWALK)).astype(np.float32)
    dim = dice.between(0.26, 0.38)
    light = planes[ALBEDO] * (_rgb(0.95, 1.0, 1.06) * dim * (0.9 + 0.1 * planes[SHADE]))
    light *= 0.9 - 0.35 * wet
    light += planes[GLOW] * 0.35
    sky = _rgb(0.3, 0.33, 0.37) * (0.5 + 0.75 * cloud) * dice.between(0.8, 1.2)
    mist = _rgb(0.25, 0.27, 0.3)
    clear = decay(1 / (np.maximum(planes[NEARNESS], (1e-4)) * dice.between(45, 80)))
    light = light + (1 - clear) * (mist * planes[SOLID] - light)
    light = _over_sky(light, canvas, sky)

    # The wet road: a rippled mirror about the horizon, stronger where we look along it, broken by drier patches.
    first = min(height - 1, max(1, int(height * camera.horizon)))
    below = np.arange(first, height)
    mirrored = np.clip(2 * first - below - 1, 0, height - 1)
    near = planes[NEARNESS][first:]
    v, u = world.street.texture
    ripple = lookup(noise_bank(), 40 / (near + 0.02) * 0.1 + v, canvas.xs * (160 / height) + u) - 0.5
    columns = np.clip(np.arange(width) + (ripple * (0.06 * height)).astype(np.int32), 0, width - 1)
    image = smooth(smooth(light + planes[GLOW] * 0.5))
    mirror = image[:, mirrored[:, None], columns]
    grazing = clamp(0.95 - (canvas.ys[first:] / height - camera.horizon) * 1.2, 0.25, 0.9)
    puddle = clamp(0.75 + 1.5 * ripple, 0.25, 1)
    weight = wet[first:] * grazing * puddle * 0.75
    light[:, first:] += weight * (mirror - light[:, first:])

    light = smooth(light) + bloom(planes[GLOW], (0.1, 0.15, 0.2)) * 0.3
    light = _streaks(light, canvas, dice)
    light = _drops(light, canvas, dice)
    return light * dice.between(0.95, 1.25) + 0.015


def _streaks(light: Plane, canvas: Canvas, dice: Dice) -> Plane:
    """Falling drops, blurred into slanted lines."""
    fine = 256 / canvas.height
    slant, offset = dice.between(-0.25, 0.25), dice.between(0, 256)
    ys, xs = canvas.ys * fine, canvas.xs * fine
    lines = lookup(white_bank(), ys * 0.045 + offset, xs + ys * slant + offset)
    streaks = clamp((lines - 0.93) * 14) * dice.between(0.06, 0.13)
    return light + streaks * (0.75 - light)


def _drops(light: Plane, canvas: Canvas, dice: Dice) -> Plane:
    """Drops on the lens show the world upside down and blurred."""
    count = int(dice.between(3, 14))
    blurred = smooth(smooth(light)) if count else light
    for _ in range(count):
        x, y = dice.between(0, 1) * canvas.width, dice.between(0, 1) * canvas.height
        r = dice.between(0.012, 0.035) * canvas.height
        where = canvas.window(x - r, x + r, y - r * 1.2, y + r * 1.2)
        if where is None:
            continue
        alpha = canvas.disc(where, x, y, r, r * 1.2) * 0.7
        block = light[:, where[0], where[1]]
        flipped = blurred[:, where[0], where[1]][:, ::-1, ::-1]
        block += alpha * (flipped * 0.85 + 0.05 - block)
    return light


LOOKS: dict[str, Callable[[World, Canvas, Dice], Plane]] = {"day": day, "night": night, "fog": fog, "rain": rain}

# Sensor noise: standard deviations of the part that grows with light and of the constant part, in 8-bit steps.
NOISE: dict[str, tuple[float, float]] = {"day": (1.0, 1.0), "night": (5.5, 4.0), "fog": (2.0, 2.0), "rain": (3.0, 3.0)}


def develop(light: Plane, look: str, dice: Dice) -> np.ndarray:
    """Linear light -> uint8 pixels: gamma 2 (whose square root is exact on every machine) and sensor noise."""
    tone = np.sqrt(clamp(light))
    shot, read = NOISE[look]
    channels, height, width = tone.shape
    # The sum of two random bytes, centred: standard deviation 104.5.
    raw = np.frombuffer(dice.rng.bytes(2 * channels * height * width), np.uint8).reshape(2, channels, height, width)
    noise = raw[0].astype(np.float32) + raw[1] - 255
    sigma = (read + shot * (1 - tone) * tone * 4) * (1 / 104.5)
    return np.clip(tone * 255 + noise * sigma + 0.5, 0, 255).astype(np.uint8)
