"""Which infrared file belongs to which visible file.

Pairing is by stem: the path below its folder without the ending, so that `ir/a/01.png` belongs to
`vi/a/01.jpg`. Everything that cannot be paired is said before any work starts: nothing is dropped in silence,
except hidden files and the ones that desktops leave behind.
"""

import os
import re
import unicodedata
from collections import defaultdict, deque
from dataclasses import dataclass
from pathlib import Path

from esr_lefuse_jax.errors import ImageError, PairError
from esr_lefuse_jax.images import IMAGE_SUFFIXES, read_header

_DESKTOP_FILES = frozenset({"thumbs.db", "desktop.ini"})
_INFRARED_WORDS = ("ir", "inf", "infrared", "thermal", "lwir", "tir", "t", "i")
_VISIBLE_WORDS = ("vi", "vis", "visible", "visual", "rgb", "eo", "v", "w", "z")


@dataclass(frozen=True)
class Pair:
    """One scene: `stem` names it (with `/` when it lies in a subfolder), the paths hold its two images."""

    stem: str
    visible: Path
    infrared: Path


def list_images(folder: str | os.PathLike) -> tuple[list[Path], list[str]]:
    """Lists the image files of a folder and its subfolders.

    Each folder and each file counts once, however many symbolic links lead to it; loops end by that. Real
    folders and files come before links, so the names do not depend on the links.

    Returns:
        The files, sorted by their path below `folder`, and one line for each entry that is left out.

    Raises:
        PairError: `folder` is no readable folder.
    """
    root = Path(folder)
    if not root.is_dir():
        raise PairError(f"{root}: no such folder")
    files: list[Path] = []
    file_links: list[Path] = []
    problems: list[str] = []
    seen_folders: set[tuple[int, int]] = set()
    real_folders, linked_folders = deque([root]), deque[Path]()
    while real_folders or linked_folders:
        current = real_folders.popleft() if real_folders else linked_folders.popleft()
        try:
            identity = _identity(current)
            if identity in seen_folders:
                continue
            seen_folders.add(identity)
            entries = sorted(os.scandir(current), key=lambda entry: entry.name)
        except OSError as error:
            if current == root:
                raise PairError(f"{root}: cannot be read: {error.strerror or error}") from error
            problems.append(f"{current}: folder cannot be read ({error.strerror or error})")
            continue
        for entry in entries:
            path = Path(entry.path)
            if entry.name.startswith(".") or entry.name.lower() in _DESKTOP_FILES:
                continue
            if path.is_dir():
                (linked_folders if entry.is_symlink() else real_folders).append(path)
            elif path.suffix.lower() not in IMAGE_SUFFIXES:
                problems.append(f"{path}: not an image file")
            elif not path.is_file():
                problems.append(f"{path}: broken link or special file")
            else:
                (file_links if entry.is_symlink() else files).append(path)
    seen_files = {_identity(path): path for path in files}
    for path in sorted(file_links):
        first = seen_files.setdefault(_identity(path), path)
        if first == path:
            files.append(path)
        else:
            problems.append(f"{path}: links to {first}, which is listed already")
    return sorted(files), sorted(problems)


def find_pairs(
    ir_dir: str | os.PathLike,
    vis_dir: str | os.PathLike,
    *,
    ir_suffix: str | None = None,
    vis_suffix: str | None = None,
    check_headers: bool = True,
    max_pixels: int | None = None,
) -> tuple[list[Pair], list[str]]:
    """Pairs the infrared images of one folder with the visible images of another (or of the same) by stem.

    Args:
        ir_dir: folder of infrared images, searched with its subfolders.
        vis_dir: folder of visible images; may be `ir_dir` when the names tell the two apart.
        ir_suffix: ending of the infrared stems that is no part of the common stem, such as `_ir`. None: stems
            are compared as they are, and when none agrees (or the folders are one) by common markers, such as
            `x_IR` and `x_VIS`, `IR_x` and `VIS_x`, `x_thermal` and `x_rgb`.
        vis_suffix: the same for the visible stems.
        check_headers: open each file's header: finds size mismatches, files that are no images, and oversized
            ones up front. Costs a fraction of a millisecond a file.
        max_pixels: limit for that check; the default of `images` when None.

    Returns:
        The pairs sorted by stem, and one line for each problem: unmatched files, stems that occur twice (none
        of theirs is paired), sizes that differ, files that are no images, broken links.

    Raises:
        PairError: a folder is missing or unreadable.
    """
    infrared_files, problems = list_images(ir_dir)
    same_folder = os.path.samefile(ir_dir, vis_dir) if os.path.isdir(vis_dir) else False
    if same_folder:
        visible_files = infrared_files
    else:
        visible_files, more = list_images(vis_dir)
        problems += more
    infrared = _by_stem(infrared_files, Path(ir_dir), ir_suffix or "")
    visible = _by_stem(visible_files, Path(vis_dir), vis_suffix or "")
    if ir_suffix is None and vis_suffix is None and (same_folder or not infrared.keys() & visible.keys()):
        marked_infrared = _by_marker(infrared_files, Path(ir_dir), _INFRARED_WORDS)
        marked_visible = _by_marker(visible_files, Path(vis_dir), _VISIBLE_WORDS)
        if same_folder or marked_infrared.keys() & marked_visible.keys():
            infrared, visible = marked_infrared, marked_visible
    if same_folder:
        used = {path for files in (*infrared.values(), *visible.values()) for path in files}
        problems += [
            f"{path}: neither infrared nor visible by its name" for path in infrared_files if path not in used
        ]
    problems += _duplicates(infrared, "infrared") + _duplicates(visible, "visible")
    pairs = []
    for stem in sorted(infrared.keys() | visible.keys()):
        if stem not in visible:
            problems += [f"{path}: no visible image of the stem {stem!r}" for path in infrared[stem]]
        elif stem not in infrared:
            problems += [f"{path}: no infrared image of the stem {stem!r}" for path in visible[stem]]
        elif len(infrared[stem]) == len(visible[stem]) == 1:
            pair = Pair(stem, visible[stem][0], infrared[stem][0])
            problem = _header_problem(pair, max_pixels) if check_headers else None
            if problem is None:
                pairs.append(pair)
            else:
                problems.append(problem)
    return pairs, problems


def _identity(path: Path) -> tuple[int, int]:
    status = path.stat()
    return status.st_dev, status.st_ino


def _stem(path: Path, root: Path) -> str:
    # NFC: a name with an accent is stored in two ways by different systems.
    return unicodedata.normalize("NFC", path.relative_to(root).with_suffix("").as_posix())


def _by_stem(files: list[Path], root: Path, suffix: str) -> dict[str, list[Path]]:
    found = defaultdict(list)
    for path in files:
        stem = _stem(path, root)
        if stem.endswith(suffix):
            found[stem.removesuffix(suffix)].append(path)
        else:
            found[stem].append(path)
    return dict(found)


def _by_marker(files: list[Path], root: Path, words: tuple[str, ...]) -> dict[str, list[Path]]:
    """Files named by one of `words` before or after the rest, set off by `_`, `-`, `.` or a space."""
    either = "|".join(sorted(words, key=len, reverse=True))
    pattern = re.compile(
        rf"(?:(?:{either})[_\-. ](?P<after>.+)|(?P<before>.+)[_\-. ](?:{either}))", re.IGNORECASE
    )
    found = defaultdict(list)
    for path in files:
        folder, _, name = _stem(path, root).rpartition("/")
        match = pattern.fullmatch(name)
        if match:
            rest = match["after"] or match["before"]
            found[f"{folder}/{rest}" if folder else rest].append(path)
    return dict(found)


def _duplicates(files: dict[str, list[Path]], kind: str) -> list[str]:
    return [
        f"{stem}: {len(paths)} {kind} images of one stem ({', '.join(map(str, paths))}): keep one"
        for stem, paths in sorted(files.items())
        if len(paths) > 1
    ]


def _header_problem(pair: Pair, max_pixels: int | None) -> str | None:
    try:
        visible = read_header(pair.visible, max_pixels=max_pixels)
        infrared = read_header(pair.infrared, max_pixels=max_pixels)
    except ImageError as error:
        return str(error)
    if (visible.height, visible.width) != (infrared.height, infrared.width):
        return (
            f"{pair.stem}: sizes differ: visible {visible.width}x{visible.height} ({pair.visible}), infrared "
            f"{infrared.width}x{infrared.height} ({pair.infrared}): align and resize one of them"
        )
    return None
