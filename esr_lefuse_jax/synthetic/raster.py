"""A small ray caster over few, large primitives: camera, surface buffer, polygons, round bodies.

World axes: x to the right, y along the street, z up, in metres. Each pixel keeps the nearest surface; a
material is a function of surface coordinates that is asked only about the pixels where its primitive is seen.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

_NEAR = 0.3


@dataclass
class Surface:
    """What a material says about n points; scalars and (3,) rows are spread over the points.

    Attributes:
        albedo: (n, 3) linear reflectance.
        temperature: (n,) degrees Celsius as a thermal camera sees it.
        emission: (n, 3) linear radiance at night.
        gloss: (n,) strength of the mirror-like part.
        keep: (n,) False where there is a hole.
    """

    albedo: np.ndarray | Sequence[float]
    temperature: np.ndarray | float
    emission: np.ndarray | Sequence[float] | float = 0.0
    gloss: np.ndarray | float = 0.0
    keep: np.ndarray | None = None


# (u, v, points): metres along the surface and world points (n, 3); round bodies give angle-like u, v.
Material = Callable[[np.ndarray, np.ndarray, np.ndarray], Surface]


def _unit(vector: np.ndarray) -> np.ndarray:
    return vector / np.linalg.norm(vector)


class Camera:
    """A pinhole camera; rays have length one along the view axis, so a ray parameter is a depth in metres."""

    def __init__(self, height: int, width: int, *, position, yaw: float, pitch: float, focal: float):
        """Places the camera; `focal` is in image widths, angles in radians (yaw to the right, pitch up)."""
        self.height, self.width = height, width
        self.position = np.asarray(position, np.float32)
        forward = np.array([np.sin(yaw) * np.cos(pitch), np.cos(yaw) * np.cos(pitch), np.sin(pitch)])
        right = np.array([np.cos(yaw), -np.sin(yaw), 0.0])
        self.axes = np.stack([right, np.cross(right, forward), forward]).astype(np.float32)
        self.focal = focal * width
        columns = (np.arange(width, dtype=np.float32) + 0.5 - width / 2) / self.focal
        rows = (height / 2 - np.arange(height, dtype=np.float32) - 0.5) / self.focal
        plane = np.stack(np.broadcast_arrays(columns[None, :], rows[:, None], np.float32(1)), axis=-1)
        self.rays = (plane @ self.axes).astype(np.float32)

    def box(self, points: np.ndarray) -> tuple[slice, slice] | None:
        """The pixels that the convex hull of `points` (n, 3) can cover; None when it is out of sight."""
        local = (points - self.position) @ self.axes.T
        if (local[:, 2] < _NEAR).all():
            return None
        if (local[:, 2] < _NEAR).any():
            return slice(0, self.height), slice(0, self.width)
        x = local[:, 0] / local[:, 2] * self.focal + self.width / 2
        y = self.height / 2 - local[:, 1] / local[:, 2] * self.focal
        left, right = max(0, int(x.min()) - 1), min(self.width, int(x.max()) + 2)
        top, bottom = max(0, int(y.min()) - 1), min(self.height, int(y.max()) + 2)
        if left >= right or top >= bottom:
            return None
        return slice(top, bottom), slice(left, right)


class Buffer:
    """The nearest surface of every pixel."""

    def __init__(self, camera: Camera):
        shape = (camera.height, camera.width)
        self.camera = camera
        self.depth = np.full(shape, np.inf, np.float32)
        self.normal = np.zeros((*shape, 3), np.float32)
        self.albedo = np.zeros((*shape, 3), np.float32)
        self.emission = np.zeros((*shape, 3), np.float32)
        self.temperature = np.zeros(shape, np.float32)
        self.gloss = np.zeros(shape, np.float32)

    @property
    def points(self) -> np.ndarray:
        """World points (H, W, 3); far away where nothing was hit."""
        depth = np.where(np.isfinite(self.depth), self.depth, np.float32(1e4))
        return self.camera.position + self.camera.rays * depth[..., None]

    def write(self, box, depth, hit, material: Material, coordinates, normals) -> None:
        """Keeps `hit` pixels of `box` that are nearest so far; the callables are asked only about those."""
        rows, columns = np.nonzero(hit & (depth > _NEAR) & (depth < self.depth[box]))
        if rows.size == 0:
            return
        nearest = depth[rows, columns]
        rows, columns = rows + box[0].start, columns + box[1].start
        points = self.camera.position + self.camera.rays[rows, columns] * nearest[:, None]
        u, v = coordinates(points)
        surface = material(u, v, points)
        where: tuple = (rows, columns)
        normal = normals(points)

        def kept(value, size):
            value = np.broadcast_to(np.asarray(value, np.float32), size)
            return value if surface.keep is None else value[surface.keep]

        count = rows.size
        if surface.keep is not None:
            where = (rows[surface.keep], columns[surface.keep])
        self.depth[where] = kept(nearest, (count,))
        self.normal[where] = kept(normal, (count, 3))
        self.albedo[where] = kept(surface.albedo, (count, 3))
        self.emission[where] = kept(surface.emission, (count, 3))
        self.temperature[where] = kept(surface.temperature, (count,))
        self.gloss[where] = kept(surface.gloss, (count,))

    def polygon(self, corners, material: Material, *, bulge=None) -> None:
        """A convex planar polygon; u runs along the first edge, v at right angles to it towards the others.

        `bulge` (centre (3,), strength) bends the normals away from a centre, so that flat faces of a body
        catch the light as rounded ones do.
        """
        corners = np.asarray(corners, np.float32)
        box = self.camera.box(corners)
        if box is None:
            return
        first = _unit(corners[1] - corners[0])
        normal = _unit(np.cross(first, corners[-1] - corners[0]))
        second = np.cross(normal, first)
        if (corners[-1] - corners[0]) @ second < 0:
            second = -second
        rays = self.camera.rays[box]
        facing = rays @ normal
        if (corners[0] - self.camera.position) @ normal > 0:
            normal = -normal  # both sides are painted; the normal looks at the camera
            facing = -facing
        with np.errstate(divide="ignore", invalid="ignore"):
            depth = ((corners[0] - self.camera.position) @ normal) / facing
            offset = self.camera.position - corners[0]
            u = offset @ first + depth * (rays @ first)
            v = offset @ second + depth * (rays @ second)
        flat = np.stack([(corners - corners[0]) @ first, (corners - corners[0]) @ second], axis=-1)
        hit = np.isfinite(depth)
        area = 0.0
        for (x0, y0), (x1, y1) in zip(flat, np.roll(flat, -1, axis=0), strict=True):
            area += x0 * y1 - x1 * y0
        with np.errstate(invalid="ignore"):
            for (x0, y0), (x1, y1) in zip(flat, np.roll(flat, -1, axis=0), strict=True):
                side = (x1 - x0) * (v - y0) - (y1 - y0) * (u - x0)
                hit &= side * np.sign(area) >= 0

        def coordinates(points):
            return (points - corners[0]) @ first, (points - corners[0]) @ second

        def normals(points):
            if bulge is None:
                return normal
            bent = normal + bulge[1] * (points - np.asarray(bulge[0], np.float32))
            return bent / np.linalg.norm(bent, axis=-1, keepdims=True)

        self.write(box, depth, hit, material, coordinates, normals)

    def ellipsoid(self, centre, radii, material: Material, *, yaw: float = 0.0) -> None:
        """An ellipsoid with half-axes `radii`, turned by `yaw` about z; u is azimuth, v height in [-1, 1]."""
        centre, radii = np.asarray(centre, np.float32), np.asarray(radii, np.float32)
        reach = radii.max()
        cube = np.stack(np.meshgrid(*[[-reach, reach]] * 3), axis=-1).reshape(-1, 3).astype(np.float32)
        box = self.camera.box(centre + cube)
        if box is None:
            return
        cosine, sine = np.cos(yaw), np.sin(yaw)
        turn = np.array([[cosine, sine, 0], [-sine, cosine, 0], [0, 0, 1]], np.float32)
        to_unit = (turn / radii[:, None]).T  # row vectors: world -> unit sphere
        rays = self.camera.rays[box] @ to_unit
        start = (self.camera.position - centre) @ to_unit
        a = np.einsum("hwc,hwc->hw", rays, rays)
        b = rays @ start
        discriminant = b * b - a * (start @ start - 1)
        hit = discriminant > 0
        depth = (-b - np.sqrt(np.maximum(discriminant, 0))) / a

        def coordinates(points):
            local = (points - centre) @ to_unit
            return np.arctan2(local[:, 0], -local[:, 1]), local[:, 2]

        def normals(points):
            outward = ((points - centre) @ to_unit) @ to_unit.T
            return outward / np.linalg.norm(outward, axis=-1, keepdims=True)

        self.write(box, depth, hit, material, coordinates, normals)

    def capsule(self, start, end, radius: float, material: Material) -> None:
        """A round bar between two points; u is the angle about it, v the way along it in [0, 1]."""
        start, end = np.asarray(start, np.float32), np.asarray(end, np.float32)
        cube = np.stack(np.meshgrid(*[[-radius, radius]] * 3), axis=-1).reshape(-1, 3).astype(np.float32)
        box = self.camera.box(np.concatenate([start + cube, end + cube]))
        if box is None:
            return
        length = float(np.linalg.norm(end - start))
        axis = (end - start) / length
        rays = self.camera.rays[box]
        offset = self.camera.position - start
        along_ray, along_offset = rays @ axis, float(offset @ axis)
        a = np.einsum("hwc,hwc->hw", rays, rays) - along_ray**2
        b = rays @ offset - along_ray * along_offset
        discriminant = b * b - a * (offset @ offset - along_offset**2 - radius**2)
        with np.errstate(divide="ignore", invalid="ignore"):
            depth = (-b - np.sqrt(np.maximum(discriminant, 0))) / a
            along = along_offset + depth * along_ray
            hit = (discriminant > 0) & (along >= -0.3 * radius) & (along <= length + 0.3 * radius)

        def coordinates(points):
            way = (points - start) @ axis
            across = points - start - way[:, None] * axis
            return np.arctan2(across[:, 0], -across[:, 1]), way / length

        def normals(points):
            across = points - start - ((points - start) @ axis)[:, None] * axis
            return across / np.maximum(np.linalg.norm(across, axis=-1, keepdims=True), 1e-6)

        self.write(box, np.where(hit, depth, np.inf), hit, material, coordinates, normals)
