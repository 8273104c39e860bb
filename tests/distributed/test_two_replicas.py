"""Two replicas against one device: what the pipeline does to gradients comes after they are summed."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from customfit import compat

ROOT = Path(__file__).parent.parent.parent
needs_divided_loss = pytest.mark.skipif(
    not compat.divides_loss_by_replicas(), reason="Keras before 3.8 sums losses of replicas: refused, as tested below"
)


def weights(case):
    """The weight after training on one device and on two. In a process for each, as each splits its devices."""
    result = run(case)
    assert result.returncode == 0, result.stderr[-3000:]
    return json.loads(result.stdout.splitlines()[-1])


def run(case):
    command = [sys.executable, "-m", "tests.distributed.two_replicas", case]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=300)


@pytest.mark.slow
@needs_divided_loss
@pytest.mark.parametrize("case", ["plain", "clip", "accumulation", "tail", "skip", "percentile"])
def test_two_replicas_train_as_one_device(case):
    one, two = weights(case)
    assert two == pytest.approx(one, rel=1e-6)


@pytest.mark.slow
@needs_divided_loss
def test_keras_3_clips_each_replica_before_the_sum():
    """Of two opposing gradients of norm 200 each keeps 1, and their sum is 0; their true sum of -1 would be kept."""
    one, two = weights("keras_clip")
    assert one == pytest.approx(1.1)
    assert two == pytest.approx(1.0 if compat.IS_KERAS_3 else 1.1)


@pytest.mark.slow
@pytest.mark.skipif(compat.divides_loss_by_replicas(), reason="this Keras divides the loss of a replica")
def test_older_keras_3_is_refused_in_words():
    assert "need Keras 3.8 or newer" in run("clip").stderr
