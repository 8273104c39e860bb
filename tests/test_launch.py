"""`python -m customfit.launch`: processes of small scripts, which need no TensorFlow."""

import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

LAUNCH = [sys.executable, "-m", "customfit.launch"]
ENVIRONMENT = {**os.environ, "PYTHONPATH": str(Path(__file__).parent.parent)}
DEADLINE = 60

HEAD = """
import json, os, signal, sys
task = json.loads(os.environ["TF_CONFIG"])
index = task["task"]["index"]
"""


@pytest.fixture(autouse=True)
def _sigint_is_not_ignored():
    """A shell has what it runs in the background ignore SIGINT, and so would all that the tests start."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.fixture
def launch(tmp_path):
    """Runs the launcher on a script: `launch(body, "--workers", "2", args=[...])`."""

    def run(body, *options, args=()):
        process = start(tmp_path, body, *options, args=args)
        output, errors = process.communicate(timeout=DEADLINE)
        return subprocess.CompletedProcess(process.args, process.returncode, output, errors)

    return run


def start(folder, body, *options, args=()):
    script = folder / "script.py"
    script.write_text(HEAD + body)
    command = [*LAUNCH, "--log-dir", str(folder / "logs"), *options, str(script), *args]
    return subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=folder, env=ENVIRONMENT
    )


def until(process, *lines):
    """Reads the launcher's output until it has printed these lines, in any order."""
    missing = set(lines)
    while missing:
        line = process.stdout.readline()
        assert line, process.stderr.read()
        missing.discard(line.strip())


def log(folder, worker, attempt=0):
    return (folder / "logs" / f"attempt-{attempt}" / f"worker-{worker}.log").read_text()


def test_each_worker_knows_all_of_them_and_its_own_place(launch):
    result = launch("print(json.dumps(task))", "--workers", "3")
    assert result.returncode == 0
    tasks = dict(re.findall(r"^\[worker (\d)\] (.*)$", result.stdout, re.MULTILINE))
    found = {int(index): json.loads(task) for index, task in tasks.items()}
    assert {index: each["task"] for index, each in found.items()} == {
        index: {"type": "worker", "index": index} for index in range(3)
    }
    assert len({json.dumps(each["cluster"]) for each in found.values()}) == 1
    addresses = found[0]["cluster"]["worker"]
    assert len(set(addresses)) == 3
    assert all(re.fullmatch(r"127\.0\.0\.1:\d+", address) for address in addresses)


def test_a_script_gets_its_arguments(launch):
    result = launch("print(sys.argv[1:])", "--workers", "1", args=["--workers", "a b", "--dry-run"])
    assert result.stdout == "[worker 0] ['--workers', 'a b', '--dry-run']\n"


def test_a_module_is_run_as_python_does(launch, tmp_path):
    (tmp_path / "package.py").write_text("import sys; print(__name__, sys.argv[1:])")
    command = [*LAUNCH, "--workers", "1", "-m", "package", "-m"]
    output = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, env=ENVIRONMENT, timeout=DEADLINE)
    assert output.stdout == "[worker 0] __main__ ['-m']\n"


def test_output_is_prefixed_and_kept_as_it_is(launch, tmp_path):
    result = launch('print("out", index); print("no newline", end="", file=sys.stderr)', "--workers", "2")
    assert sorted(result.stdout.splitlines()) == ["[worker 0] out 0", "[worker 1] out 1"]
    for index in range(2):
        assert f"[worker {index}] no newline\n" in result.stderr
        assert sorted(log(tmp_path, index).splitlines()) in ([f"no newlineout {index}"], ["no newline", f"out {index}"])
    assert str(tmp_path / "logs") in result.stderr


def test_output_is_kept_where_nobody_reads_it(tmp_path):
    process = start(tmp_path, "for line in range(20_000): print(line)", "--workers", "2")
    process.stdout.close()
    assert process.wait(DEADLINE) == 0
    assert log(tmp_path, 1).splitlines() == [str(line) for line in range(20_000)]


ENDS_IN_ORDER = """
def end(number, frame):
    print("asked to end by", signal.Signals(number).name)
    sys.exit(0)

signal.signal(signal.SIGTERM, end)
signal.signal(signal.SIGINT, end)
"""


def test_all_are_ended_when_one_fails(launch, tmp_path):
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    body = f"""{ENDS_IN_ORDER}
if index == 1:
    open({str(fifo)!r}).read()  # the other one is ready
    sys.exit(7)
open({str(fifo)!r}, "w").close()
signal.pause()
"""
    result = launch(body, "--workers", "2")
    assert result.returncode == 7
    assert "Worker 1 ended with exit code 7" in result.stderr
    assert "asked to end by SIGTERM" in log(tmp_path, 0)


def test_one_that_does_not_end_is_killed(launch):
    body = """
signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM])
if index == 0:
    os.kill(os.getpid(), signal.SIGKILL)
while True:
    signal.pause()
"""
    result = launch(body, "--workers", "3", "--grace-period", "0.5")
    assert result.returncode == 128 + signal.SIGKILL
    assert "Worker 0 was ended by SIGKILL" in result.stderr


def test_one_that_does_not_open_its_port_in_time_is_killed(launch, tmp_path):
    """It is not even there to be asked to end. The other one has opened its port, and may take its time."""
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    body = f"""{ENDS_IN_ORDER}
import socket
if index == 1:
    open({str(fifo)!r}).read()  # the other one listens
    os.kill(os.getpid(), signal.SIGSTOP)
own = socket.create_server(("127.0.0.1", int(task["cluster"]["worker"][index].split(":")[1])))
open({str(fifo)!r}, "w").close()
signal.pause()
"""
    result = launch(body, "--workers", "2", "--start-timeout", "5")
    assert result.returncode == 128 + signal.SIGKILL
    assert "Worker 1 has not opened its port within 5 seconds" in result.stderr
    assert "Worker 0 has not" not in result.stderr
    assert "asked to end by SIGTERM" in log(tmp_path, 0)


def test_the_exit_code_is_that_of_the_first_failure(launch):
    body = """
def end(number, frame):
    sys.exit(5)

signal.signal(signal.SIGTERM, end)
if index == 2:
    sys.exit(3)
signal.pause()
"""
    assert launch(body, "--workers", "3", "--grace-period", "5").returncode == 3
    assert launch("sys.exit(3 if index == 2 else 0)", "--workers", "3").returncode == 3


FAILS_TWICE = """
attempts = [name for name in os.listdir() if name.startswith("attempt")]
if index == 1:
    open(f"attempt-{len(attempts)}", "w").close()
    print(task["cluster"]["worker"])
    sys.exit(4 if len(attempts) < 2 else 0)
"""


def test_all_are_started_again(launch, tmp_path):
    result = launch(FAILS_TWICE, "--workers", "2", "--restarts", "3")
    assert result.returncode == 0, result.stderr
    assert "restart 2 of 3" in result.stderr
    assert "restart 3 of 3" not in result.stderr
    assert all(log(tmp_path, 1, attempt) for attempt in range(3))


def test_a_job_fails_after_its_last_restart(launch):
    result = launch(FAILS_TWICE, "--workers", "2", "--restarts", "1")
    assert result.returncode == 4
    assert result.stderr.count("Starting all workers again") == 1


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_all_in_order(tmp_path, number):
    body = f"{ENDS_IN_ORDER}\nprint('ready')\nsignal.pause()"
    process = start(tmp_path, body, "--workers", "2", "--restarts", "5")
    until(process, "[worker 0] ready", "[worker 1] ready")
    process.send_signal(number)
    _, errors = process.communicate(timeout=DEADLINE)
    assert process.returncode == 128 + number
    assert "Starting" not in errors
    for index in range(2):
        assert f"asked to end by {number.name}" in log(tmp_path, index)


def test_a_second_signal_ends_all_at_once(tmp_path):
    body = """
signal.signal(signal.SIGINT, lambda number, frame: print("not yet", flush=True))
print("ready", flush=True)
while True:
    signal.pause()
"""
    process = start(tmp_path, body, "--workers", "2", "--grace-period", "1000")
    until(process, "[worker 0] ready", "[worker 1] ready")
    process.send_signal(signal.SIGINT)
    until(process, "[worker 0] not yet", "[worker 1] not yet")
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=DEADLINE)
    assert process.returncode == 128 + signal.SIGINT


def test_a_dry_run_prints_and_starts_nothing(launch, tmp_path):
    result = launch("open('ran', 'w')", "--workers", "2", "--dry-run", args=["a b"])
    lines = result.stdout.splitlines()
    assert [json.loads(re.match("TF_CONFIG='(.*?)' ", line)[1])["task"]["index"] for line in lines] == [0, 1]
    assert all(line.endswith(f"{sys.executable} {tmp_path}/script.py 'a b'") for line in lines)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["script.py"]


def test_on_several_hosts_each_starts_its_own(launch):
    result = launch(
        "", "--workers", "2", "--hosts", "one,two.example", "--node-rank", "1", "--port", "3000", "--dry-run"
    )
    tasks = [json.loads(found) for found in re.findall("TF_CONFIG='(.*?)' ", result.stdout)]
    assert [task["task"]["index"] for task in tasks] == [2, 3]
    addresses = ["one:3000", "one:3001", "two.example:3000", "two.example:3001"]
    assert all(task["cluster"] == {"worker": addresses} for task in tasks)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--workers", "0"], "--workers: must be a whole number, 1 or more. Received: 0"),
        ([], "the following arguments are required: --workers"),
        (["--workers", "2", "--port", "3"], "--port must be used with --hosts. Received: --port 3"),
        (["--workers", "2", "--hosts", "a,b", "--port", "3"], "--hosts must be used with --node-rank"),
        (["--workers", "2", "--hosts", "a:1,b"], "must be different hosts without ports, as in a,b. Received: a:1,b"),
        (["--workers", "2", "--hosts", "a", "--port", "3", "--node-rank", "1"], "--node-rank must be less than"),
        (["--workers", "2", "--hosts", "a", "--port", "65535", "--node-rank", "0"], "--port must leave a port below"),
    ],
)
def test_wrong_options_are_named(launch, options, message):
    result = launch("", *options)
    assert result.returncode == 2
    assert message in result.stderr


@pytest.mark.skipif(sys.version_info < (3, 10), reason="this Python does not say early enough what it will run")
def test_tensorflow_is_not_imported(tmp_path):
    command = [sys.executable, "-X", "importtime", *LAUNCH[1:], "--workers", "1", "--dry-run", "x.py"]
    result = subprocess.run(command, capture_output=True, text=True, env=ENVIRONMENT, timeout=DEADLINE, check=True)
    assert "customfit.launch" in result.stderr
    assert not re.search("tensorflow|keras|numpy", result.stderr)
