"""What starts in a moment is a process as any other."""

import os
import signal
import subprocess
import sys

import pytest

from tests import processes


def test_it_has_arguments_an_environment_a_folder_and_output_of_its_own(tmp_path):
    code = "import os, sys; print(sys.argv[1:], dict(os.environ), os.getcwd()); print('oh', file=sys.stderr)"
    command = [sys.executable, "-c", code, "one", "two"]
    ours = processes.run(command, env={"A": "b"}, cwd=tmp_path)
    assert ours.stdout == f"['one', 'two'] {{'A': 'b'}} {tmp_path}\n"
    assert (ours.returncode, ours.stderr) == (0, "oh\n")


@pytest.mark.parametrize(
    "code", ["raise SystemExit(143)", "raise ValueError('no')", "import os; os.kill(os.getpid(), 9)"]
)
def test_it_ends_with_the_exit_code_of_any_process(code):
    command = [sys.executable, "-c", code]
    ours, theirs = processes.run(command), subprocess.run(command, capture_output=True, text=True)
    assert ours.returncode == theirs.returncode
    assert ours.stderr.splitlines()[-1:] == theirs.stderr.splitlines()[-1:]


def test_scripts_and_modules_run_as_the_main_one(tmp_path):
    (tmp_path / "script.py").write_text("import sys; print(__name__, sys.argv[1:])")
    for command in (["script.py", "x"], ["-m", "script", "x"]):
        assert processes.run([sys.executable, *command], cwd=tmp_path).stdout == "__main__ ['x']\n"


def test_it_trains_though_it_was_forked():
    code = """if True:
        from customfit.compat import keras
        from tests.parity import compare, models
        x, y = models.rows(32)
        print(compare.train(models.dense, "custom_fit", {"x": x, "y": y})[1].epoch)
    """
    result = processes.run([sys.executable, "-c", code], timeout=100)
    assert result.stdout == "[0, 1, 2]\n", result.stderr


def test_one_that_hangs_is_killed():
    process = processes.Process([sys.executable, "-c", "import signal; signal.pause()"])
    with pytest.raises(subprocess.TimeoutExpired):
        process.communicate(timeout=0.1)
    process.kill()
    process.communicate()
    assert process.returncode == -signal.SIGKILL
    assert not os.path.exists(f"/proc/{process.pid}")
