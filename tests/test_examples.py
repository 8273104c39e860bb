"""Each example runs offline and does what it says; their exit codes tell."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parent.parent / "examples"


@pytest.mark.slow
@pytest.mark.parametrize("example", sorted(EXAMPLES.glob("*.py")), ids=lambda path: path.stem)
def test_example(example, tmp_path):
    pytest.importorskip("gymnasium")
    environment = {**os.environ, "PYTHONPATH": os.fspath(EXAMPLES.parent)}
    command = [sys.executable, os.fspath(example)]
    result = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=600)
    assert result.returncode == 0, result.stdout[-3000:] + result.stderr[-3000:]
    if example.stem == "quickstart":
        assert (tmp_path / "history.png").stat().st_size > 10_000
