"""What safe Rust cannot do to a node: an ioctl on its filesystem, and a filter of its syscalls.

Called by harness/loop_disk.rs, as one of
  power_cut.py cut PID:MOUNT...        freezes these processes; then their filesystems take no byte more, and
                                       forget what was not synced
  power_cut.py fail PID:MOUNT          the same to one filesystem under a process that runs on: writes give EIO
  power_cut.py lie BINARY ARGUMENT...  becomes BINARY, whose every sync is answered with success and not done
"""

import ctypes
import fcntl
import os
import platform
import signal
import struct
import sys
import time
from pathlib import Path

# _IOR('X', 125, __u32), the same for ext4 and XFS; the flag leaves the journal's memory unwritten.
FS_IOC_SHUTDOWN = 0x8004587D
NOLOGFLUSH = 2
FREEZE_SECONDS_MAX = 10

PR_SET_SECCOMP = 22
PR_SET_NO_NEW_PRIVS = 38
SECCOMP_MODE_FILTER = 2
SECCOMP_RET_ALLOW = 0x7FFF0000
# Skips the call and returns minus the number in the low bits: 0, success.
SECCOMP_RET_ERRNO_0 = 0x00050000
# Places in struct seccomp_data.
NUMBER_AT, ARCH_AT = 0, 4
# Instructions of classic BPF: load a word of the call, jump if it equals, return.
LOAD, JUMP_EQUAL, RETURN = 0x20, 0x15, 0x06

# The audit name of each machine, and the numbers of its fsync, fdatasync, msync, sync_file_range, sync, syncfs.
MACHINES = {
    "x86_64": (0xC000003E, (74, 75, 26, 277, 162, 306)),
    "aarch64": (0xC00000B7, (82, 83, 227, 84, 81, 267)),
}


def states(pid):
    """What each thread of a process does: T is stopped, D is in a call that must end before it stops."""
    stats = Path(f"/proc/{pid}/task").glob("*/stat")
    return {stat.read_text().rpartition(")")[2].split()[0] for stat in stats}


def freeze(pids, still):
    """Stops processes, and returns when every thread of each is in one of the states `still`."""
    for pid in pids:
        os.kill(int(pid), signal.SIGSTOP)
    end = time.monotonic() + FREEZE_SECONDS_MAX
    while not all(states(pid) <= still for pid in pids):
        if time.monotonic() > end:
            raise TimeoutError(f"{pids} do not freeze")


def shut_down(folder):
    fcntl.ioctl(folder, FS_IOC_SHUTDOWN, struct.pack("I", NOLOGFLUSH))


# ext4 and XFS can answer a sync that is under way with success although the shutdown took it back. A live process
# would acknowledge what is gone, and its cluster would rightly call that a disk which lost what it had synced. So no
# process learns the answer of such a sync: a cut leaves it frozen, and a failure waits until no call is under way.


def cut(nodes):
    pids, mounts = zip(*(node.split(":", 1) for node in nodes))
    # Open before, so that all go down within microseconds.
    folders = [os.open(mount, os.O_RDONLY | os.O_DIRECTORY) for mount in mounts]
    freeze(pids, still={"T", "D"})
    for folder in folders:
        shut_down(folder)


def fail(nodes):
    (node,) = nodes
    pid, mount = node.split(":", 1)
    folder = os.open(mount, os.O_RDONLY | os.O_DIRECTORY)
    freeze([pid], still={"T"})
    shut_down(folder)
    os.kill(int(pid), signal.SIGCONT)


class Program(ctypes.Structure):
    """struct sock_fprog."""

    _fields_ = [("len", ctypes.c_ushort), ("filter", ctypes.c_char_p)]


def filter_of_syncs():
    arch, numbers = MACHINES[platform.machine()]

    def instruction(code, value, if_equal=0, if_not=0):
        return struct.pack("HBBI", code, if_equal, if_not, value)

    # A call of another architecture goes to the last instruction but one, which allows it.
    steps = [
        instruction(LOAD, ARCH_AT),
        instruction(JUMP_EQUAL, arch, if_not=1 + len(numbers)),
        instruction(LOAD, NUMBER_AT),
    ]
    for place, number in enumerate(numbers):
        steps.append(instruction(JUMP_EQUAL, number, if_equal=len(numbers) - place))
    steps.append(instruction(RETURN, SECCOMP_RET_ALLOW))
    steps.append(instruction(RETURN, SECCOMP_RET_ERRNO_0))
    return steps


def lie(command):
    steps = filter_of_syncs()
    program = Program(len(steps), b"".join(steps))
    libc = ctypes.CDLL(None, use_errno=True)
    zero = ctypes.c_ulong(0)
    # The filter stays over exec and holds for every thread to come.
    for option, value, rest in (
        (PR_SET_NO_NEW_PRIVS, ctypes.c_ulong(1), zero),
        (PR_SET_SECCOMP, ctypes.c_ulong(SECCOMP_MODE_FILTER), ctypes.byref(program)),
    ):
        if libc.prctl(option, value, rest, zero, zero) != 0:
            raise OSError(ctypes.get_errno(), f"prctl {option}")
    os.execv(command[0], command)


if __name__ == "__main__":
    {"cut": cut, "fail": fail, "lie": lie}[sys.argv[1]](sys.argv[2:])
