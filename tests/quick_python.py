"""A Python that has imported torch and fairseq already, as a command: for tests whose commands start processes.

`quick_python` returns the path of a program that stands for ``sys.executable``. ``PROGRAM -m MODULE …`` and ``PROGRAM
-c CODE …`` run in a process that a server forks, with the program's arguments, folder, environment and standard
streams, and end with its exit status. Whatever else it is given goes to ``sys.executable`` itself. For such a process
``sys.executable`` is the program again, so that what it starts is quick, too. It is killed or stopped when the program
is.
A test of how Python starts, of signals or of what is imported needs ``sys.executable``.
"""

from __future__ import annotations

import atexit
import functools
import json
import logging
import multiprocessing
import os
import runpy
import select
import shlex
import signal
import socket
import struct
import sys
import tempfile
import threading
import types
from multiprocessing import connection, util
from pathlib import Path
from typing import Any, NoReturn

import support

HERE = Path(__file__).resolve().parent
CLIENT = """
import json, os, signal, socket, sys
server, python, program, *words = sys.argv[1:]
if words[:1] == ["-u"]:
    del words[0]
if words[:1] not in (["-m"], ["-c"]):
    os.execv(python, [python, *words])
message = json.dumps([program, words, os.getcwd(), dict(os.environ)]).encode()
with socket.socket(socket.AF_UNIX) as caller:
    caller.connect(server)
    socket.send_fds(caller, [len(message).to_bytes(8, "big")], [0, 1, 2])
    caller.sendall(message)
    status = int(caller.recv(16) or -signal.SIGKILL)
if status < 0:
    signal.signal(-status, signal.SIG_DFL) if -status != signal.SIGKILL else None
    os.kill(os.getpid(), -status)
sys.exit(status)
"""


@functools.cache
def quick_python() -> str:
    """The path of the program; the server starts at the first call, and ends with this process."""
    folder = Path(tempfile.mkdtemp(prefix="quick-"))  # not the test's: a socket's path may not be long
    address, program, client = folder / "socket", folder / "python", folder / "client.py"
    atexit.register(lambda: [path.unlink(missing_ok=True) for path in (address, program, client)] and folder.rmdir())
    client.write_text(CLIENT, encoding="utf-8")
    words = shlex.join([sys.executable, "-IS", str(client), str(address), sys.executable, str(program)])
    program.write_text(f'#!/bin/sh\nexec {words} "$@"\n', encoding="utf-8")
    program.chmod(0o755)
    ready, there = multiprocessing.Pipe(duplex=False)
    support.processes.Process(target=_serve, args=(address, there), daemon=True).start()
    ready.recv()
    return str(program)


def _serve(address: Path, there: connection.Connection) -> None:
    """Fork, for each caller, a process that attends to it, until the process that asked for this server ends."""
    multiprocessing.current_process()._config["daemon"] = False  # what is forked may have children
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(address))
        listener.listen(64)
        there.send(True)
        parent = multiprocessing.parent_process()
        assert parent is not None
        while listener in connection.wait([listener, parent.sentinel]):
            caller, _ = listener.accept()
            if not os.fork():
                listener.close()
                _attend(caller)
            caller.close()


def _attend(caller: socket.socket) -> NoReturn:
    """Fork what the caller asks for, wait until it or the caller ends, and tell the caller its exit status."""
    try:
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        size, streams, _, _ = socket.recv_fds(caller, 8, 3)
        with caller.makefile("rb") as file:
            message = json.loads(file.read(int.from_bytes(size, "big")))
        process = os.fork()
        if not process:
            caller.close()
            _be_python(streams, *message)
        for stream in streams:
            os.close(stream)
        ended, stopped = os.pidfd_open(process), False
        (pid,) = struct.unpack("i8x", caller.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))
        while not (ready := select.select([ended, caller], [], [], 0.1)[0]):
            if _is_stopped(pid) != stopped:
                stopped = not stopped
                os.kill(process, signal.SIGSTOP if stopped else signal.SIGCONT)
        if ended not in ready:
            os.kill(process, signal.SIGKILL)
        status = os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])
        caller.sendall(str(status).encode())
    except BrokenPipeError:  # the caller was killed
        pass
    finally:
        os._exit(0)


def _is_stopped(pid: int) -> bool:
    """Whether a process stands still, as the processes of a suspended job do."""
    try:
        return Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()[0] == "T"
    except OSError:  # it is gone, which its end of the socket tells
        return False


def _be_python(streams: list[int], program: str, words: list[str], folder: str, variables: dict[str, str]) -> NoReturn:
    """Turn this process into what Python would be with these words, environment and streams."""
    for number, stream in enumerate(streams):
        os.dup2(stream, number)
        os.close(stream)
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(variables)
    sys.stdin = open(0, encoding="utf-8", closefd=False)  # noqa: SIM115 — what multiprocessing put there is empty
    sys.executable = program
    sys.orig_argv = [program, *words]
    kept = [path for path in sys.path if path and Path(path) != HERE]
    sys.path[:] = ["" if words[0] == "-c" else folder, *filter(None, variables.get("PYTHONPATH", "").split(":")), *kept]
    sys.argv = [words[0], *words[2:]]
    sys.modules["__main__"] = main = types.ModuleType("__main__")
    for name in [name for name in sys.modules if name.partition(".")[0] == "fairseq_cli"]:
        del sys.modules[name]  # importing them sets up logging
    logging.root.handlers.clear()
    logging.root.setLevel(logging.WARNING)
    multiprocessing.set_start_method(None, force=True)
    import torch

    torch.set_num_threads(int(variables.get("OMP_NUM_THREADS", "1")))
    os._exit(_status_of(words, main))


def _status_of(words: list[str], main: types.ModuleType) -> int:
    """Run a module or a text to its end, and return the exit status."""
    status: Any = 0
    try:
        try:
            if words[0] == "-c":
                exec(words[1], main.__dict__)
            else:
                runpy.run_module(words[1], run_name="__main__", alter_sys=True)
        finally:
            threading._shutdown()  # type: ignore[attr-defined] — waits for threads, as Python does
    except SystemExit as error:
        status = error.code
        if status is not None and not isinstance(status, int):
            print(status, file=sys.stderr)
            status = 1
    except BaseException:
        sys.excepthook(*sys.exc_info())
        status = 1
    util._exit_function()
    atexit._run_exitfuncs()
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
    return status or 0
