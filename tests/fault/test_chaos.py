"""Three real daemons and a real Redis, whatever happens to them: nothing that was acknowledged is lost, and all hosts end
alike. The order of what happens is a seed's; how it interleaves is the machine's."""

import time

import pytest
from chaos_world import LIMITS, World

# The first ones, and those that once failed.
SEEDS = list(range(1, 13))
MORE = list(range(13, 51))


def live_through(seed, ram, codex, rounds=6):
    world = World(seed, ram, codex)
    try:
        world.begin()
        world.run(rounds, (10, 30))
        print(f"seed {seed}: {world.turns} turns, {len(world.told)} sessions")
    except BaseException:
        print(f"seed {seed}:\n" + "\n".join(world.story))
        for host in world.hosts:
            print(f"--- log of {host.name} ---\n{host.daemon.log_tail(80)}")
        raise
    finally:
        world.end()
    assert world.turns > 20, "hardly anything happened"


@pytest.mark.parametrize("seed", [*SEEDS, *(pytest.param(seed, marks=pytest.mark.long) for seed in MORE)])
def test_hosts_live_through_everything_and_end_alike(ram, forgetful_codex, seed):
    live_through(seed, ram, forgetful_codex)


def test_a_host_that_is_put_back_to_its_backup_comes_to_rest_unasked(ram, forgetful_codex):
    """What it said since comes back to it from Redis, and is not news."""
    world = World(0, ram, forgetful_codex)
    try:
        world.begin()
        host, told = world.hosts[0], next(iter(world.told.values()))
        world.do_backup(host)
        for _ in range(3):
            world.go_on(host, told, *world.prompt())
        world.sync_all()
        world.do_go_back(host)
        world.settle(alone=True)
        assert len(host.view().rows[told.sid]) == 8
    finally:
        world.end()


def test_what_is_deleted_leaves_the_archives_of_other_hosts_too(ram, forgetful_codex):
    """Also where the word of it is lost with Redis's log."""
    world = World(0, ram, forgetful_codex)
    try:
        world.begin()
        here, there, _ = world.hosts
        sid = here.daemon.ask("one", userId="bob")["sessionId"]
        world.sync_all()
        for n in range(LIMITS["bob"]):
            here.daemon.ask(f"another {n}", userId="bob")
        world.sync_all()
        for host in (here, there):
            assert sid in host.view().rows.keys() - host.view().live, "it was put out"
        world.redis.admin("FLUSHALL")
        assert here.request("DELETE", f"/api/codex/session/{sid}").status == 200
        for _ in range(2):
            world.sync_all()
        assert sid not in there.view().rows
    finally:
        world.end()


def test_a_tombstone_comes_back_to_redis_also_if_it_is_the_users_last_trace_on_its_host(ram, forgetful_codex):
    world = World(0, ram, forgetful_codex)
    try:
        world.begin()
        host = world.hosts[0]
        sid = host.daemon.ask("one", userId="carol")["sessionId"]
        world.sync_all()
        assert host.request("DELETE", f"/api/codex/session/{sid}").status == 200
        world.sync_all()
        world.redis.admin("FLUSHALL")
        world.sync_all()
        assert world.redis.admin("EXISTS", f"cx:tomb:{sid}") == 1
    finally:
        world.end()


@pytest.mark.parametrize("seconds", [0, 0.01, 0.5, 2.5])
def test_what_redis_acknowledged_and_lost_is_sent_again_unasked(ram, forgetful_codex, seconds):
    """However far the word of it had come meanwhile; nobody else has it."""
    world = World(0, ram, forgetful_codex)
    try:
        world.begin()
        world.sync_all()
        world.redis.snapshot()
        host, *others = world.hosts
        for other in others:
            other.daemon.kill9()
        told = next(iter(world.told.values()))
        world.go_on(host, told, *world.prompt())
        time.sleep(seconds)
        world.redis.restart_from_snapshot()
        world.heal()
        world.settle(alone=True)
        assert len(host.view().rows[told.sid]) == 4
    finally:
        world.end()
