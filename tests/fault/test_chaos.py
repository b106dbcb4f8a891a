"""Three real daemons and a real Redis, whatever happens to them: nothing that was acknowledged is lost, and all hosts end
alike. The order of what happens is a seed's; how it interleaves is the machine's."""

import pytest
from chaos_world import World

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
