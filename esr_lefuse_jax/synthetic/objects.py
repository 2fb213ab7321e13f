"""What stands in the street: people, lamps, trees, houses; each draws itself into a buffer."""

from dataclasses import dataclass

import numpy as np

from esr_lefuse_jax.synthetic.raster import Buffer, Surface
from esr_lefuse_jax.synthetic.textures import facade, foliage, noise, plain


@dataclass
class Light:
    """A point light; `direction` (unit), `cone` (cosine of its edge) and `focus` narrow its beam."""

    position: np.ndarray
    colour: np.ndarray
    power: float
    direction: np.ndarray | None = None
    cone: float = -1.0
    reach: float = 40.0
    focus: float = 1.5
    casts_shadows: bool = False


@dataclass
class Occluder:
    """An ellipsoid that stands in for a body where shadows are cast."""

    centre: np.ndarray
    radii: np.ndarray


def _skin(tone: float):
    return (0.42 * tone, 0.27 * tone, 0.19 * tone)


def person(buffer: Buffer, rng: np.random.Generator, x: float, y: float, heading: float) -> Occluder:
    """A walker of about 1.7 m: skin warmest, clothes in between; dark clothes, nearly black at night."""
    size = rng.uniform(0.92, 1.06)
    forward = np.array([np.sin(heading), np.cos(heading), 0.0])
    side = np.array([np.cos(heading), -np.sin(heading), 0.0])
    base = np.array([x, y, 0.0])
    cloth = np.array([0.05, 0.05, 0.06]) + rng.uniform(0, 0.12) * rng.uniform(0.2, 1, 3)
    legs = np.array([0.03, 0.035, 0.05]) * rng.uniform(0.6, 2.2)
    warmth = rng.uniform(-1.0, 1.5)

    def at(forwards, sideways, up):
        return base + size * (forwards * forward + sideways * side + np.array([0, 0, up]))

    def clothing(colour, temperature):
        def material(u, v, points):
            folds = noise(points[:, 2] * 9, (points[:, 0] + points[:, 1]) * 11, 3)
            shade = (0.8 + 0.4 * folds)[:, None]
            return Surface(np.asarray(colour) * shade, temperature + 2.2 * (folds - 0.5))

        return material

    swing = rng.uniform(-1, 1)
    swing = np.sign(swing) * (0.35 + 0.65 * abs(swing))
    trousers, jacket = clothing(legs, 23.2 + warmth), clothing(cloth, 24.6 + warmth)
    bare = plain(_skin(rng.uniform(0.6, 1.1)), 33.0 + 0.4 * warmth)
    shoes = plain((0.04, 0.04, 0.04), 17.5)
    for sign in (-1, 1):
        step = 0.24 * swing * sign
        hip, knee, foot = (
            at(0, 0.09 * sign, 0.90),
            at(step * 0.75, 0.10 * sign, 0.50),
            at(step * 1.5, 0.11 * sign, 0.10),
        )
        buffer.capsule(hip, knee, 0.088 * size, trousers)
        buffer.capsule(knee, foot, 0.066 * size, trousers)
        buffer.ellipsoid(foot + 0.06 * forward - [0, 0, 0.04], (0.06, 0.13, 0.06), shoes, yaw=-heading)
        shoulder, elbow = at(0, 0.21 * sign, 1.40), at(-step * 0.5, 0.27 * sign, 1.13)
        hand = at(-step * 0.9 + 0.08, 0.25 * sign, 0.88)
        buffer.capsule(shoulder, elbow, 0.062 * size, jacket)
        buffer.capsule(elbow, hand, 0.050 * size, jacket)
        buffer.ellipsoid(hand, (0.045, 0.045, 0.07), bare)
    buffer.ellipsoid(at(0, 0, 1.18), np.array([0.225, 0.145, 0.33]) * size, jacket, yaw=-heading)
    buffer.ellipsoid(at(0, 0, 1.40), np.array([0.235, 0.125, 0.12]) * size, jacket, yaw=-heading)
    buffer.ellipsoid(at(0, 0, 0.93), np.array([0.175, 0.135, 0.16]) * size, trousers, yaw=-heading)
    buffer.capsule(at(0.01, 0, 1.45), at(0.015, 0, 1.55), 0.055 * size, bare)
    buffer.ellipsoid(at(0.02, 0, 1.63), np.array([0.085, 0.10, 0.125]) * size, bare, yaw=-heading)
    hair = plain(np.array([0.03, 0.022, 0.018]) * rng.uniform(0.6, 2.5), 27.5 + warmth)
    buffer.ellipsoid(at(-0.02, 0, 1.67), np.array([0.098, 0.108, 0.115]) * size, hair, yaw=-heading)
    if rng.random() < 0.4:
        bag = clothing(rng.uniform(0.03, 0.2, 3), 18.5)
        buffer.ellipsoid(at(-0.19, 0, 1.20), np.array([0.16, 0.10, 0.22]) * size, bag, yaw=-heading)
    return Occluder(np.array([x, y, 0.85 * size]), np.array([0.24, 0.24, 0.9 * size]))


def lamp(buffer: Buffer, x: float, y: float, colour: np.ndarray, *, on: bool, height: float = 7.2) -> Light:
    """A street lamp at the kerb whose arm reaches over the road."""
    arm = -np.sign(x) * 1.7
    steel = plain((0.16, 0.17, 0.17), 12.4, gloss=0.1)
    buffer.capsule((x, y, 0), (x, y, height), 0.075, steel)
    buffer.capsule((x, y, 0), (x, y, 0.9), 0.13, steel)
    buffer.capsule((x, y, height - 0.05), (x + arm, y, height + 0.25), 0.05, steel)
    head = np.array([x + arm * 1.12, y, height + 0.22])

    def housing(u, v, points):
        below = (v < 0.1) & on
        return Surface(
            (0.2, 0.2, 0.2),
            np.where(v < 0.1, 24.0 if on else 12.0, 17.0 if on else 12.0),
            below[:, None] * colour * 30,
        )

    buffer.ellipsoid(head, (0.42, 0.17, 0.10), housing)
    return Light(
        head - [0, 0, 0.25], colour, 130.0 if on else 0.0, np.array([0.0, 0.0, -1.0]), 0.15, 26.0, 1.3, True
    )


def tree(buffer: Buffer, rng: np.random.Generator, x: float, y: float) -> None:
    """A street tree: trunk, two boughs, a crown of overlapping clumps."""
    height = rng.uniform(4.6, 6.8)
    bark = plain((0.10, 0.075, 0.055), 13.0, grain=0.9)
    top = np.array([x + rng.uniform(-0.2, 0.2), y, height * 0.55])
    buffer.capsule((x, y, 0), top, 0.15, bark)
    leaves = foliage(np.array([0.10, 0.15, 0.045]) * rng.uniform(0.7, 1.2), int(rng.integers(100)))
    for _ in range(2):
        bough = np.array([rng.uniform(-1, 1), rng.uniform(-0.6, 0.6), 1.4])
        buffer.capsule(top, top + bough, 0.08, bark)
    for _ in range(34):
        angle, out, up = rng.uniform(0, 2 * np.pi), 1.75 * np.sqrt(rng.uniform()), rng.uniform(-0.8, 1.9)
        out *= 1 - 0.35 * max(0.0, up - 0.6)
        centre = (x + out * np.cos(angle), y + 0.8 * out * np.sin(angle), height * 0.78 + up)
        buffer.ellipsoid(centre, rng.uniform(0.35, 0.85) * np.array([1, 1, 0.7]), leaves)


def house(
    buffer: Buffer, rng: np.random.Generator, *, x: float, near: float, far: float, height: float, lit: float
) -> None:
    """A house along the street: the front at `x`, and the side wall that looks at the camera."""
    wall = np.array([[0.30, 0.22, 0.17], [0.34, 0.32, 0.28], [0.22, 0.22, 0.23], [0.38, 0.31, 0.21]])[
        int(rng.integers(4))
    ]
    salt = int(rng.integers(10_000))
    options = {
        "wall": wall,
        "height": height,
        "storey": rng.uniform(2.9, 3.3),
        "bay": rng.uniform(2.2, 3.0),
        "salt": salt,
    }
    front = facade(lit=lit, shops=bool(rng.random() < 0.75), **options)
    buffer.polygon([(x, near, 0), (x, far, 0), (x, far, height), (x, near, height)], front)
    away = x + np.sign(x) * 14
    side = facade(lit=lit * 0.5, shops=False, **options)
    buffer.polygon([(x, near, 0), (away, near, 0), (away, near, height), (x, near, height)], side)


def skyline(buffer: Buffer, rng: np.random.Generator, distance: float) -> None:
    """Houses far down the street, dark but for their windows."""
    left = -140.0
    while left < 140:
        width, height = rng.uniform(9, 22), rng.uniform(10, 34)
        y = distance + rng.uniform(0, 25)
        front = facade(
            wall=np.full(3, rng.uniform(0.15, 0.3)),
            height=height,
            storey=3.1,
            bay=2.6,
            lit=0.22,
            shops=False,
            salt=int(rng.integers(10_000)),
        )
        buffer.polygon(
            [(left, y, 0), (left + width, y, 0), (left + width, y, height), (left, y, height)], front
        )
        left += width * rng.uniform(0.9, 1.2)


def bin_and_bollards(buffer: Buffer, rng: np.random.Generator, x: float, y: float) -> None:
    """Small things at the kerb."""
    for index in range(4):
        post = plain((0.32, 0.32, 0.30), 13.2)
        buffer.capsule((x, y + 2.1 * index, 0), (x, y + 2.1 * index, 0.75), 0.07, post)
    if rng.random() < 0.6:
        at = (x + np.sign(x) * 0.5, y - 1.5)
        buffer.capsule((*at, 0), (*at, 0.95), 0.24, plain((0.07, 0.13, 0.09), 14.8))
