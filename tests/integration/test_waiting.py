"""A thousand clients that wait for turns do no harm to those who read."""

import http.client
import json
import socket
import statistics
import threading
import time

from support.daemon import instant_codex
from support.process import SLOWNESS, status_kb, wait_until

WAITING = 1000


def wait_for_turn(daemon, n, results):
    body = json.dumps({"prompt": f"{n} [[hang]]", "timeoutMs": 60_000})
    connection = http.client.HTTPConnection(*daemon.address, timeout=90)
    try:
        connection.request("POST", "/api/codex/session", body, {"Content-Type": "application/json"})
        results[n] = connection.getresponse().status
    except (OSError, http.client.HTTPException) as error:
        results[n] = error
    finally:
        connection.close()


def test_a_thousand_waiting_turns_leave_reads_unharmed(make_daemon):
    threading.stack_size(256 * 1024)
    try:
        daemon = make_daemon(codex=instant_codex(), engine="app-server").start()
        conversation = daemon.ask("hello")["conversationId"]
        results = {}
        waiters = [threading.Thread(target=wait_for_turn, args=(daemon, n, results)) for n in range(WAITING)]
        for waiter in waiters:
            waiter.start()
        wait_until(lambda: daemon.stats()["turns"]["running"] == WAITING, "all turns run", 60)

        reader = http.client.HTTPConnection(*daemon.address, timeout=30)
        reader.connect()
        reader.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        times = []
        for _ in range(300):
            begun = time.monotonic()
            reader.request("GET", f"/api/codex/history/{conversation}")
            response = reader.getresponse()
            assert response.status == 200 and b"hello" in response.read()
            times.append(time.monotonic() - begun)
        reader.close()
        assert statistics.median(times) < 0.01 * SLOWNESS
        assert sorted(times)[-6] < 0.1 * SLOWNESS
        assert status_kb(daemon.pid, "VmRSS") < 512 * 1024 * SLOWNESS
        assert not results
        # And another prompt is still served.
        assert daemon.ask("in between")["success"] is True
        daemon.stop()
        for waiter in waiters:
            waiter.join(30)
        assert len(results) == WAITING
        # Each client was told; none got a false success.
        assert 200 not in results.values()
    finally:
        threading.stack_size(0)
