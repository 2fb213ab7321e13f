"""The code runs no text and opens no file in a way that could run what is in it."""

import ast
import pathlib

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[1]
FOLDERS = ("esr_lefuse_jax", "weights_conversion", "launch", "configs", "benchmarks", "tests")
FORBIDDEN = {"eval", "exec", "builtins.eval", "builtins.exec", "os.system", "os.popen"}
UNPICKLERS = {"pickle", "cPickle", "_pickle", "dill", "cloudpickle", "joblib", "shelve", "marshal"}


def _dotted(node):
    if isinstance(node, ast.Attribute):
        return f"{_dotted(node.value)}.{node.attr}"
    return node.id if isinstance(node, ast.Name) else ""


def _aliases(tree):
    """Local name to what it was imported as, so that `import pickle as p` and `from os import system` are
    seen."""
    names = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {
                a.asname or a.name.split(".")[0]: a.name if a.asname else a.name.split(".")[0]
                for a in node.names
            }
        elif isinstance(node, ast.ImportFrom) and node.module:
            names |= {a.asname or a.name: f"{node.module}.{a.name}" for a in node.names}
    return names


def _is_true(keyword):
    return not (isinstance(keyword.value, ast.Constant) and keyword.value.value in (False, None, 0))


def find_unsafe_calls(source):
    """Lists "line: what" for calls that run text, start a shell, or unpickle."""
    tree = ast.parse(source)
    names = _aliases(tree)
    found = []
    for node in ast.walk(tree):
        if not isinstance(node, ast.Call):
            continue
        first, _, rest = _dotted(node.func).partition(".")
        name = f"{names.get(first, first)}{'.' if rest else ''}{rest}"
        keywords = {keyword.arg: keyword for keyword in node.keywords}
        module, _, function = name.rpartition(".")
        what = None
        unpickles = module.split(".")[0] in UNPICKLERS and function in ("load", "loads", "Unpickler", "open")
        if name in FORBIDDEN or name.endswith(("yaml.load", "yaml.unsafe_load")) or unpickles:
            what = name
        elif name == "torch.load" and not ("weights_only" in keywords and _is_true(keywords["weights_only"])):
            what = "torch.load without weights_only=True"
        for flag in ("shell", "allow_pickle"):
            if flag in keywords and _is_true(keywords[flag]):
                what = f"{name} with {flag}"
        if what:
            found.append(f"{node.lineno}: {what}")
    return found


# The one place that may: it proves that the hostile files of the tests would run in the standard unpickler.
ALLOWED = {("tests/test_pth_reader.py", "pickle.Unpickler")}


def _sources():
    return [path for folder in FOLDERS for path in sorted((ROOT / folder).rglob("*.py"))]


def test_no_unsafe_calls():
    sources = _sources()
    assert len(sources) > 30
    found = []
    for path in sources:
        name = path.relative_to(ROOT).as_posix()
        for call in find_unsafe_calls(path.read_text(encoding="utf-8")):
            if (name, call.split(": ")[1]) not in ALLOWED:
                found.append(f"{name}:{call}")
    assert found == []


@pytest.mark.parametrize(
    "source",
    [
        "import pickle\npickle.load(f)",
        "import pickle as p\np.loads(b)",
        "from pickle import load as read\nread(f)",
        "import dill\ndill.load(f)",
        "import torch\ntorch.load(f)",
        "import torch\ntorch.load(f, weights_only=False)",
        "import numpy as np\nnp.load(f, allow_pickle=True)",
        "import numpy as np\nnp.load(f, allow_pickle=flag)",
        "import subprocess\nsubprocess.run(c, shell=True)",
        "import os\nos.system(c)",
        "eval(x)",
        "exec(x)",
        "from builtins import eval as calculate\ncalculate(x)",
    ],
)
def test_the_scan_sees(source):
    assert find_unsafe_calls(source)


@pytest.mark.parametrize(
    "source",
    [
        "import torch\ntorch.load(f, weights_only=True)",
        "import numpy as np\nnp.load(f, allow_pickle=False)",
        "model.eval()",
        "import json\njson.load(f)",
        "import subprocess\nsubprocess.run([c], shell=False)",
    ],
)
def test_the_scan_lets_pass(source):
    assert find_unsafe_calls(source) == []


def test_the_converter_needs_neither_jax_nor_torch():
    for path in sorted((ROOT / "weights_conversion").glob("*.py")):
        imported = _aliases(ast.parse(path.read_text(encoding="utf-8"))).values()
        packages = {name.split(".")[0] for name in imported}
        assert not packages & {"jax", "flax", "torch", "orbax", "pickle"}, path.name
