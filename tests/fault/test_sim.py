"""Hosts that share a Redis, simulated: seeds of everything that can go wrong at once, and the proof that the
simulation notices when the product is broken on purpose."""

import subprocess

import pytest

# Each breaks one thing, and some seed from 1 on must fail.
MUTANTS = [
    "lua_nogap", "lua_delany", "lua_notomb", "lua_nolimit", "lua_short", "lua_twice", "no_dirty", "no_tomb",
    "first_origin", "wall_clock",
]


def simulate(programs, first, last, *options, timeout):
    return subprocess.run([programs / "sim", str(first), str(last), *options], capture_output=True, text=True,
                          timeout=timeout)


def test_all_invariants_hold_whatever_happens(programs, long):
    seeds = 2000 if long else 200
    done = simulate(programs, 1, 1 + seeds, "-v", timeout=seeds * 5)
    assert done.returncode == 0, done.stdout[-20000:] + done.stderr


@pytest.mark.parametrize("mutant", MUTANTS)
def test_a_broken_product_is_noticed(programs, mutant):
    done = simulate(programs, 1, 120, mutant, timeout=300)
    assert done.returncode == 1, f"{mutant} went unnoticed: {done.stdout}{done.stderr}"
