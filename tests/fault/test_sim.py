"""Hosts that share a Redis, simulated: seeds of everything that can go wrong at once, and the proof that the
simulation notices when the product is broken on purpose."""

import subprocess

import pytest

# Each breaks one thing; the seed is the first that it does not survive.
MUTANTS = {
    "lua_nogap": 4, "lua_nocas": 25, "lua_notomb": 9, "lua_delany": 1, "lua_nottl": 1, "lua_nolimit": 12,
    "lua_short": 4, "lua_twice": 1, "lua_noslide": 1, "lua_nolead": 24, "lua_nosha": 50, "lua_anylease": 21,
    "no_dirty": 1, "no_unsent": 2, "no_tomb": 35, "no_return": 8, "no_fetch": 6, "no_confirm": 39, "all_sent": 1,
    "clean_all": 58, "clean_never": 1, "first_origin": 1, "wall_clock": 1,
}
DRIFT = 60  # seeds more, for the day on which another request changes what a seed does


def simulate(programs, first, last, *options, timeout):
    return subprocess.run([programs / "sim", str(first), str(last), *options], capture_output=True, text=True,
                          timeout=timeout)


def test_all_invariants_hold_whatever_happens(programs, long):
    seeds = 2000 if long else 200
    done = simulate(programs, 1, 1 + seeds, "-v", timeout=seeds * 5)
    assert done.returncode == 0, done.stdout[-20000:] + done.stderr
    print(done.stdout)


@pytest.mark.parametrize("seed", [1776])
def test_what_a_late_seed_found_stays_mended(programs, seed):
    done = simulate(programs, seed, seed + 1, "-v", timeout=100)
    assert done.returncode == 0, done.stdout[-20000:] + done.stderr


def test_a_seed_decides_everything(programs):
    runs = [simulate(programs, 1, 6, timeout=100).stdout.splitlines()[-1] for _ in range(2)]
    assert "digest" in runs[0] and runs[0] == runs[1]


@pytest.mark.parametrize(("mutant", "seed"), MUTANTS.items())
def test_a_broken_product_is_noticed(programs, mutant, seed):
    done = simulate(programs, seed, seed + DRIFT, mutant, timeout=300)
    assert "no script has the text" not in done.stdout, done.stdout
    assert done.returncode == 1, f"{mutant} went unnoticed: {done.stdout}{done.stderr}"
