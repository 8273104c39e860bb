"""Each example runs offline and does what it says; their exit codes tell."""

import os
import re
import sys
from pathlib import Path

import pytest

from tests import processes

EXAMPLES = Path(__file__).parent.parent / "examples"


@pytest.mark.slow
@pytest.mark.parametrize("example", sorted(EXAMPLES.glob("*.py")), ids=lambda path: path.stem)
def test_example(example, tmp_path):
    for package in ("gymnasium", "matplotlib", "sklearn"):
        if re.search(rf"^ *(import|from) {package}\b", example.read_text(), re.MULTILINE):
            pytest.importorskip(package)
    environment = {**os.environ, "PYTHONPATH": os.fspath(EXAMPLES.parent)}
    command = [sys.executable, os.fspath(example)]
    result = processes.run(command, cwd=tmp_path, env=environment, timeout=600)
    assert result.returncode == 0, result.stdout[-3000:] + result.stderr[-3000:]
    if example.stem == "quickstart":
        assert (tmp_path / "history.png").stat().st_size > 10_000
