"""Laying out one street from random numbers."""

from dataclasses import dataclass

import numpy as np

from esr_lefuse_jax.synthetic import objects
from esr_lefuse_jax.synthetic.cars import car
from esr_lefuse_jax.synthetic.objects import Light, Occluder
from esr_lefuse_jax.synthetic.raster import Buffer, Camera
from esr_lefuse_jax.synthetic.textures import ground

_LAMP_COLOURS = np.array([[1.0, 0.62, 0.26], [1.0, 0.72, 0.40], [1.0, 0.90, 0.72]])


@dataclass
class Street:
    """A laid-out scene: what the camera sees and what lights it."""

    buffer: Buffer
    lights: list[Light]
    occluders: list[Occluder]
    city: np.ndarray
    haze: float
    exposure: float


def build_street(height: int, width: int, rng: np.random.Generator) -> Street:
    """Builds a street for a picture of `height` x `width` pixels."""
    aspect = width / height
    camera = Camera(
        height,
        width,
        position=(rng.uniform(-2.2, 2.2), 0.0, rng.uniform(2.9, 4.2)),
        yaw=rng.uniform(-0.10, 0.10),
        pitch=-rng.uniform(0.10, 0.15),
        focal=rng.uniform(0.95, 1.15) / max(1.0, aspect / 1.25),
    )
    buffer = Buffer(camera)
    road, crossing = 4.6, rng.uniform(8.5, 12.0)
    house_line = rng.uniform(8.6, 9.6)
    lamp_colour = _LAMP_COLOURS[int(rng.integers(len(_LAMP_COLOURS)))]
    lights: list[Light] = []
    occluders: list[Occluder] = []

    material = ground(
        road=road, kerb=road + 0.2, crossing=crossing, grass=rng.random() < 0.5, salt=int(rng.integers(50))
    )

    for side in (-1, 1):
        near = rng.uniform(3, 9)
        while near < 120:
            far = near + rng.uniform(11, 22)
            objects.house(
                buffer,
                rng,
                x=side * (house_line + rng.uniform(0, 0.8)),
                near=near,
                far=far,
                height=rng.uniform(8.5, 19),
                lit=rng.uniform(0.15, 0.4),
            )
            near = far + rng.choice([0.0, 0.0, rng.uniform(2, 5)])
    objects.skyline(buffer, rng, 150)

    for side, start in ((-1, rng.uniform(13, 17)), (1, rng.uniform(24, 28))):
        for y in np.arange(start, 110, 23.0):
            light = objects.lamp(buffer, side * (road + 0.6), y, lamp_colour, on=rng.random() > 0.08)
            lights.append(light)
    for side in (-1, 1):
        for y in np.arange(rng.uniform(17, 24), 85, rng.uniform(10, 14)):
            if rng.random() < 0.75:
                objects.tree(buffer, rng, side * (road + 1.1), y + rng.uniform(-1, 1))
    objects.bin_and_bollards(buffer, rng, road + 0.45, crossing - 1.0)
    objects.bin_and_bollards(buffer, rng, -road - 0.45, crossing - 0.5)

    def add_car(x, y, **options):
        beams, body = car(buffer, rng, x, y, **options)
        lights.extend(beams)
        occluders.append(body)

    for side in (-1, 1):
        y = crossing + rng.uniform(8, 13)
        while y < 70:
            if rng.random() < 0.62:
                add_car(
                    side * (road - 1.05),
                    y,
                    towards=bool(rng.random() < (0.15 if side > 0 else 0.85)),
                    running=False,
                )
            y += rng.uniform(5.6, 9)
    add_car(-1.9 if rng.random() < 0.5 else -1.7, rng.uniform(24, 38), towards=True, running=True)
    if rng.random() < 0.8:
        add_car(1.8, rng.uniform(17, 30), towards=False, running=True)

    for _ in range(int(rng.integers(2, 5))):  # on the crossing
        x = rng.uniform(-road, road)
        occluders.append(
            objects.person(buffer, rng, x, crossing + rng.uniform(0.5, 3), rng.choice([-1, 1]) * np.pi / 2)
        )
    for _ in range(int(rng.integers(3, 7))):  # on the pavements
        x = rng.choice([-1, 1]) * rng.uniform(road + 1.0, house_line - 0.8)
        heading = rng.choice([0, np.pi]) + rng.uniform(-0.25, 0.25)
        occluders.append(objects.person(buffer, rng, x, rng.uniform(9, 34), heading))

    # Last, because it lies behind everything: its costly material is then asked about few pixels.
    buffer.polygon([(-200, -5, 0), (200, -5, 0), (200, 400, 0), (-200, 400, 0)], material)
    return Street(
        buffer,
        lights,
        occluders,
        city=np.array([1.0, rng.uniform(0.62, 0.85), rng.uniform(0.40, 0.75)], np.float32),
        haze=rng.uniform(0.002, 0.006),
        exposure=rng.uniform(0.85, 1.3),
    )
