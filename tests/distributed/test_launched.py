"""The launcher starts workers that train one model, and other environments are recognized by TensorFlow."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from customfit import compat
from customfit.compat import tf
from tests.distributed.worker import train

ROOT = Path(__file__).parents[2]


@pytest.mark.slow
@pytest.mark.skipif(not compat.divides_loss_by_replicas(), reason="Keras 3 before 3.8 is refused")
def test_launched_workers_train_one_model(strategy, tmp_path):
    command = [sys.executable, "-m", "customfit.launch", "--workers", "2", "--log-dir", str(tmp_path)]
    result = subprocess.run(
        [*command, "-m", "tests.distributed.launched"], capture_output=True, text=True, timeout=400, cwd=ROOT
    )
    assert result.returncode == 0, result.stderr[-3000:]
    printed = dict(re.findall(r"^\[worker (\d)\] (\[.*\])$", result.stdout, re.MULTILINE))
    assert printed["0"] == printed["1"]
    assert json.loads(printed["0"]) == pytest.approx(train(strategy), rel=1e-4)  # sums in another order


def test_slurm(monkeypatch):
    """As the page says it: `customfit/launch/LAUNCHING.md`."""
    environment = {
        "SLURM_NTASKS": "2",
        "SLURM_PROCID": "1",
        "SLURM_STEP_NUM_TASKS": "2",
        "SLURM_STEP_NODELIST": "node[1-2]",
        "SLURM_STEP_TASKS_PER_NODE": "1(x2)",
        "CUDA_VISIBLE_DEVICES": "0",
    }
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    resolver = tf.distribute.cluster_resolver.SlurmClusterResolver(
        {"worker": int(os.environ["SLURM_NTASKS"])}, port_base=12345
    )
    assert resolver.cluster_spec().as_dict() == {"worker": ["node1:12345", "node2:12345"]}
    assert (resolver.task_type, resolver.task_id) == ("worker", 1)


@pytest.mark.parametrize(
    "cluster",
    [
        {"worker": ["a:1", "b:1"]},  # a TFJob without a chief
        {"chief": ["a:1"], "worker": ["b:1"]},  # Vertex AI
    ],
)
def test_tf_config_of_others(monkeypatch, cluster):
    config = {"cluster": cluster, "task": {"type": "worker", "index": 0}, "environment": "cloud"}
    monkeypatch.setenv("TF_CONFIG", json.dumps(config))
    resolver = tf.distribute.cluster_resolver.TFConfigClusterResolver()
    assert resolver.cluster_spec().as_dict() == cluster
    assert (resolver.task_type, resolver.task_id) == ("worker", 0)


LISTENING = """
import json, os, sys
import tensorflow as tf

tf.distribute.MultiWorkerMirroredStrategy()
port = int(json.loads(os.environ["TF_CONFIG"])["cluster"]["worker"][0].rpartition(":")[2])
for table in ("/proc/net/tcp", "/proc/net/tcp6"):
    for line in open(table).read().splitlines()[1:]:
        address, found = line.split()[1].split(":")
        if int(found, 16) == port and line.split()[3] == "0A":
            print(int(address, 16))
"""


@pytest.mark.slow
@pytest.mark.skipif(not os.path.exists("/proc/net/tcp"), reason="not Linux")
def test_tensorflow_listens_on_every_interface(tmp_path):
    """Whatever its address: so the page says that a job belongs in a private network."""
    (tmp_path / "script.py").write_text(LISTENING)
    command = [sys.executable, "-m", "customfit.launch", "--workers", "1", str(tmp_path / "script.py")]
    result = subprocess.run(command, capture_output=True, text=True, timeout=400, cwd=ROOT)
    assert result.stdout == "[worker 0] 0\n", result.stderr[-3000:]
