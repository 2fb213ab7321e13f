"""Cars: extruded side views with glass, lamps, plates and wheels, warm where a running engine warms them."""

import numpy as np

from esr_lefuse_jax.synthetic.objects import Light, Occluder
from esr_lefuse_jax.synthetic.raster import Buffer, Surface
from esr_lefuse_jax.synthetic.textures import noise, plain

# Side views (length, height) of the body and of the cabin on it, front at the larger length.
_SHAPES = {
    "saloon": (
        [
            (0.0, 0.30),
            (0.0, 0.62),
            (0.12, 0.88),
            (0.9, 0.95),
            (3.1, 0.92),
            (4.2, 0.76),
            (4.45, 0.58),
            (4.45, 0.30),
        ],
        [(0.55, 0.93), (1.25, 1.40), (2.35, 1.42), (3.30, 0.91)],
    ),
    "hatchback": (
        [
            (0.0, 0.30),
            (0.0, 0.70),
            (0.06, 0.95),
            (0.5, 0.98),
            (2.8, 0.95),
            (3.75, 0.80),
            (3.95, 0.60),
            (3.95, 0.30),
        ],
        [(0.08, 0.95), (0.42, 1.42), (2.05, 1.47), (3.05, 0.93)],
    ),
    "van": (
        [
            (0.0, 0.34),
            (0.0, 0.80),
            (0.04, 1.05),
            (0.4, 1.08),
            (3.4, 1.08),
            (4.3, 0.95),
            (4.6, 0.70),
            (4.6, 0.34),
        ],
        [(0.05, 1.06), (0.20, 1.86), (2.9, 1.90), (4.0, 1.05)],
    ),
}
PAINTS = [
    (0.62, 0.62, 0.60),
    (0.04, 0.04, 0.045),
    (0.28, 0.29, 0.31),
    (0.36, 0.03, 0.03),
    (0.05, 0.10, 0.28),
    (0.55, 0.48, 0.25),
]


def car(
    buffer: Buffer, rng: np.random.Generator, x: float, y: float, *, towards: bool, running: bool
) -> tuple[list[Light], Occluder]:
    """A car along the street, facing the camera (`towards`) or away; `running` gives heat and lights."""
    body, cabin = _SHAPES[str(rng.choice(list(_SHAPES), p=[0.45, 0.4, 0.15]))]
    length, half = body[-1][0], 0.88
    paint = np.array(PAINTS[int(rng.integers(len(PAINTS)))])
    heat = rng.uniform(9, 15) if running else rng.choice([0.0, 0.0, 5.0])
    way = -1.0 if towards else 1.0
    top_body, top_cabin = max(z for _, z in body), max(z for _, z in cabin)
    centre = np.array([x, y, 0.75])

    def place(along, across, up):
        return np.array([x + across, y + way * (along - length / 2), up])

    def width_at(up):
        # The cabin leans inwards; linear in height, so that every side face stays flat.
        return half if up <= top_body else half - 0.24 * (up - top_body) / (top_cabin - top_body)

    def shell(u, v, points):
        along = way * (points[:, 1] - y) + length / 2
        bonnet = np.clip((along - 0.66 * length) / (0.2 * length), 0, 1)
        low = np.clip((0.55 - points[:, 2]) / 0.3, 0, 1)
        dirt = 0.85 + 0.3 * noise(points[:, 1] * 3, points[:, 2] * 3 + points[:, 0], 7)
        seam = np.abs(np.mod(along - 0.3, 1.05) - 0.5) < 0.012
        colour = (
            paint * (dirt * (1 - 0.5 * low) * np.where(seam & (points[:, 2] < top_body), 0.45, 1))[:, None]
        )
        return Surface(colour, 11.6 + heat * bonnet * (0.75 + 0.25 * dirt) + 2.0 * low, 0.0, 0.22)

    glass_temperature = 9.5 + (4.5 if running else 0.0)

    def glass(u, v, points):
        shine = 0.015 + 0.02 * noise(points[:, 0] * 2, points[:, 2] * 3, 5)
        return Surface(
            np.repeat(shine[:, None], 3, 1), glass_temperature + 1.5 * (shine - 0.025) / 0.02, 0.0, 0.45
        )

    def cabin_side(u, v, points):
        outer = shell(u, v, points)
        along = way * (points[:, 1] - y) + length / 2
        share = (points[:, 2] - top_body) / (top_cabin - top_body)
        middle = cabin[1][0] * 0.5 + cabin[2][0] * 0.5
        pane = (share > 0.08) & (share < 0.86) & (np.abs(along - middle) > 0.05)
        pane &= (along > cabin[0][0] + 0.25 + 0.5 * share) & (along < cabin[3][0] - 0.2 - 0.8 * share)
        inner = glass(u, v, points)
        return Surface(
            np.where(pane[:, None], inner.albedo, outer.albedo),
            np.where(pane, inner.temperature, outer.temperature),
            0.0,
            np.where(pane, 0.4, 0.2),
        )

    glow_front = np.array([1.0, 0.93, 0.80]) * (9.0 if running else 0.0)
    glow_back = np.array([1.0, 0.05, 0.03]) * (2.4 if running else 0.0)

    def end_face(front: bool):
        def material(u, v, points):
            across, up = points[:, 0] - x, points[:, 2]
            surface = shell(u, v, points)
            lamp = (np.abs(np.abs(across) - 0.66) < 0.15) & (np.abs(up - (0.62 if front else 0.74)) < 0.085)
            plate = (np.abs(across) < 0.26) & (np.abs(up - 0.47) < 0.065)
            grille = front & (np.abs(across) < 0.42) & (np.abs(up - 0.63) < 0.07)
            albedo = np.where(lamp[:, None], (0.5, 0.5, 0.5) if front else (0.35, 0.02, 0.02), surface.albedo)
            albedo = np.where(plate[:, None], (0.55, 0.55, 0.5), albedo)
            albedo = np.where(grille[:, None], 0.02 + 0.08 * (np.mod(up, 0.04) < 0.015)[:, None], albedo)
            warm = surface.temperature + np.where(grille, 0.55 * heat, 0) + np.where(lamp & running, 5.0, 0)
            return Surface(albedo, warm, (glow_front if front else glow_back) * lamp[:, None], 0.2)

        return material

    bulge = (centre, 0.35)
    for profile, is_cabin in ((body, False), (cabin, True)):
        count = len(profile)
        for index in range(count - 1):
            (a0, z0), (a1, z1) = profile[index], profile[index + 1]
            w0, w1 = width_at(z0), width_at(z1)
            corners = [place(a0, -w0, z0), place(a0, w0, z0), place(a1, w1, z1), place(a1, -w1, z1)]
            is_window = is_cabin and index in (0, 2)
            is_back, is_front = not is_cabin and index in (0, 1), not is_cabin and index >= count - 3
            face = glass if is_window else end_face(is_front) if is_back or is_front else shell
            buffer.polygon(corners, face, bulge=bulge)
        for sign in (-1, 1):
            corners = [place(a, sign * width_at(z), z) for a, z in profile]
            buffer.polygon(corners, cabin_side if is_cabin else shell, bulge=bulge)
    tyre = plain((0.025, 0.025, 0.025), 13.5 + 0.7 * heat)

    def wheel(u, v, points):
        along, up = points[:, 1] - axle[1], points[:, 2] - axle[2]
        radius, angle = np.hypot(along, up), np.arctan2(along, up)
        hub = (radius < 0.20) & (np.mod(angle * 5 / np.pi, 1) < 0.6)
        albedo = np.where(hub[:, None], 0.38, 0.022)
        return Surface(
            np.broadcast_to(albedo, (len(u), 3)),
            13.5 + heat * (0.5 + 0.5 * (radius < 0.2)),
            0.0,
            0.0,
            radius < 0.33,
        )

    for share in (0.19, 0.80):
        for sign in (-1, 1):
            axle = place(share * length, sign * 0.90, 0.33)
            y0, y1 = axle[1] - 0.33, axle[1] + 0.33
            buffer.polygon(
                [(axle[0], y0, 0), (axle[0], y1, 0), (axle[0], y1, 0.66), (axle[0], y0, 0.66)], wheel
            )
            inner = axle - [sign * 0.16, 0, 0]
            for end in (-0.30, 0.30):
                corners = [(inner[0] - 0.13, inner[1] + end, 0), (inner[0] + 0.13, inner[1] + end, 0)]
                corners += [(inner[0] + 0.13, inner[1] + end, 0.36), (inner[0] - 0.13, inner[1] + end, 0.36)]
                buffer.polygon(corners, tyre)
    lights = []
    if running:
        for sign in (-1, 1):
            beam = np.array([0.0, way, -0.055])
            lamp_at = place(length + 0.1, sign * 0.66, 0.64)
            lights.append(
                Light(lamp_at, np.array([1.0, 0.93, 0.80]), 60.0, beam / np.linalg.norm(beam), 0.93, 45.0)
            )
            lights.append(
                Light(
                    place(-0.1, sign * 0.6, 0.74),
                    np.array([1.0, 0.04, 0.02]),
                    0.35,
                    np.array([0, -way, 0]),
                    0.0,
                    7.0,
                )
            )
    return lights, Occluder(np.array([x, y, 0.55]), np.array([0.98, length / 2, 0.85]))
