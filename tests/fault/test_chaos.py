"""Three real daemons and a real Redis, whatever happens to them: nothing that was acknowledged is lost, and all hosts end
alike. The order of what happens is a seed's; how it interleaves is the machine's. So what a seed found has a test of its
own, below."""

import time

import pytest
from chaos_world import LIMITS, World

SEEDS = range(1, 12)
MORE = range(12, 51)


@pytest.mark.parametrize("seed", [*SEEDS, *(pytest.param(seed, marks=pytest.mark.long) for seed in MORE)])
def test_hosts_live_through_everything_and_end_alike(ram, forgetful_codex, seed):
    world = World(seed, ram, forgetful_codex)
    try:
        world.begin()
        world.run(rounds=6, steps=(10, 30))
        print(f"seed {seed}: {world.turns} turns, {len(world.told)} sessions")
    except BaseException:
        print(f"seed {seed}:\n" + "\n".join(world.story))
        for host in world.hosts:
            print(f"--- log of {host.name} ---\n{host.daemon.log_tail(80)}")
        raise
    finally:
        world.end()
    assert world.turns > 20, "hardly anything happened"


@pytest.fixture
def world(ram, forgetful_codex):
    """One with a few sessions, where nothing happens by itself."""
    made = World(0, ram, forgetful_codex)
    try:
        made.begin()
        yield made
    finally:
        made.end()


def test_a_host_that_is_put_back_to_its_backup_comes_to_rest_unasked(world):
    """What it said since comes back to it from Redis, and is not news."""
    host, told = world.hosts[0], next(iter(world.told.values()))
    world.do_backup(host)
    for _ in range(3):
        world.go_on(host, told, *world.prompt())
    world.sync_all()
    world.do_go_back(host)
    world.settle(alone=True)
    assert len(host.view().rows[told.sid]) == 8


def test_what_is_deleted_leaves_the_archives_of_other_hosts_too(world):
    """Also where the word of it is lost with Redis's log."""
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


def test_a_tombstone_comes_back_to_redis_also_if_it_is_the_users_last_trace_on_its_host(world):
    host = world.hosts[0]
    sid = host.daemon.ask("one", userId="carol")["sessionId"]
    world.sync_all()
    assert host.request("DELETE", f"/api/codex/session/{sid}").status == 200
    world.sync_all()
    world.redis.admin("FLUSHALL")
    world.sync_all()
    assert world.redis.admin("EXISTS", f"cx:tomb:{sid}") == 1


@pytest.mark.parametrize("seconds", [0.01, 2.5])
def test_what_redis_acknowledged_and_lost_is_sent_again_unasked(world, seconds):
    """However far the word of it had come meanwhile; nobody else has it."""
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
