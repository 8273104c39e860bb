"""Imports run one way, nothing private is used outside compat, and the README quotes the loop as it is."""

import ast
import re
from pathlib import Path

import pytest

from tests import support_table

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "customfit"

# Each module may import from those in rows above its own, and from its own row's folder.
LAYERS = [
    {"compat", "_version"},
    {"arguments", "layers", "replicas"},
    {"kept"},
    {"clipping", "optimizers"},
    {"accumulation", "gradient_metrics", "debug"},
    {"nonfinite"},
    {"gradients", "data", "stopping", "pace", "limits", "signals", "lock", "randomness", "packing"},
    {"graph", "callbacks", "storage", "dryrun", "plan"},
    {"xla", "distribute"},
    {"execution", "hooks"},
    {"evaluation"},
    {"validation", "state"},
    {"fingerprint"},
    {"checkpoint"},
    {"resumption"},
    {"session"},
    {"loop"},
    {"mixin"},
    {"model"},
    {"resume_testing"},
    {"testing"},
    {"__init__"},
]


ALLOWED = ("_compiled_steps", "_replace")  # ours, and one of every NamedTuple


def modules():
    return sorted(PACKAGE.rglob("*.py"))


def name_of(path):
    return path.relative_to(PACKAGE).with_suffix("").parts[0]


def imported(path):
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] == "customfit":
            parts = node.module.split(".")
            yield from [parts[1]] if len(parts) > 1 else [alias.name for alias in node.names]
        elif isinstance(node, ast.Import):
            yield from [alias.name.split(".")[1] for alias in node.names if alias.name.startswith("customfit.")]


@pytest.mark.parametrize("path", modules(), ids=lambda path: str(path.relative_to(PACKAGE)))
def test_imports_run_one_way(path):
    row = {name: index for index, names in enumerate(LAYERS) for name in names}
    for name in imported(path):
        assert name == name_of(path) or row[name] < row[name_of(path)], f"{path.name} imports {name}"


@pytest.mark.parametrize("path", modules(), ids=lambda path: str(path.relative_to(PACKAGE)))
def test_nothing_private_and_no_version_outside_compat(path):
    if path.name == "compat.py":
        return
    text = path.read_text()
    assert not re.search(r"(keras|tensorflow)[a-z_.]*\.(src|python)\b", text)
    assert "KERAS_VERSION" not in text
    assert "IS_KERAS_3" not in text
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Attribute) and re.match(r"_[a-z]", node.attr):
            owner = ast.unparse(node.value)
            assert owner in ("self", "cls", "_KeepsItsBases") or node.attr in ALLOWED, f"{owner}.{node.attr}"


def test_the_loop_fits_on_one_screen():
    assert len((PACKAGE / "loop.py").read_text().splitlines()) <= 50


def test_the_readme_quotes_the_loop_as_it_is():
    loop = (PACKAGE / "loop.py").read_text()
    function = loop[loop.index("def run_epochs") :].strip()
    assert f"```python\n{function}\n```" in (ROOT / "README.md").read_text()


def test_the_readme_s_table_is_what_the_tests_cover():
    readme = (ROOT / "README.md").read_text()
    begin, end = readme.index(support_table.BEGIN) + len(support_table.BEGIN), readme.index(support_table.END)
    assert readme[begin:end] == support_table.table(), "run `python tests/support_table.py`"
