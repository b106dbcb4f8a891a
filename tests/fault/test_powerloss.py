"""Power loss: nothing that was acknowledged is lost, and a store that does not sync its commits is found out."""

import random

from daemon_oracle import acknowledged, check_after_restart, check_all, join_clients, make_clients, start_clients
from powerloss import power_loss
from store_oracle import Oracle


def lose_power(programs, program, folder, folders, lives, stop_at_loss=False):
    """Runs the program over and over on a disk that loses its power. Returns runs made and runs that lost something."""
    runs = losses = 0
    for number in range(folders):
        data, journal = folder / f"data-{number}", folder / f"journal-{number}"
        journal.mkdir()
        oracle = Oracle(program, data)
        for life in range(lives):
            runs += 1
            rng = random.Random(1000 * number + life)
            kill_at = int(2 ** rng.uniform(2, 13))  # now in the first open, now after several checkpoints
            done = oracle.live({
                "LD_PRELOAD": str(programs / "powerloss.so"),
                "POWERLOSS_DIR": str(data),
                "POWERLOSS_JOURNAL": str(journal),
                "POWERLOSS_KILL_AT": str(kill_at),
            })
            assert done.returncode == -9, f"it did not live to its end: {done.returncode}\n{done.stderr[-2000:]}"
            power_loss(data, journal, keep=rng.choice([0, 0, 0.3, 0.7, 0.95]), seed=runs)
            missing = oracle.check()
            losses += bool(missing)
            if missing and stop_at_loss:
                return runs, losses
            assert not missing or program.name == "store_load_normal", (
                f"run {runs} (folder {number}, life {life}, killed at change {kill_at}) lost {sorted(missing)[:5]}")
    return runs, losses


def test_no_acknowledged_write_is_lost_with_the_power(programs, ram, long):
    folders, lives = (20, 10) if long else (10, 5)
    runs, losses = lose_power(programs, programs / "store_load", ram, folders, lives)
    assert (runs, losses) == (folders * lives, 0)


def test_a_store_that_does_not_sync_its_commits_is_found_out(programs, ram):
    _, losses = lose_power(programs, programs / "store_load_normal", ram, 10, 3, stop_at_loss=True)
    assert losses == 1, "synchronous=NORMAL lost nothing: this test cannot see what it is for"


def test_no_answer_of_the_daemon_is_lost_with_the_power(make_daemon, forgetful_codex, programs, ram, long):
    """The whole way, from the commit to the client's socket."""
    daemon, journal = make_daemon(codex=forgetful_codex), ram / "journal"
    journal.mkdir()
    rng, clients = random.Random(9), make_clients(4)
    for life in range(40 if long else 10):
        daemon.more_env = {
            "LD_PRELOAD": str(programs / "powerloss.so"),
            "POWERLOSS_DIR": str(daemon.data_dir),
            "POWERLOSS_JOURNAL": str(journal),
            "POWERLOSS_KILL_AT": str(rng.randint(150, 4000)),
        }
        daemon.start()
        check_after_restart(daemon, clients)
        clients = start_clients(daemon, clients)
        join_clients(clients)  # they end when it does, or at a problem
        if not any(client.problems for client in clients):
            assert daemon.process.wait(10) == -9, f"it did not live to its end\n{daemon.log_tail()}"
        daemon.kill9()
        power_loss(daemon.data_dir, journal, keep=rng.choice([0, 0, 0.5, 0.9]), seed=life)
    daemon.more_env = {}
    daemon.start()
    check_after_restart(daemon, clients)
    check_all(daemon, clients)
    assert acknowledged(clients) > 100, "there was hardly any load"
