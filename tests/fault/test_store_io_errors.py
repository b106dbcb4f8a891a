"""The store on a disk that fails: an error costs the write that it hits, and nothing else."""

import random

import pytest
from powerloss import power_loss
from store_oracle import Oracle

EIO, ENOSPC = 5, 28


class FailingDisk:
    """A store under the shim; fail() runs one life with faults."""

    def __init__(self, programs, folder):
        self.data, self.journal = folder / "data", folder / "journal"
        self.journal.mkdir(parents=True)
        self.oracle = Oracle(programs / "store_load", self.data)
        self.shim = str(programs / "powerloss.so")

    def live(self, count=100000, **options):
        env = {f"POWERLOSS_{name.upper()}": str(value) for name, value in options.items()}
        return self.oracle.live({"LD_PRELOAD": self.shim, "POWERLOSS_DIR": str(self.data),
                                 "POWERLOSS_JOURNAL": str(self.journal), **env}, threads=2, count=count)


def names(done, verb):
    return [line.split() for line in done.stdout.splitlines() if line.startswith(verb)]


@pytest.mark.parametrize("errno,word", [(EIO, "io"), (ENOSPC, "disk_full")])
def test_each_single_failure_costs_only_what_it_hit(programs, ram, long, errno, word):
    """From the first change of an empty folder on, each one fails once."""
    opened = refused = 0
    for at in range(1, 400 if long else 120):
        disk = FailingDisk(programs, ram / str(at))
        done = disk.live(count=12, fail_at=at, errno=errno)
        if done.returncode == 1:
            assert done.stderr.startswith("store_load: ") and not disk.oracle.acked, f"change {at}: {done.stderr}"
        else:
            opened += 1
            assert done.returncode == 0, f"change {at}: ended with {done.returncode}\n{done.stderr[-2000:]}"
            assert names(done, "ack"), f"change {at}: it did not heal"
            words = {line[2] for line in names(done, "nack")}
            assert words <= {word, "io"}, f"change {at}: {words}"  # a sync that fails is "io", whatever its reason
            refused += word in words
        assert not disk.oracle.check(), f"change {at} lost acknowledged writes"
    assert opened > 10 and refused > 10, f"hardly any fault was met: {opened} lives, {refused} with a refusal"


def test_a_disk_that_keeps_failing_and_then_loses_its_power(programs, ram, long):
    """Refused and lost have to stay what they are when errors and a power loss come together."""
    for number in range(20 if long else 6):
        disk = FailingDisk(programs, ram / str(number))
        disk.oracle.refusals_are_final = False  # a commit that failed may be there after a crash: its fate was not known
        assert disk.live(count=1).returncode == 0
        for life in range(4):
            rng = random.Random(100 * number + life)
            done = disk.live(fail_at=rng.randint(20, 60), fail_every=rng.randint(5, 40),
                             kill_at=rng.randint(100, 1500))
            assert done.returncode in (-9, 1), f"ended with {done.returncode}\n{done.stderr[-2000:]}"
            power_loss(disk.data, disk.journal, keep=rng.choice([0, 0.5, 0.9]), seed=life)
            assert not disk.oracle.check(), f"folder {number}, life {life} lost acknowledged writes"
