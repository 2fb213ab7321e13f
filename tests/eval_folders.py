"""Small folders of pairs and results for the tests of the evaluation."""

import numpy as np
from PIL import Image

HEIGHT, WIDTH = 96, 128


def picture(seed, height=HEIGHT, width=WIDTH):
    """A smooth colour picture with edges and noise, (H, W, 3) uint8."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:height, :width]
    waves = [
        np.sin(x / rng.uniform(4, 20) + rng.uniform(0, 6)) + np.cos(y / rng.uniform(4, 20)) for _ in range(3)
    ]
    image = 110 + 40 * np.stack(waves, -1) + rng.normal(0, 6, (height, width, 3))
    cy, cx = rng.integers(20, height - 20), rng.integers(20, width - 20)
    image[cy - 12 : cy + 12, cx - 8 : cx + 8] += 90
    return np.clip(image, 0, 255).astype(np.uint8)


def save(path, image):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(image).save(path)


def make_pairs(root, stems=("a", "b", "c")):
    """Writes root/ir and root/vi; returns both folders."""
    for number, stem in enumerate(stems):
        save(root / "vi" / f"{stem}.png", picture(number))
        save(root / "ir" / f"{stem}.png", picture(100 + number)[..., 0])
    return root / "ir", root / "vi"


def make_results(root, stems=("a", "b", "c"), seed=200, scale=4):
    """Writes root/x (enlarged) and root/x_lr (fused); returns both folders."""
    for number, stem in enumerate(stems):
        fused = picture(seed + number)
        large = Image.fromarray(fused).resize((WIDTH * scale, HEIGHT * scale), Image.Resampling.LANCZOS)
        save(root / "x_lr" / f"{stem}.png", fused)
        save(root / "x" / f"{stem}.png", np.asarray(large))
    return root / "x", root / "x_lr"
