"""Starts processes by forking one that has imported everything, so that a test pays for torch and flwr once.

They are processes as any: with a number, memory, threads and an end of their own; only their imports are shared. All of
them end with the test process, however that ends: the one they are forked from sees it close its socket.
"""

from __future__ import annotations

import ctypes
import json
import os
import runpy
import signal
import socket
import subprocess
import sys
import tempfile
import time
import traceback
from contextlib import suppress
from importlib import import_module
from pathlib import Path
from typing import Any, NoReturn

PATIENCE = 300.0
"""Seconds for which anything is waited for: a busy machine may take a minute for what is done in two seconds."""

GRACE = 20.0
"""Seconds that processes have for their end once they are told."""

_BECOME_PARENT_OF_ORPHANS = 36  # PR_SET_CHILD_SUBREAPER of Linux

_IMPORTS = (
    *(
        "privet.study.run",
        "privet.study.remote",
        "privet.study.edge",
        "privet.apps.agent.edge",
        "privet.apps.agent.run",
    ),
    *("privet.apps.coordinator.services", "privet.apps.cli.run", "privet.transport.grpc"),
    *("privet.engines.flower.engine", "privet.engines.flower.node", "privet.engines.flower.gate"),
)


class Process:
    """A forked process, used as a ``subprocess.Popen`` is.

    Attributes:
        out, err: files that hold what it says.
    """

    stdout = None

    def __init__(self, forks: Forks, pid: int, out: Path, err: Path) -> None:
        self._forks, self.pid, self.out, self.err = forks, pid, out, err
        self.returncode: int | None = None

    def poll(self) -> int | None:
        if self.returncode is None:
            status = self._forks.ask(poll=self.pid)
            self.returncode = None if status is None else os.waitstatus_to_exitcode(status)
        return self.returncode

    def wait(self, timeout: float = PATIENCE) -> int:
        until = time.monotonic() + timeout
        while (status := self.poll()) is None:
            if time.monotonic() > until:
                raise subprocess.TimeoutExpired(f"process {self.pid}: {self.err.read_text()[-2000:]}", timeout)
            time.sleep(0.05)
        return status

    def communicate(self, timeout: float = PATIENCE) -> tuple[str, str]:
        self.wait(timeout)
        return self.out.read_text(), self.err.read_text()

    def send_signal(self, number: int) -> None:
        if self.poll() is None:  # not yet reaped, so the number is still its own
            os.kill(self.pid, number)

    def terminate(self) -> None:
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)


class Forks:
    """Forks processes; a context manager that ends those which are left."""

    def __init__(self, folder: Path) -> None:
        self._folder, self._count = folder, 0
        folder.mkdir(parents=True, exist_ok=True)
        self._near, far = socket.socketpair()
        with far:
            self._first = subprocess.Popen(
                [sys.executable, __file__, str(far.fileno())],
                pass_fds=[far.fileno()],
                env={**os.environ, "OMP_NUM_THREADS": "1"},
                start_new_session=True,
            )
        self._lines = self._near.makefile("r")

    def __enter__(self) -> Forks:
        return self

    def __exit__(self, *_: object) -> None:
        self._lines.close()
        self._near.close()
        self._first.wait(60)

    def privet(self, *arguments: object, out: Path | None = None) -> Process:
        """Starts the command ``privet``."""
        return self._start(["privet", *map(str, arguments)], out)

    def script(self, path: Path, *arguments: object, out: Path | None = None) -> Process:
        """Starts a Python script."""
        return self._start([str(path), *map(str, arguments)], out)

    def _start(self, arguments: list[str], out: Path | None) -> Process:
        """Starts a process; what it says goes to a file of the folder, or is added to a file that is given."""
        self._count += 1
        own = self._folder / f"{self._count:03d}"
        said, complained = out or own.with_suffix(".out"), out or own.with_suffix(".err")
        said.touch()
        complained.touch()
        pid = self.ask(start=arguments, out=str(said), err=str(complained))
        return Process(self, pid, said, complained)

    def ask(self, **asked: Any) -> Any:
        self._near.sendall(json.dumps(asked).encode() + b"\n")
        return json.loads(self._lines.readline())


def _become(asked: dict[str, Any]) -> NoReturn:
    """Is what a fork is for."""
    status = 1
    try:
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, signal.SIG_DFL)
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        for number, path in ((1, asked["out"]), (2, asked["err"])):
            os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600), number)
        sys.argv = asked["start"]
        if sys.argv[0] == "privet":
            from privet.apps.cli.main import main

            main(sys.argv[1:])
        else:
            runpy.run_path(sys.argv[0], run_name="__main__")
        status = 0
    except SystemExit as left:
        status = left.code if isinstance(left.code, int) else int(left.code is not None)
    except BaseException:
        traceback.print_exc()
    with suppress(OSError, ValueError):
        sys.stdout.flush()
        sys.stderr.flush()
    os._exit(status)


def _answer(asked: dict[str, Any], control: socket.socket) -> int | None:
    if "poll" in asked:
        pid, status = os.waitpid(asked["poll"], os.WNOHANG)
        return status if pid else None
    pid = os.fork()
    if not pid:
        control.close()
        _become(asked)
    return pid


def _main() -> None:
    """Forks what it is asked for until the test process is gone; then it ends what is left."""
    from privet.engines.flower.environment import prepare_flower

    ctypes.CDLL(None).prctl(_BECOME_PARENT_OF_ORPHANS, 1)
    control = socket.socket(fileno=int(sys.argv[1]))
    with tempfile.TemporaryDirectory() as home:
        prepare_flower(Path(home))
        for name in _IMPORTS:
            import_module(name)
        with control, control.makefile("r") as lines:
            for line in lines:
                control.sendall(json.dumps(_answer(json.loads(line), control)).encode() + b"\n")
        _end()


def _end() -> None:
    """Ends all processes that are left, and what they started and left behind."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    os.killpg(0, signal.SIGTERM)  # a coordinator ends its SuperLink and its edge server, which are in no group of ours
    until = time.monotonic() + GRACE
    with suppress(ChildProcessError):
        while True:
            if os.waitpid(-1, os.WNOHANG) != (0, 0):
                continue
            if time.monotonic() > until:
                for pid in Path(f"/proc/self/task/{os.getpid()}/children").read_text().split():
                    os.kill(int(pid), signal.SIGKILL)
            time.sleep(0.05)


if __name__ == "__main__":
    _main()
