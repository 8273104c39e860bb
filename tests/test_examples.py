"""Each example runs offline and does what it says; their exit codes tell."""

import ast
import os
import re
import sys
from pathlib import Path

import pytest

import customfit
from customfit import compat
from tests import processes

EXAMPLES = Path(__file__).parent.parent / "examples"
QUIET = 'os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")'


# What shows most of the library; the others are run with the site, whose gallery they make.
FIRST = ("quickstart", "fit_or_custom_fit", "tutorial", "own_loop", "gan", "sam")


def examples():
    for path in sorted(EXAMPLES.glob("*.py")):
        marks = [pytest.mark.slow] if path.stem in FIRST else [pytest.mark.slow, pytest.mark.site]
        yield pytest.param(path, marks=marks, id=path.stem)


@pytest.mark.parametrize("example", examples())
def test_example(example, tmp_path):
    for package in ("gymnasium", "matplotlib", "sklearn"):
        if re.search(rf"^ *(import|from) {package}\b", example.read_text(), re.MULTILINE):
            pytest.importorskip(package)
    if example.stem == "two_workers" and compat.IS_KERAS_3 and compat.KERAS_VERSION < (3, 8):
        pytest.skip("several workers need Keras 2, or 3.8 and newer: the example says so")
    environment = {**os.environ, "PYTHONPATH": os.fspath(EXAMPLES.parent)}
    command = [sys.executable, os.fspath(example)]
    result = processes.run(command, cwd=tmp_path, env=environment, timeout=600)
    assert result.returncode == 0, result.stdout[-3000:] + result.stderr[-3000:]
    if example.stem == "quickstart":
        assert (tmp_path / "history.png").stat().st_size > 10_000


@pytest.mark.parametrize("example", sorted(EXAMPLES.glob("*.py")), ids=lambda path: path.stem)
def test_an_example_quietens_tensorflow_before_it_imports_it(example):
    before, _import, _after = example.read_text().partition("import tensorflow as tf\n")
    assert QUIET in before
    assert "from customfit" not in before  # which imports TensorFlow as well


def test_tensorflow_does_not_greet_the_reader_of_an_example():
    """But for two lines of 2.21, written whatever is set while oneDNN is on: the README says so."""
    code = f"import os\n{QUIET}\nimport tensorflow as tf\ntf.constant(1.0)"
    environment = {name: value for name, value in os.environ.items() if name != "TF_CPP_MIN_LOG_LEVEL"}
    result = processes.run([sys.executable, "-c", code], env={**environment, "CUDA_VISIBLE_DEVICES": "-1"}, timeout=300)
    assert result.returncode == 0, result.stderr
    known = ("All log messages before absl::InitializeLog()", "oneDNN custom operations are on")
    greeting = [line for line in result.stderr.splitlines() if not any(words in line for words in known)]
    assert [line for line in greeting if "tensorflow" in line.lower() or line.startswith(("I0000", "W0000"))] == []
    assert "first lines, about oneDNN" in (EXAMPLES.parent / "README.md").read_text()


@pytest.mark.parametrize("example", sorted(EXAMPLES.glob("*.py")), ids=lambda path: path.stem)
def test_an_example_opens_for_the_gallery(example):
    """With a title in rST, how to run it, and what to see; it is in the gallery's order, and uses public names only."""
    text = example.read_text()
    title, underline, *rest = (ast.get_docstring(ast.parse(text)) or "").splitlines()
    assert re.fullmatch("=+", underline)
    assert len(underline) >= len(title)
    opening = "\n".join(rest)
    assert f"Run it with ``python {example.name}" in opening
    if '"--output"' in text and example.stem != "quickstart":
        assert "--output" in opening
    assert example.stem in (EXAMPLES.parent / "docs" / "gallery_options.py").read_text()
    imported = [node for node in ast.walk(ast.parse(text)) if isinstance(node, ast.ImportFrom)]
    for node in imported:
        if (node.module or "").startswith("customfit"):
            assert node.module == "customfit"
            assert {alias.name for alias in node.names} <= set(customfit.__all__)
