"""Executes another program, under another account if one is given, and has it stop when its parent dies.

This is a script, run as `python -I -S embedded_exec.py PARENT UID:GID PROGRAM ARGUMENT...` ("-" for the same
account) and never imported. These steps belong between fork and exec, where a process with threads must not
run Python.
"""

import ctypes
import os
import signal
import sys

_PR_SET_PDEATHSIG = 1  # <linux/prctl.h>


def _become(parent: int, account: str, command: list[str]) -> None:
    if account != "-":
        uid, gid = map(int, account.split(":"))
        os.setgroups([])
        os.setgid(gid)
        os.setuid(uid)
    # Set only now, because a change of account clears it; unshare(1) and exec do not. SIGINT is the fast
    # shutdown.
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGINT, 0, 0, 0)
    if os.getppid() != parent:  # it died before the line above, so no signal would ever come
        sys.exit(f"process {parent} has ended")
    # Not execvp: it imports modules, and the new account may not be able to read Python's files.
    os.execv(command[0], command)  # noqa: S606 - made by embedded_launch; no shell is wanted


if __name__ == "__main__":
    _become(int(sys.argv[1]), sys.argv[2], sys.argv[3:])
