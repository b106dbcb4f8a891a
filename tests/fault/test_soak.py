"""Many requests and turns: nothing that the daemon holds grows with them."""

import json
import os
import subprocess
import time
from pathlib import Path

from support.daemon import daemon_binary
from support.process import alive, children, status_kb, wait_until


def held(daemon):
    """Descriptors, threads, resident kB."""
    fds = len(os.listdir(f"/proc/{daemon.pid}/fd"))
    return fds, status_kb(daemon.pid, "Threads"), status_kb(daemon.pid, "VmRSS")


def run_load(daemon, folder, connections, count, lines):
    """`count` requests taken in turn from `lines`; all must be answered with 2xx."""
    requests = folder / "requests"
    requests.write_text("".join(f"{line}\n" for line in lines), "utf-8")
    program = Path(daemon_binary()).resolve().parent / "tests/bench/bench_load"
    done = subprocess.run([program, str(daemon.port), str(connections), "600", requests, "--max", str(count)],
                          capture_output=True, text=True, timeout=700, check=True)
    got = json.loads(done.stdout)
    assert got["errors"] == 0 and got["requests"] == count, got


def turn_line(conversation, prompt):
    return "POST /api/codex/continue " + json.dumps({"conversationId": conversation, "prompt": prompt})


def zombies(pid):
    return [child for child in children(pid) if not alive(child)]


def test_nothing_that_the_daemon_holds_grows_with_its_work(make_daemon, ram, long):
    """Reads go to conversations that do not change, turns to others: caches are full after the warm-up, and what grows then
    is a leak."""
    requests, turns = (200_000, 500) if long else (40_000, 200)
    daemon = make_daemon(args=["--http-threads", "64", "--log-level", "warn"])
    daemon.start()
    read, told = ([daemon.ask(f"first {'x' * 500}")["conversationId"] for _ in range(20)] for _ in "rt")
    what = [f"{kind}/{one}" for one in read for kind in ("history", "session")] + ["stats", "sessions?limit=5"]
    reads = [f"GET /api/codex/{path}" for path in what] + ["GET /healthz"]
    run_load(daemon, ram, 20, 1000, [turn_line(conversation, "warm " + "x" * 500) for conversation in read])
    run_load(daemon, ram, 20, 500, [turn_line(conversation, "warm " + "x" * 500) for conversation in told])
    run_load(daemon, ram, 32, 30000, reads)
    seen = []
    for quarter in range(4):
        lines = [turn_line(conversation, f"quarter {quarter}") for conversation in told]
        run_load(daemon, ram, 20, turns // 4, lines)
        run_load(daemon, ram, 32, requests // 4, reads)
        wait_until(lambda: not zombies(daemon.pid), "children are reaped")
        time.sleep(0.5)  # closed connections are cleared away
        seen.append(held(daemon))
        print(f"quarter {quarter}: descriptors, threads, kB: {seen[-1]}")
    _, second, _, last = seen
    assert last[0] <= second[0] + 2, f"descriptors grow: {seen}"
    assert last[1] <= second[1], f"threads grow: {seen}"
    assert last[2] <= second[2] * 1.05, f"memory grows: {seen}"
    assert daemon.stats()["turns"]["running"] == 0
