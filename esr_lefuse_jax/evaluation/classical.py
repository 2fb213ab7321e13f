"""Writing the classical baselines as folders that the evaluation reads like any other method."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from tqdm import tqdm

from esr_lefuse_jax import baselines
from esr_lefuse_jax.errors import ConfigError, ImageError, OutputError
from esr_lefuse_jax.evaluation.inputs import read_infrared_levels, read_levels
from esr_lefuse_jax.images import write_image
from esr_lefuse_jax.pairs import Pair


def expand(names: Sequence[str]) -> list[str]:
    """Checks names and replaces `all` by the five fusions.

    A name is a fusion (`max`), an enlargement of the shared fused images (`bicubic`), or a fusion with the
    enlargement of its result (`clahe_max+lanczos`).

    Raises:
      ConfigError: another name.
    """
    wanted: list[str] = []
    for name in names:
        wanted += list(baselines.FUSIONS) if name == "all" else [name]
    for name in wanted:
        fusion, plus, enlargement = name.partition("+")
        if plus:
            known = fusion in baselines.FUSIONS and enlargement in baselines.ENLARGEMENTS
        else:
            known = name in baselines.FUSIONS or name in baselines.ENLARGEMENTS
        if not known:
            raise ConfigError(
                f"--baselines {name}: all, one of {', '.join(baselines.FUSIONS)}, one of "
                f"{', '.join(baselines.ENLARGEMENTS)}, or two joined as clahe_max+bicubic"
            )
    return list(dict.fromkeys(wanted))


def write(
    names: Sequence[str],
    out_dir: Path,
    sources: Mapping[str, Pair],
    lr: Mapping[str, Path],
    *,
    scale: int = 4,
    jobs: int = 2,
    progress: bool = True,
) -> tuple[list[tuple[str, Path]], list[str]]:
    """Computes baselines and writes them below `out_dir`.

    Args:
      names: as `expand` gives them.
      out_dir: receives a folder per name; with both stages, it has the subfolders `lr` and `hr`.
      sources: pairs to fuse.
      lr: fused images to enlarge.
      scale: of the enlargements.
      jobs: images at once.
      progress: show a progress bar.

    Returns:
      (name, folder) of each baseline, and one line for each image that could not be read.

    Raises:
      ConfigError: the inputs that a baseline needs are missing.
      OutputError: a folder or an image cannot be written.
    """
    for name in names:
        if name in baselines.ENLARGEMENTS and not lr:
            raise ConfigError(f"--baselines {name} needs --lr_dir, the images to enlarge")
        if name not in baselines.ENLARGEMENTS and not sources:
            raise ConfigError(f"--baselines {name} needs --ir_dir and --vis_dir")
    folders = [(name, out_dir / name) for name in names]
    tasks: list[tuple[Path, Callable[[], np.ndarray]]] = []
    for name, folder in folders:
        fusion, plus, enlargement = name.partition("+")
        if name in baselines.ENLARGEMENTS:
            tasks += [(folder / f"{stem}.png", _enlarge(name, path, scale)) for stem, path in lr.items()]
            continue
        fused_folder = folder / "lr" if plus else folder
        for stem, pair in sources.items():
            fuse = _fuse(fusion, pair)
            tasks.append((fused_folder / f"{stem}.png", fuse))
            if plus:
                tasks.append((folder / "hr" / f"{stem}.png", _enlarge_result(enlargement, fuse, scale)))
    problems = []
    with ThreadPoolExecutor(max_workers=max(1, jobs)) as pool:
        done = pool.map(lambda task: _write_one(*task), tasks)
        for problem in tqdm(done, total=len(tasks), unit="image", desc="baselines", disable=not progress):
            problems += problem
    return folders, list(dict.fromkeys(problems))


def _fuse(name: str, pair: Pair) -> Callable[[], np.ndarray]:
    return lambda: baselines.fuse(name, read_levels(pair.visible), read_infrared_levels(pair.infrared))


def _enlarge(name: str, path: Path, scale: int) -> Callable[[], np.ndarray]:
    return lambda: baselines.ENLARGEMENTS[name](read_levels(path), scale)


def _enlarge_result(name: str, fuse: Callable[[], np.ndarray], scale: int) -> Callable[[], np.ndarray]:
    return lambda: baselines.ENLARGEMENTS[name](fuse(), scale)


def _write_one(path: Path, compute: Callable[[], np.ndarray]) -> Iterable[str]:
    try:
        image = compute()
    except ImageError as error:
        return [str(error)]
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(f"{path.parent}: cannot be created: {error.strerror or error}") from error
    write_image(path, image)
    return []
