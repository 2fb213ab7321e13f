"""Procedural materials of a street: noise, asphalt, pavement, facades, foliage."""

import numpy as np

from esr_lefuse_jax.synthetic.raster import Material, Surface

_LATTICE = np.random.default_rng(20240229).random((256, 256)).astype(np.float32)

LIT_ROOMS = np.array([[1.0, 0.66, 0.30], [1.0, 0.75, 0.42], [1.0, 0.86, 0.62], [0.86, 0.95, 1.0]], np.float32)
SIGNS = np.array(
    [[1.0, 0.12, 0.10], [0.15, 0.45, 1.0], [0.10, 0.95, 0.45], [1.0, 0.65, 0.10], [0.95, 0.2, 0.7]],
    np.float32,
)


def noise(x: np.ndarray, y: np.ndarray, salt: int = 0) -> np.ndarray:
    """Smooth value noise in [0, 1] with one lattice point per unit."""
    floor_x, floor_y = np.floor(x), np.floor(y)
    part_x, part_y = x - floor_x, y - floor_y
    part_x, part_y = part_x * part_x * (3 - 2 * part_x), part_y * part_y * (3 - 2 * part_y)
    column, row = floor_x.astype(np.int64) + 61 * salt, floor_y.astype(np.int64) + 113 * salt
    left, right, top, bottom = column & 255, (column + 1) & 255, row & 255, (row + 1) & 255
    upper = _LATTICE[top, left] * (1 - part_x) + _LATTICE[top, right] * part_x
    lower = _LATTICE[bottom, left] * (1 - part_x) + _LATTICE[bottom, right] * part_x
    return upper * (1 - part_y) + lower * part_y


def cloud(x: np.ndarray, y: np.ndarray, octaves: int = 4, salt: int = 0) -> np.ndarray:
    """Noise of several octaves, about .5 on average."""
    total, weight = np.zeros(x.shape, np.float32), 0.0
    for octave in range(octaves):
        total += noise(x * 2**octave, y * 2**octave, salt + octave) / 2**octave
        weight += 1 / 2**octave
    return total / weight


def cell(i: np.ndarray, j: np.ndarray, salt: int = 0) -> np.ndarray:
    """One random number in [0, 1] for each integer cell."""
    i, j = np.floor(i).astype(np.int64), np.floor(j).astype(np.int64)
    return _LATTICE[(i * 7 + j * 31 + 17 * salt) & 255, (i * 13 - j * 3 + 59 * salt) & 255]


def _stripes(x: np.ndarray, low: float, high: float) -> np.ndarray:
    return ((x >= low) & (x < high)).astype(np.float32)


def plain(albedo, temperature: float, *, emission=0.0, gloss: float = 0.0, grain: float = 0.0) -> Material:
    """One colour, with a little grain if asked."""

    def material(u, v, points):
        colour = np.asarray(albedo, np.float32)
        if grain:
            texture = 1 + grain * (noise(points[:, 0] * 9 + points[:, 1] * 5, points[:, 2] * 9) - 0.5)
            return Surface(colour * texture[:, None], temperature, emission, gloss)
        return Surface(colour, temperature, emission, gloss)

    return material


def ground(*, road: float, kerb: float, crossing: float, grass: bool, salt: int) -> Material:
    """Asphalt with markings between the kerbs at |x| = road; slabs, and grass if asked, beyond `kerb`."""

    def material(u, v, points):
        x, y = points[:, 0], points[:, 1]
        distance = np.hypot(x, y)
        detail = 1 / (1 + (distance / 16) ** 2)  # what the pixel grid cannot hold must not alias
        coarse, fine = cloud(x / 3, y / 7, 3, salt), noise(x * 14, y * 14, salt + 5)
        on_road = np.abs(x) < road
        asphalt = 0.085 + 0.05 * (coarse - 0.5) + 0.05 * detail * (fine - 0.5)
        for lane in (-0.5, 0.5):
            for wheel in (-0.75, 0.75):
                asphalt += 0.012 * np.exp(-(((x - lane * road - wheel) / 0.28) ** 2))
        patch = cell(x / 2.2 + 50, y / 5.5, salt + 2) > 0.86
        asphalt = np.where(patch, asphalt * 0.72, asphalt)
        wear = np.clip(1.35 - 1.1 * cloud(x * 1.5, y * 1.5, 3, salt + 3), 0.25, 1)
        lines = _stripes(np.abs(x), 0, 0.08) * (np.mod(y, 6) < 3)
        lines = np.maximum(lines, _stripes(np.abs(x), road - 0.42, road - 0.30))
        near_crossing = (y > crossing - 2.2) & (y < crossing + 5.6)
        lines = np.where(near_crossing, 0, lines)
        zebra = (
            (y > crossing) & (y < crossing + 3.4) & (np.mod(x + 0.25, 1.0) < 0.5) & (np.abs(x) < road - 0.3)
        )
        stop = (np.abs(y - crossing + 1.5) < 0.18) & (x > 0.15) & (x < road - 0.3)
        lines = np.where(zebra | stop, 1, lines) * wear
        street = np.stack([asphalt, asphalt, asphalt * 1.04], -1)
        street = street * (1 - lines[:, None]) + 0.62 * lines[:, None]
        manhole = np.hypot(x - 1.3, (y - crossing - 9) / 1.0) < 0.38
        street[manhole] = 0.05

        slab_x, slab_y = x / 0.6, y / 0.6
        joint = (np.mod(slab_x, 1) < 0.06) | (np.mod(slab_y, 1) < 0.06)
        slabs = 0.26 + 0.10 * (cell(slab_x, slab_y, salt) - 0.5) + 0.10 * (coarse - 0.5)
        slabs = np.where(joint, slabs - 0.10 * detail, slabs)
        pavement = np.stack([slabs, slabs * 0.96, slabs * 0.88], -1)
        guide = np.abs(np.abs(x) - road - 1.9) < 0.3
        pavement[guide] = np.array([0.42, 0.33, 0.10], np.float32) * (slabs[guide, None] / 0.26)
        edge = (np.abs(x) >= road) & (np.abs(x) < kerb)
        pavement[edge] = (0.36 + 0.06 * (fine[edge] - 0.5) - 0.12 * (np.mod(y[edge], 1) < 0.05))[:, None]

        albedo = np.where(on_road[:, None], street, pavement)
        temperature = np.where(on_road, 17.4, 14.2 + 1.6 * (cell(slab_x, slab_y, salt) - 0.5))
        temperature += 4.0 * (coarse - 0.5) - 2.2 * lines * on_road + 0.8 * (fine - 0.5) * detail
        temperature += np.where(on_road & patch, 1.3, 0) - 0.5 * (joint & ~on_road) * detail
        temperature = np.where(edge, 15.3, temperature)
        temperature = np.where(manhole, 18.5, temperature)
        if grass:
            lawn = (np.abs(x) > kerb + 3.2) & (np.abs(x) < kerb + 5.0)
            blades = cloud(x * 6, y * 6, 3, salt + 9)
            green = np.stack([0.06 + 0.05 * blades, 0.10 + 0.09 * blades, 0.04 + 0.02 * blades], -1)
            albedo = np.where(lawn[:, None], green, albedo)
            temperature = np.where(lawn, 9.5 + 2.5 * blades, temperature)
        gloss = np.where(on_road, 0.10 + 0.20 * np.clip(coarse - 0.45, 0, 1), 0.02)
        return Surface(albedo.astype(np.float32), temperature, 0.0, gloss)

    return material


def facade(*, wall, height: float, storey: float, bay: float, lit: float, shops: bool, salt: int) -> Material:
    """A house front: bays of windows, some lit, above shops with bright panes and signs."""

    def material(u, v, points):
        distance = np.hypot(points[:, 0], points[:, 1])
        detail = 1 / (1 + (distance / 30) ** 2)
        base = 3.8 if shops else 0.9
        level, column = np.floor((v - base) / storey), np.floor(u / bay)
        y, x = np.mod(v - base, storey) / storey, np.mod(u, bay) / bay
        upper = (v > base) & (v < height - 0.8)
        window = upper & (x > 0.24) & (x < 0.76) & (y > 0.26) & (y < 0.82)
        frame = window & ~((x > 0.27) & (x < 0.73) & (y > 0.29) & (y < 0.79) & (np.abs(x - 0.5) > 0.015))
        chance = cell(level, column, salt)
        is_lit = window & (chance < lit)
        kind = (cell(level, column, salt + 1) * len(LIT_ROOMS)).astype(int)
        room = LIT_ROOMS[np.clip(kind, 0, len(LIT_ROOMS) - 1)]
        curtain = 0.35 + 0.65 * (np.abs(x - 0.5) < 0.10 + 0.14 * cell(level, column, salt + 2))
        inside = (0.5 + 0.7 * y) * curtain * (0.7 + 0.6 * noise(u * 3, v * 3, salt))
        strength = 0.18 + 0.85 * cell(level, column, salt + 3)
        glow = room * (inside * strength * is_lit * ~frame)[:, None]

        stain = cloud(u / 2.5, v / 4, 3, salt)
        bricks = 0.05 * detail * (cell(u / 0.25 + 0.5 * np.mod(np.floor(v / 0.09), 2), v / 0.09, salt) - 0.5)
        tone = 1 + 0.45 * (stain - 0.5) + bricks * 4
        tone = np.where(np.mod(v - base + 0.12, storey) < 0.22, tone * 1.18, tone)
        albedo = np.asarray(wall, np.float32) * tone[:, None]
        albedo = np.where(window[:, None], np.float32(0.03), albedo)
        albedo = np.where(frame[:, None], np.float32(0.40), albedo)
        albedo = np.where((upper & (y > 0.21) & (y < 0.26) & (x > 0.2) & (x < 0.8))[:, None], 0.35, albedo)
        temperature = 13.6 + 3.5 * (stain - 0.5) - 0.05 * v + 1.2 * (cell(salt + 0 * u, 0 * u) - 0.5)
        temperature = np.where(
            window, 12.8 + 5.5 * chance * (chance < lit) + 3.0 * (chance < lit), temperature
        )
        temperature = np.where(frame, 17.0, temperature)
        gloss = np.where(window, 0.25, 0.0)
        if shops:
            shop, across = np.floor(u / (2 * bay)), np.mod(u, 2 * bay) / (2 * bay)
            is_open = cell(shop, shop, salt + 5) < 0.5
            pane = (v > 0.5) & (v < 2.7) & (across > 0.07) & (across < 0.93) & (np.abs(across - 0.55) > 0.012)
            goods = 0.35 + 0.9 * cell(u / 0.35, v / 0.5, salt + 7) * (v < 1.9) + 0.5 * (v >= 1.9)
            white = LIT_ROOMS[np.clip((cell(shop, shop, salt + 6) * 4).astype(int), 0, 3)]
            glow += white * (0.85 * goods * pane * is_open)[:, None]
            board = (v > 2.9) & (v < 3.5) & (across > 0.07) & (across < 0.93)
            letters = (cell(u / 0.22, v / 0.15, salt + 8) > 0.42) & (np.mod(u, 0.88) > 0.18)
            letters &= (v > 3.02) & (v < 3.38) & (across > 0.2) & (across < 0.8)
            colour = SIGNS[np.clip((cell(shop, shop, salt + 9) * len(SIGNS)).astype(int), 0, len(SIGNS) - 1)]
            lamp_on = is_open | (cell(shop, shop, salt + 10) < 0.25)
            glow += colour * ((0.10 * board + 1.5 * (letters & board)) * lamp_on)[:, None]
            albedo = np.where(pane[:, None], np.float32(0.04), albedo)
            albedo = np.where(board[:, None], 0.25 * colour + 0.05, albedo)
            shutter = pane & ~is_open
            albedo = np.where(shutter[:, None], (0.22 + 0.06 * (np.mod(v, 0.12) < 0.06))[:, None], albedo)
            temperature = np.where(pane & is_open, 18.5 + 1.5 * goods, temperature)
            temperature = np.where(board & lamp_on, 18.0 + 2.5 * letters, temperature)
            gloss = np.where(pane, 0.2, gloss)
        return Surface(albedo.astype(np.float32), temperature, glow.astype(np.float32), gloss)

    return material


def foliage(colour, salt: int) -> Material:
    """Leaves: holes where the sky looks through, and clumps of light and dark."""

    def material(u, v, points):
        across, up = points[:, 0] + 0.7 * points[:, 1], points[:, 2] + 0.2 * points[:, 1]
        leaves = noise(across * 6, up * 6, salt) * 0.5 + noise(across * 14, up * 14, salt + 1) * 0.5
        clumps = cloud(across * 1.6, up * 1.6, 2, salt + 2)
        keep = leaves + 0.3 * clumps > 0.56
        shade = 0.45 + 1.1 * leaves * clumps
        return Surface(
            (np.asarray(colour, np.float32) * shade[:, None]).astype(np.float32),
            10.8 + 4.0 * clumps + 1.6 * leaves,
            keep=keep,
        )

    return material
