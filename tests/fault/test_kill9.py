"""kill -9 of the daemon under load, again and again: what it acknowledged is there, each once; what ran is interrupted; every
conversation goes on with all it knew."""

import os
import random
import time

from daemon_oracle import acknowledged, check_after_restart, check_all, join_clients, make_clients, start_clients


def test_what_was_acknowledged_survives_kill_9(make_daemon, forgetful_codex, long):
    daemon = make_daemon(codex=forgetful_codex)
    lives = int(os.environ.get("CS_LIVES", "1000" if long else "100"))
    rng, clients = random.Random(4), make_clients(6)
    for _ in range(lives):
        daemon.start()
        check_after_restart(daemon, clients)
        clients = start_clients(daemon, clients)
        time.sleep(rng.uniform(0.02, 0.4))
        daemon.kill9()
        join_clients(clients)
    daemon.start()
    check_after_restart(daemon, clients)
    check_all(daemon, clients)
    print(f"{lives} lives, {acknowledged(clients)} acknowledged turns")
    assert acknowledged(clients) > lives, "there was hardly any load"
