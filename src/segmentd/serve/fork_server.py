"""A process that imports what the processes of a node need, and forks them (docs/decisions/0100).

It has no thread, no event loop and no connection. The supervisor starts it first of all, so that it imports
on another core meanwhile. For each process it gets a message: the module, with three pipes (standard input,
standard output, and what became of it) and the queue of connections, if there is one. It writes the id of
the process into the third pipe, and later its exit code. It ends when the supervisor does.

This module imports little: the command loads it before everything else.
"""

import gc
import importlib
import os
import select
import signal
import socket
import subprocess
import sys
import traceback
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Final, NoReturn

HTTP_WORKER: Final = "segmentd.serve.http_worker"
NODE_WORKER: Final = "segmentd.serve.node_worker"
GRPC_WORKER: Final = "segmentd.serve.grpc_worker"
FOLLOWING_WORKER: Final = "segmentd.serve.following_worker"
# What is imported for each command. gRPC is imported by its process: its library does not bear a fork.
_IMPORTED: Final = {"serve": (HTTP_WORKER, NODE_WORKER), "worker": (NODE_WORKER,)}
_HERE: Final = "segmentd.serve.fork_server"
# Where a forked process finds its queue of connections.
QUEUE: Final = 3
_MOST_BYTES: Final = 4096
_MOST_DESCRIPTORS: Final = 4
# Of prctl(2): the name that ps shows.
_SET_NAME: Final = 15


def can_fork() -> bool:
    """Whether this system can: Linux, with descriptors of processes."""
    if sys.platform != "linux":
        return False
    try:
        os.close(os.pidfd_open(os.getpid()))
    except OSError:
        return False
    return True


class ForkServer:
    """The supervisor's side. A process has one at most, from `of` until `end`."""

    _only: "ForkServer | None" = None

    def __init__(self, kind: str) -> None:
        self._control, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            self._stop, self._is_running = launch(theirs, kind)

    @classmethod
    def of(cls, kind: str) -> "ForkServer | None":
        """The one that runs, else a new one for the processes of this command; None where none can."""
        if cls._only is None or not cls._only.is_running():
            cls.end()
            cls._only = cls(kind) if can_fork() else None
        return cls._only

    @classmethod
    def end(cls) -> None:
        """Ends the one that runs; the processes that it has forked live on."""
        if cls._only is not None:
            cls._only.close()
            cls._only = None

    def is_running(self) -> bool:
        """Whether its process lives."""
        return self._is_running()

    def ask(self, module: str, descriptors: Sequence[int]) -> None:
        """Has a process forked that runs this module with these descriptors. Raises OSError."""
        socket.send_fds(self._control, [module.encode()], list(descriptors))

    def close(self) -> None:
        """Ends it; the processes that it has forked live on."""
        self._control.close()
        self._stop()


def launch(theirs: socket.socket, kind: str) -> tuple[Callable[[], None], Callable[[], bool]]:
    """Starts the process at this end of the socket: what ends it, and whether it runs."""
    process = subprocess.Popen(  # noqa: S603 - our own command, no shell
        [sys.executable, "-m", _HERE, str(theirs.fileno()), kind],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        pass_fds=[theirs.fileno()],
    )

    def stop() -> None:
        process.kill()
        process.wait()

    return stop, lambda: process.poll() is None


def run(control: socket.socket, kind: str) -> None:
    """Forks processes until the supervisor ends."""
    # Ctrl-C reaches the whole group, and some service managers send SIGTERM to all processes.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # NumPy's own thread; nothing here is for it
    gc.disable()
    for name in _IMPORTED[kind]:
        importlib.import_module(name)
    gc.freeze()
    gc.enable()
    _Forks(control).serve()


class _Forks:
    def __init__(self, control: socket.socket) -> None:
        self._control = control
        self._poller = select.poll()
        self._poller.register(control, select.POLLIN)
        # By the descriptor of a process: its id, and the pipe for what became of it.
        self._forked: dict[int, tuple[int, int]] = {}

    def serve(self) -> None:
        while True:
            for descriptor, _ in self._poller.poll():
                if descriptor != self._control.fileno():
                    self._note_end(descriptor)
                    continue
                message, descriptors, _, _ = socket.recv_fds(self._control, _MOST_BYTES, _MOST_DESCRIPTORS)
                if not message:
                    return
                self._fork(message.decode(), descriptors)

    def _fork(self, module: str, descriptors: Sequence[int]) -> None:
        theirs, fate = [*descriptors[:2], *descriptors[3:]], descriptors[2]
        try:
            pid = os.fork()
        except OSError as error:  # too many processes, or too little memory; the supervisor tries again
            os.write(sys.stderr.fileno(), f"segmentd: cannot fork: {error.strerror}\n".encode())
            for descriptor in descriptors:
                os.close(descriptor)
            return
        if pid == 0:
            _become(module, theirs)
        for descriptor in theirs:
            os.close(descriptor)
        process = os.pidfd_open(pid)
        self._forked[process] = pid, fate
        self._poller.register(process, select.POLLIN)
        self._say(fate, pid)

    def _note_end(self, process: int) -> None:
        pid, fate = self._forked.pop(process)
        self._poller.unregister(process)
        os.close(process)
        _, status = os.waitpid(pid, 0)
        self._say(fate, os.waitstatus_to_exitcode(status))
        os.close(fate)

    @staticmethod
    def _say(fate: int, number: int) -> None:
        with suppress(BrokenPipeError):  # the supervisor has ended, or listens no more
            os.write(fate, b"%d\n" % number)


def _become(module: str, descriptors: Sequence[int]) -> NoReturn:
    """What a process does that was just forked: it runs the `main` of its module, and ends."""
    code = 1
    try:
        _begin_as_new(module, descriptors)
        importlib.import_module(module).main()
        code = 0
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else int(end.code is not None)
    except BaseException:  # noqa: BLE001 - as the interpreter shows it
        traceback.print_exc()
    finally:
        for stream in (sys.stdout, sys.stderr):
            with suppress(OSError):
                stream.flush()
        os._exit(code)


def _begin_as_new(module: str, descriptors: Sequence[int]) -> None:
    """Descriptors and signals are those of a process that has just begun."""
    for wanted, descriptor in zip((0, 1, QUEUE), descriptors, strict=False):
        os.dup2(descriptor, wanted)
    os.closerange(QUEUE + len(descriptors[2:]), os.sysconf("SC_OPEN_MAX"))
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    sys.argv = [module]
    import ctypes  # noqa: PLC0415 - the command loads this module first, and does not need it

    ctypes.CDLL(None).prctl(_SET_NAME, module.rpartition(".")[2].encode(), 0, 0, 0)


if __name__ == "__main__":
    with socket.socket(fileno=int(sys.argv[1])) as inherited:
        run(inherited, sys.argv[2])
