"""Who may import whom, read from the source; and what importing the package must not bring along."""

import ast
import pathlib
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[1]
PACKAGES = ("esr_lefuse_jax", "weights_conversion")

# A room, and the rooms of the package that it may use besides itself and `errors`. Rooms not named here are top
# level modules and commands: they may use everything.
ALLOWED = {
    "errors": set(),
    "color": set(),
    "ops": set(),
    "models": {"ops", "color"},
    "metrics": set(),
    "synthetic": {"data"},
    "images": {"image_writing", "atomic"},
    "pairs": {"images"},
    "data": {"images", "image_writing", "pairs", "layouts", "atomic"},
    "losses": {"models", "ops", "color"},
    "inference": {
        "models", "ops", "color", "weights", "weights_shipped", "images", "image_writing", "pairs", "atomic",
    },
}  # fmt: skip
# Rooms that run without jax: reading data and measuring pictures must not wait for it or take a device.
WITHOUT_JAX = (
    "errors",
    "atomic",
    "images",
    "image_writing",
    "pairs",
    "layouts",
    "metrics",
    "data",
    "synthetic",
)


def _sources():
    for package in PACKAGES:
        yield from (ROOT / package).rglob("*.py")


def _imports(path: pathlib.Path) -> set[str]:
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            names.add(node.module)
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return names


def _room(path: pathlib.Path) -> str:
    return path.relative_to(ROOT).with_suffix("").parts[1]


def _rooms_used(path: pathlib.Path) -> set[str]:
    parts = [name.split(".") for name in _imports(path)]
    return {p[1] for p in parts if p[0] == "esr_lefuse_jax" and len(p) > 1 and not p[1].startswith("_")}


def test_no_torch_tensorflow_configs_or_launch():
    banned = {"torch", "torchvision", "tensorflow", "configs", "launch", "tests"}
    for path in _sources():
        roots = {name.split(".")[0] for name in _imports(path)}
        assert not roots & banned, f"{path} imports {roots & banned}"


@pytest.mark.parametrize("room", ALLOWED)
def test_rooms_import_one_way(room):
    files = [path for path in _sources() if _room(path) == room]
    files = [path for path in files if path.relative_to(ROOT).parts[0] == "esr_lefuse_jax"]
    assert files, f"no such room: {room}"
    for path in files:
        extra = _rooms_used(path) - ALLOWED[room] - {room, "errors", "version"}
        assert not extra, f"{path} imports {sorted(extra)}"


def test_the_converter_uses_only_the_bottom_of_the_package():
    for path in (ROOT / "weights_conversion").rglob("*.py"):
        assert _rooms_used(path) <= {"errors", "atomic"}, path


@pytest.mark.parametrize("room", WITHOUT_JAX)
def test_rooms_without_jax(room):
    for path in _sources():
        if path.relative_to(ROOT).parts[0] == "esr_lefuse_jax" and _room(path) == room:
            roots = {name.split(".")[0] for name in _imports(path)}
            assert not roots & {"jax", "flax", "optax", "orbax"}, path


def test_importing_the_pipeline_brings_no_other_framework():
    code = (
        "import sys, esr_lefuse_jax; esr_lefuse_jax.load; import esr_lefuse_jax.training.loop;"
        "print([m for m in ('torch', 'tensorflow', 'torchvision') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert done.stdout.strip() == "[]"


def test_the_package_itself_is_light():
    code = (
        "import sys, esr_lefuse_jax, esr_lefuse_jax.cli; print('jax' in sys.modules, 'numpy' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert done.stdout.strip() == "False False"
