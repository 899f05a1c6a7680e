"""A small program that readies itself and then becomes an embedded server.

It runs as a script between the service and the server, because what it does must happen in the child: Python
code between fork and exec of a process with threads may deadlock. It imports the standard library alone. It

- gives up root for another account, since PostgreSQL refuses to run as root. On Linux it keeps the right to
  pass through folders that are closed to others, so that neither the data nor the virtual environment has to
  be opened to them;
- asks Linux for a signal when the service dies, however it dies;
- notes its process id, which stays the same when it becomes the server.
"""

import ctypes
import os
import signal
import sys
from collections.abc import Sequence
from typing import NoReturn

# Values of the Linux kernel's interface: linux/prctl.h, linux/capability.h and linux/securebits.h.
PR_SET_PDEATHSIG = 1
PR_SET_SECUREBITS = 28
PR_CAP_AMBIENT = 47
PR_CAP_AMBIENT_RAISE = 2
SECBIT_NO_SETUID_FIXUP = 1 << 2
CAP_DAC_OVERRIDE = 1
CAP_DAC_READ_SEARCH = 2
CAPABILITY_VERSION_3 = 0x20080522

# Containers usually grant the first and not the second; either opens the way.
KEPT_CAPABILITIES = (1 << CAP_DAC_OVERRIDE) | (1 << CAP_DAC_READ_SEARCH)


class _CapabilityHeader(ctypes.Structure):
    _fields_ = (("version", ctypes.c_uint32), ("pid", ctypes.c_int))


class _CapabilitySets(ctypes.Structure):
    _fields_ = (
        ("effective", ctypes.c_uint32),
        ("permitted", ctypes.c_uint32),
        ("inheritable", ctypes.c_uint32),
    )


def main(arguments: Sequence[str]) -> NoReturn:
    """Become `command`: arguments are parent pid, death signal, uid, gid (-1: as now), pid file, command."""
    parent, death_signal, uid, gid = map(int, arguments[:4])
    pid_file, command = arguments[4], list(arguments[5:])
    with open(pid_file, "w", encoding="ascii") as file:  # noqa: PTH123  # pathlib would double our time.
        file.write(f"{os.getpid()}\n")
    # A blocked signal stays blocked through fork and exec, and the service's libraries may have blocked some.
    signal.pthread_sigmask(signal.SIG_SETMASK, ())
    if uid >= 0:
        _become(uid, gid)
    _die_with(parent, death_signal)
    try:
        os.stat(pid_file)  # noqa: PTH116  # The server will need to come this way too.
        os.execv(command[0], command)  # noqa: S606  # No shell is wanted.
    except OSError as error:
        sys.exit(_refusal(command[0], error, uid))


def _become(uid: int, gid: int) -> None:
    """Change the account; on Linux two capabilities survive that, and will survive the exec."""
    keeps = sys.platform == "linux" and _prctl(PR_SET_SECUREBITS, SECBIT_NO_SETUID_FIXUP)
    try:
        os.setgroups([])
        os.setgid(gid)
        os.setuid(uid)
    except OSError as error:
        sys.exit(f"root cannot become user {uid} here ({error.strerror}); start the service as an ordinary user")
    if keeps:
        _keep_capabilities()


def _keep_capabilities() -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    header = _CapabilityHeader(version=CAPABILITY_VERSION_3, pid=0)
    sets = (_CapabilitySets * 2)()
    if libc.capget(ctypes.byref(header), sets) != 0:
        return
    kept = sets[0].permitted & KEPT_CAPABILITIES
    sets[0] = _CapabilitySets(effective=kept, permitted=kept, inheritable=kept)
    sets[1] = _CapabilitySets(effective=0, permitted=0, inheritable=0)
    if libc.capset(ctypes.byref(header), sets) != 0:
        sys.exit("cannot give up the privileges of root: " + os.strerror(ctypes.get_errno()))
    for capability in (CAP_DAC_OVERRIDE, CAP_DAC_READ_SEARCH):
        if kept & (1 << capability):
            _prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_RAISE, capability)


def _die_with(parent: int, death_signal: int) -> None:
    """Have Linux send `death_signal` when the parent dies; a change of account would clear that wish."""
    if sys.platform == "linux":
        _prctl(PR_SET_PDEATHSIG, death_signal)
    if os.getppid() != parent:
        sys.exit("the service that started this server has gone")


def _prctl(option: int, *arguments: int) -> bool:
    padded = [ctypes.c_ulong(argument) for argument in (*arguments, 0, 0, 0, 0)[:4]]
    return bool(ctypes.CDLL(None, use_errno=True).prctl(ctypes.c_int(option), *padded) == 0)


def _refusal(program: str, error: OSError, uid: int) -> str:
    message = f"cannot run {program}: {error.strerror}: {error.filename}"
    if isinstance(error, PermissionError) and uid >= 0:
        message += (
            f" (root runs it as user {uid}, who may not pass through that folder; "
            "start the service as an ordinary user, or put its folders where every user may pass through)"
        )
    return message


if __name__ == "__main__":
    main(sys.argv[1:])
