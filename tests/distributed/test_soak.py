"""Jobs whose workers are killed by SIGKILL again and again, and one that the launcher starts again.

They take minutes, and are skipped unless `CUSTOMFIT_KILLS=20` says how often. The counts are printed with `-s`.
"""

import os
import random
import subprocess
import sys
from pathlib import Path

import pytest

from customfit import compat
from tests.distributed import job
from tests.distributed.resuming import MODULE, results, steps, without_steps

KILLS = int(os.environ.get("CUSTOMFIT_KILLS", "0"))
pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(3600),
    pytest.mark.skipif(KILLS == 0, reason="a soak: CUSTOMFIT_KILLS says how often to kill"),
    pytest.mark.skipif(not compat.divides_loss_by_replicas(), reason="Keras 3 before 3.8 is refused"),
]
ROOT = Path(__file__).parents[2]
EPOCHS = 3  # of 5 steps, with a checkpoint after every second one


@pytest.mark.parametrize("workers", [2, 3])
def test_killed_at_random_it_ends_as_if_left_alone(tmp_path, workers):
    """Any worker, after a step or while a checkpoint is written or older ones are removed. The others are killed in
    half of the attempts as well, as by a launcher without patience, and else end by themselves."""
    undisturbed = without_steps(results("", workers=workers))
    draw, kills, rounds = random.Random(workers), 0, 0
    most = min(20, KILLS)
    while kills < most:
        folder, rounds, is_over = tmp_path / str(rounds), rounds + 1, False
        folder.mkdir()
        while not is_over and kills < most:
            lost, moment = draw.randrange(workers), draw.choice(["kill", "kill", "writing", "pruning"])
            how = f"{moment}:{lost}:{draw.randint(1, 6 if moment == 'kill' else 3)}"
            started = job.start(MODULE, folder, how, EPOCHS, workers=workers)
            is_over = wait_for(started, lost, patient=draw.random() < 0.5)
            kills += not is_over
        found = results(folder, epochs=EPOCHS, workers=workers)
        assert without_steps(found) == undisturbed
    print(f"{workers} workers: {kills} kills in {rounds} rounds, all bit-identical")


def wait_for(started, lost, patient):
    """Waits until a worker has ended. Returns whether it ended well, with the others; else none is left."""
    started[lost].wait(120)
    if started[lost].returncode == 0:
        job.finish(started)
        return True
    if patient:
        job.survivors(started, lost, 120)
        started = [started[lost]]
    for worker in started:
        worker.kill()
        worker.communicate(timeout=60)
    return False


def test_a_launched_job_is_restarted_and_ends_with_the_bits_of_one_left_alone(alone, tmp_path):
    """The script is one that kills a worker in its first attempt only."""
    (tmp_path / "train.py").write_text(KILLED_ONCE)
    options = ["--workers", "2", "--restarts", "2", "--log-dir", str(tmp_path / "logs")]
    command = [sys.executable, "-m", "customfit.launch", *options, str(tmp_path / "train.py"), str(tmp_path)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    ended = subprocess.run(command, capture_output=True, text=True, timeout=300, cwd=ROOT, env=environment)
    assert ended.returncode == 0, ended.stderr[-3000:]
    assert "Worker 1 was ended by SIGKILL" in ended.stderr
    assert "restart 1 of 2" in ended.stderr
    assert "restart 2 of 2" not in ended.stderr
    logs = [(tmp_path / "logs" / "attempt-1" / f"worker-{index}.log").read_text() for index in range(2)]
    found = [job.found("\n".join(line for line in log.splitlines() if line.startswith("{"))) for log in logs]
    assert steps(found) == 9
    assert without_steps(found) == without_steps(alone)


KILLED_ONCE = """
import os
import sys

folder = sys.argv[1]
is_first = not os.path.exists(os.path.join(folder, "run", "checkpoint-00000001"))
from tests.distributed.resumed import main

main(folder, "kill:1:7" if is_first else "")
"""
