"""Processes of their own that start in a moment.

Most of the time of a short Python process goes into importing TensorFlow: about ten times what a test trains. These are
forked from a server that has imported it, and used nothing of it. Otherwise they are processes like others: they have
an environment, a directory and output of their own, and can be killed.
"""

import contextlib
import multiprocessing
import os
import runpy
import subprocess
import sys
import tempfile
import time
import types
from multiprocessing import connection

# What may be imported before a fork: nothing that runs an operation of TensorFlow, whose threads a fork would lose.
multiprocessing.set_forkserver_preload(["customfit.testing.resume", "tests.parity.compare", "tests.parity.models"])
_CONTEXT = multiprocessing.get_context("forkserver")


class Process:
    """Part of `subprocess.Popen` for `[sys.executable, "-c", code, ...]`, `[..., "-m", module, ...]` or a script.

    Output is text, and always captured.
    """

    def __init__(self, command, env=None, cwd=None):
        self.args = command
        self._folder = tempfile.TemporaryDirectory()
        paths = [os.path.join(self._folder.name, name) for name in ("stdout", "stderr")]
        for path in paths:
            os.mkfifo(path)
        self._outputs = {os.open(path, os.O_RDWR | os.O_NONBLOCK): [] for path in paths}
        given = (command[1:], dict(os.environ if env is None else env), os.fspath(cwd or os.getcwd()), paths)
        self._process = _CONTEXT.Process(target=_run, args=given)
        self._process.start()
        self.pid = self._process.pid

    @property
    def returncode(self):
        """The exit code, minus the number of a signal that ended it, or `None`."""
        return self._process.exitcode

    def kill(self):
        """Ends it by SIGKILL."""
        self._process.kill()

    def wait(self, timeout=None):
        """Waits for its end. What it wrote is left to `communicate`."""
        self._await(timeout)

    def communicate(self, timeout=None):
        """Waits for its end. Returns what it wrote to standard output and to standard error."""
        self._await(timeout)
        self._process.join()
        self._read()
        for output in self._outputs:
            os.close(output)
        self._folder.cleanup()
        return tuple(b"".join(written).decode() for written in self._outputs.values())

    def _await(self, timeout):
        deadline = None if timeout is None else time.monotonic() + timeout
        while self.returncode is None:
            left = None if deadline is None else max(0.0, deadline - time.monotonic())
            if not connection.wait([*self._outputs, self._process.sentinel], left):
                raise subprocess.TimeoutExpired(self.args, timeout)
            self._read()

    def _read(self):
        for output, written in self._outputs.items():
            with contextlib.suppress(BlockingIOError):
                while True:
                    written.append(os.read(output, 65536))


def run(command, env=None, cwd=None, timeout=None, **captured):
    """`subprocess.run(..., capture_output=True, text=True)`."""
    process = Process(command, env, cwd)
    try:
        stdout, stderr = process.communicate(timeout)
    except subprocess.TimeoutExpired:
        process.kill()
        raise
    return subprocess.CompletedProcess(command, process.returncode, stdout, stderr)


def _run(arguments, environment, folder, outputs):
    """What the process does: as the interpreter would with these arguments."""
    for descriptor, path in enumerate(outputs, start=1):
        os.dup2(os.open(path, os.O_WRONLY), descriptor)
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(folder)
    sys.path[:0] = [folder, *environment.get("PYTHONPATH", "").split(os.pathsep)]
    if arguments[0] == "-c":
        sys.argv = ["-c", *arguments[2:]]
        sys.modules["__main__"] = types.ModuleType("__main__")
        exec(arguments[1], vars(sys.modules["__main__"]))
    elif arguments[0] == "-m":
        sys.argv = [arguments[1], *arguments[2:]]
        runpy.run_module(arguments[1], run_name="__main__", alter_sys=True)
    else:
        sys.argv = list(arguments)
        runpy.run_path(arguments[0], run_name="__main__")
