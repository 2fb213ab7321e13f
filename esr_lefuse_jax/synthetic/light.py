"""From surfaces to pictures: street light at night, an overcast day, heat, and the two cameras."""

import numpy as np

from esr_lefuse_jax.data.filters import box_mean
from esr_lefuse_jax.synthetic.objects import Light, Occluder
from esr_lefuse_jax.synthetic.raster import Buffer

_LUMA = np.array([0.299, 0.587, 0.114], np.float32)


def soft_blur(image: np.ndarray, radius: int) -> np.ndarray:
    """Three box blurs: close to a Gaussian of sigma `radius`."""
    for _ in range(3):
        image = box_mean(image, max(1, radius))
    return image


def wide_blur(image: np.ndarray, radius: int) -> np.ndarray:
    """`soft_blur` for large radii, worked out on a smaller picture."""
    factor = max(1, radius // 4)
    height, width = image.shape[:2]
    pad = [(0, -height % factor), (0, -width % factor), (0, 0)]
    small = soft_blur(shrink(np.pad(image, pad, mode="edge"), factor), radius // factor)
    large = small.repeat(factor, axis=0).repeat(factor, axis=1)[:height, :width]
    return box_mean(large, factor)


def shrink(image: np.ndarray, factor: int) -> np.ndarray:
    """Mean over blocks of `factor` x `factor` pixels."""
    height, width = image.shape[0] // factor, image.shape[1] // factor
    return image.reshape(height, factor, width, factor, *image.shape[2:]).mean(axis=(1, 3), dtype=np.float32)


_BAND = 48  # rows lit at once, so that the intermediate arrays stay in the cache
_SHADOW_LENGTH = 7.0  # metres of ground around a body that its shadows are followed


def _cube(centre: np.ndarray, reach: float) -> np.ndarray:
    corners = np.stack(np.meshgrid(*[[-reach, reach]] * 3), axis=-1).reshape(-1, 3)
    return (centre + corners).astype(np.float32)


def _ground_around(occluder: Occluder) -> np.ndarray:
    corners = _cube(occluder.centre, _SHADOW_LENGTH)
    corners[:, 2] = np.clip(corners[:, 2], 0, 0.25)
    return corners


class Shader:
    """Lights one buffer in several ways; shadows and openness are shared."""

    def __init__(self, buffer: Buffer, occluders: list[Occluder]):
        self.buffer = buffer
        self.solid = np.isfinite(buffer.depth)
        # Planes (3, H, W) rather than triples: every sum below then runs over contiguous memory.
        self.points = np.ascontiguousarray(np.moveaxis(buffer.points, -1, 0))
        self.normals = np.ascontiguousarray(np.moveaxis(buffer.normal, -1, 0))
        rays = np.moveaxis(buffer.camera.rays, -1, 0)
        self.view = -rays / np.sqrt((rays * rays).sum(0))
        self.near_ground = self.solid & (self.points[2] < 0.25)
        # Where each body can darken the ground: its box in the picture, the pixels in it and their points.
        self.grounds = []
        for occluder in occluders:
            box = buffer.camera.box(_ground_around(occluder))
            if box is not None:
                rows, columns = np.nonzero(self.near_ground[box])
                rows, columns = rows + box[0].start, columns + box[1].start
                points = self.points[:, rows, columns]
                near = np.hypot(*(points[:2] - occluder.centre[:2, None])) < _SHADOW_LENGTH
                self.grounds.append((occluder, rows[near], columns[near], points[:, near].astype(np.float32)))
        self.open_sky = self._openness()

    def _openness(self) -> np.ndarray:
        """How open the sky is above each pixel: less on the ground beside and under bodies."""
        open_sky = np.ones(self.solid.shape, np.float32)
        for occluder, rows, columns, points in self.grounds:
            local = (points[:2] - occluder.centre[:2, None]) / (occluder.radii[:2, None] * 1.25)
            away = np.maximum((local * local).sum(0) - 0.35, 0)
            open_sky[rows, columns] *= 1 - 0.75 * np.exp(-2.2 * away)
        return open_sky

    def _shadows(self, light: Light) -> np.ndarray:
        """Share of a light that reaches each pixel of the ground past the bodies; soft edges."""
        through = np.ones(self.solid.shape, np.float32)
        for occluder, rows, columns, points in self.grounds:
            away = occluder.centre[:2] - light.position[:2]
            far = float(np.linalg.norm(away))
            if far > light.reach:
                continue
            # By similar triangles the shadow ends here; the penumbra and the body itself come on top.
            length = far * 2 * occluder.centre[2] / (light.position[2] - 2 * occluder.centre[2])
            x, y = points[:2] - occluder.centre[:2, None]
            size = 1.3 * occluder.radii[:2].max() + 0.3
            along = (x * away[0] + y * away[1]) / far
            across = np.abs(x * away[1] - y * away[0]) / far
            shaded = np.flatnonzero((along > -size) & (along < length + size) & (across < size))
            rows, columns, points = rows[shaded], columns[shaded], points[:, shaded]
            radii = occluder.radii[:, None].astype(np.float32)
            start = (points - occluder.centre[:, None].astype(np.float32)) / radii
            ray = (light.position[:, None].astype(np.float32) - points) / radii
            closest = np.clip(-(start * ray).sum(0) / (ray * ray).sum(0), 0, 1)
            soft = np.clip((np.sqrt(((start + closest * ray) ** 2).sum(0)) - 0.75) / 0.4, 0, 1)
            through[rows, columns] *= 0.12 + 0.88 * soft * soft * (3 - 2 * soft)
        return through

    def night(self, lights: list[Light], city: np.ndarray, haze: float) -> np.ndarray:
        """Linear radiance (H, W, 3) under the lamps; `city` is the colour of the sky's faint glow."""
        buffer = self.buffer
        up = 0.5 + 0.5 * buffer.normal[..., 2]
        irradiance = (0.035 * up * self.open_sky)[..., None] * city
        shine = np.zeros_like(irradiance)
        for light in lights:
            box = buffer.camera.box(_cube(light.position, light.reach)) if light.power > 0 else None
            if box is None:
                continue
            shadows = self._shadows(light) if light.casts_shadows else None
            for top in range(box[0].start, box[0].stop, _BAND):
                band = slice(top, min(top + _BAND, box[0].stop)), box[1]
                self._add_light(light, band, shadows, irradiance, shine)
        radiance = buffer.albedo * irradiance / np.float32(np.pi) + 0.5 * shine + buffer.emission
        return self._air(radiance, city, haze)

    def _add_light(self, light: Light, box, shadows, irradiance, shine) -> None:
        x, y, z = light.position.astype(np.float32)[:, None, None] - self.points[:, *box]
        square = x * x + y * y + z * z
        window = np.clip(1 - square / np.float32(light.reach**2), 0, 1)
        if not window.any():
            return
        scale = 1 / np.sqrt(square)
        falloff = np.float32(light.power) * window * window / (square + 0.5)
        if light.direction is not None:
            along = light.direction.astype(np.float32)
            aim = -(x * along[0] + y * along[1] + z * along[2]) * scale
            falloff *= np.clip((aim - light.cone) / (1 - light.cone), 0, 1) ** np.float32(light.focus)
        if shadows is not None:
            falloff *= shadows[box]
        nx, ny, nz = self.normals[:, *box]
        facing = np.clip((x * nx + y * ny + z * nz) * scale, 0, 1)
        colour = light.colour.astype(np.float32)
        irradiance[box] += (falloff * facing)[..., None] * colour
        vx, vy, vz = self.view[:, *box]
        hx, hy, hz = x * scale + vx, y * scale + vy, z * scale + vz
        mirror = np.clip((hx * nx + hy * ny + hz * nz) / np.sqrt(hx * hx + hy * hy + hz * hz), 0, 1)
        for _ in range(6):  # to the power of 64
            mirror = mirror * mirror
        shine[box] += (falloff * mirror * self.buffer.gloss[box])[..., None] * colour

    def _air(self, radiance: np.ndarray, city: np.ndarray, haze: float) -> np.ndarray:
        rays = self.buffer.camera.rays
        rise = np.clip(rays[..., 2] / np.linalg.norm(rays, axis=-1), 0, 1)
        sky = (0.004 + 0.020 * np.exp(-7 * rise))[..., None] * city + 0.0015 * np.array(
            [0.5, 0.7, 1.0], np.float32
        )
        depth = np.where(self.solid, self.buffer.depth, 0)
        clear = np.exp(-depth * haze)[..., None]
        seen = radiance * clear + 0.02 * (1 - clear) * city
        return np.where(self.solid[..., None], seen, sky).astype(np.float32)

    def day(self) -> np.ndarray:
        """Linear radiance (H, W, 3) under a bright overcast sky with a low sun behind the camera."""
        buffer = self.buffer
        normal = buffer.normal
        up = 0.62 + 0.38 * normal[..., 2]
        sun = np.clip(normal @ np.array([0.35, -0.62, 0.70], np.float32), 0, 1)
        light = (up * self.open_sky)[..., None] * np.array([0.92, 0.98, 1.06], np.float32)
        light = light + (0.75 * sun * (0.35 + 0.65 * self.open_sky))[..., None] * np.array(
            [1.05, 1.0, 0.92], np.float32
        )
        radiance = buffer.albedo * light + 0.25 * np.minimum(buffer.emission, 1)
        radiance += (buffer.gloss * 0.22 * (0.4 + 0.6 * np.abs(normal[..., 2])))[..., None]
        rays = buffer.camera.rays
        rise = np.clip(rays[..., 2] / np.linalg.norm(rays, axis=-1), 0, 1)[..., None]
        sky = (
            np.array([0.80, 0.84, 0.88], np.float32) * (1 - rise)
            + np.array([0.50, 0.62, 0.80], np.float32) * rise
        )
        clear = np.exp(-np.where(self.solid, buffer.depth, 0) / 500)[..., None]
        return np.where(self.solid[..., None], radiance * clear + (1 - clear) * sky * 0.8, sky).astype(
            np.float32
        )

    def heat(self) -> np.ndarray:
        """Apparent temperature (H, W): the sky is cold and warms towards the horizon."""
        rays = self.buffer.camera.rays
        rise = np.clip(rays[..., 2] / np.linalg.norm(rays, axis=-1), 0, 1)
        sky = 9.0 - 30.0 * np.sqrt(rise)
        depth = np.where(self.solid, self.buffer.depth, 0)
        clear = np.exp(-depth / 400)
        # Surfaces that face the clear sky lose heat; walls and what stands under trees keep it.
        cooled = self.buffer.temperature - 1.2 * np.clip(self.buffer.normal[..., 2], 0, 1) * self.open_sky
        cooled += 2.5 * (1 - self.open_sky)
        return np.where(self.solid, cooled * clear + 11.5 * (1 - clear), sky).astype(np.float32)


def bloom(radiance: np.ndarray) -> np.ndarray:
    """Light scattered in the lens and the air around bright spots."""
    bright = np.maximum(radiance - 0.6, 0)
    scale = max(1, radiance.shape[1] // 160)
    halo = (
        0.10 * soft_blur(bright, scale)
        + 0.06 * wide_blur(bright, 4 * scale)
        + 0.04 * wide_blur(bright, 14 * scale)
    )
    return radiance + halo


def srgb(linear: np.ndarray) -> np.ndarray:
    """Linear light in [0, 1] to the sRGB curve."""
    linear = np.clip(linear, 0, 1)
    return np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055).astype(
        np.float32
    )


def visible_camera(
    radiance: np.ndarray, rng: np.random.Generator, *, exposure: float, noise: float
) -> np.ndarray:
    """Lens, sensor and tone curve: vignette, shot and read noise, soft highlights; sRGB in [0, 1]."""
    height, width = radiance.shape[:2]
    y, x = np.mgrid[-1 : 1 : height * 1j, -1 : 1 : width * 1j]
    vignette = (1 - 0.22 * (x * x + y * y) / 2).astype(np.float32)[..., None]
    signal = bloom(radiance) * vignette * exposure
    if noise > 0:
        fine, coarse = rng.standard_normal((2, height, width, 3), dtype=np.float32)
        grain = 0.8 * fine + 1.1 * box_mean(coarse, 1)  # demosaicing spreads part of the noise
        deviation = np.sqrt(np.maximum(signal, 0) * 0.0022 + 0.0016**2) * noise
        signal = signal + grain * deviation
        signal += rng.standard_normal((height, 1, 1), dtype=np.float32) * 0.00025 * noise  # row noise
    return srgb(1 - np.exp(-np.maximum(signal, 0)))


def thermal_camera(heat: np.ndarray, rng: np.random.Generator, *, low: float, high: float) -> np.ndarray:
    """An uncooled thermal camera: slight blur, fixed columns, some noise, soft ends of the scale; [0, 1]."""
    height, width = heat.shape
    level = (heat - low) / (high - low)
    level = 0.55 * level + 0.45 * box_mean(level, 1)
    level += 0.0015 * rng.standard_normal((1, width)) + 0.006 * rng.standard_normal((height, width))
    # Linear in the middle, bent towards 0 and 1 at the ends, as automatic gain does.
    toe = 0.08 * np.exp(np.minimum(level - 0.08, 0) / 0.08)
    level = np.where(level < 0.08, toe, level)
    knee = 1 - 0.15 * np.exp(np.minimum(0.85 - level, 0) / 0.15)
    return np.clip(np.where(level > 0.85, knee, level), 0, 1).astype(np.float32)
