"""Runs store_load and holds what it acknowledged against what the store has."""

import json
import os
import subprocess


class Oracle:
    """One store over several lives. Everything acknowledged must be there, each once, in order, and nothing else than was
    sent."""

    def __init__(self, program, data, env=None):
        self.program, self.data, self.env = program, data, env or {}
        self.acked, self.refused, self.lost = set(), set(), set()
        self.lives = 0
        self.refusals_are_final = True
        data.mkdir(exist_ok=True)

    def live(self, env, threads=4, count=100000):
        """Append until the program ends (a fault makes it); returns the process."""
        self.lives += 1
        command = [self.program, "run", self.data, str(threads), str(count), f"life{self.lives}"]
        done = subprocess.run(command, env={**os.environ, **self.env, **env}, capture_output=True, text=True, timeout=120)
        lines = [line.split() for line in done.stdout.split("\n")[:-1]]
        assert not [line for line in lines if line[:2] == ["open", "quarantined"]], f"quarantined: {done.stdout[:300]}"
        self.acked |= {line[1] for line in lines if line[0] == "ack"}
        self.refused |= {line[1] for line in lines if line[0] == "nack"}
        return done

    def check(self):
        """Read everything back; the acknowledged messages that are missing. They are reported once."""
        done = subprocess.run([self.program, "list", self.data], env={**os.environ, **self.env}, capture_output=True,
                              text=True, timeout=120)
        assert done.returncode == 0 and done.stdout.endswith("end\n"), f"unreadable: {done.stderr or done.stdout[-500:]}"
        assert not done.stdout.startswith("open quarantined"), done.stdout[:300]
        present = []
        for line in done.stdout.splitlines()[1:-1]:
            session = [message["content"].split(" ")[0] for message in json.loads(line) if message["type"] != "error"]
            self._check_order(session)
            present += session
        twice = len(present) - len(set(present))
        assert twice == 0, f"{twice} messages are there more than once"
        back = self.refused & set(present)
        assert not back or not self.refusals_are_final, f"refused, and there all the same: {sorted(back)[:5]}"
        missing = self.acked - set(present) - self.lost
        self.lost |= missing
        return missing

    @staticmethod
    def _check_order(session):
        """A session's ids: life and thread are its own, numbers go up, no answer without its prompt before it."""
        keys = [id.rsplit("-", 1) for id in session]
        assert len({owner for owner, _ in keys}) <= 1, f"sessions are mixed up: {session[:8]}"
        steps = [(int(part[:-1]), part[-1] == "a") for _, part in keys]
        assert steps == sorted(steps), f"out of order: {session}"
        assert all((n, False) in steps for n, answer in steps if answer), f"an answer without its prompt: {session}"
