"""Waiting, and looking at processes."""

import os
import subprocess
import time

# Sanitizer builds are slower: scripts/test scales every deadline of the harness by this.
SLOWNESS = float(os.environ.get("CS_SLOWNESS", "1"))


def wait_until(condition, what, seconds=10.0, step=0.01):
    """The first true value of condition(); an AssertionError that names `what` after `seconds`."""
    deadline = time.monotonic() + seconds * SLOWNESS
    while True:
        value = condition()
        if value:
            return value
        if time.monotonic() > deadline:
            raise AssertionError(f"waited {seconds * SLOWNESS:.0f} s in vain: {what}")
        time.sleep(step)


def as_user(uid):
    """A command prefix: what follows runs as another user."""
    prefix = ["setpriv", f"--reuid={uid}", f"--regid={uid}", "--clear-groups"]
    done = subprocess.run([*prefix, "true"], check=False, capture_output=True, text=True)
    assert done.returncode == 0, (
        f"cannot become user {uid}: run scripts/test as root, or as a user with subordinate ids in "
        f"/etc/subuid and /etc/subgid where user namespaces are permitted ({done.stderr.strip()})"
    )
    return prefix


def alive(pid):
    """Whether the process runs: a zombie does not."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            return file.read().rsplit(b")", 1)[1].split()[0] not in (b"Z", b"X")
    except (FileNotFoundError, ProcessLookupError):
        return False


def children(pid):
    """The pids of the direct children, of every thread."""
    found = []
    try:
        for task in os.listdir(f"/proc/{pid}/task"):
            with open(f"/proc/{pid}/task/{task}/children", encoding="ascii") as file:
                found += [int(word) for word in file.read().split()]
    except (FileNotFoundError, ProcessLookupError):
        pass
    return found


def descendants(pid):
    found = []
    for child in children(pid):
        found += [child, *descendants(child)]
    return found


def command_line(pid):
    try:
        with open(f"/proc/{pid}/cmdline", "rb") as file:
            return file.read().decode("utf-8", "replace").split("\0")[:-1]
    except (FileNotFoundError, ProcessLookupError):
        return []


def status_kb(pid, key):
    """A figure of /proc/PID/status in kB, such as VmRSS; or a plain number, such as Threads."""
    with open(f"/proc/{pid}/status", encoding="ascii") as file:
        for line in file:
            if line.startswith(key + ":"):
                return int(line.split()[1])
    raise KeyError(key)
