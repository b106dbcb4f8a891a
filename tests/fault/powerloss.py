"""What a disk holds after a power loss: reads the journal that powerloss.c wrote and takes changes back.

Everything that was synced stays. Of the later writes none stays (keep=0), or each one by chance, and then now and then only
some of its 512-byte sectors. Names are put back to the last sync of their folder, or to any moment after it.
"""

import os
import random
import re
import struct
from pathlib import Path

WRITE, TRUNCATE, SYNC, CREATE, UNLINK, RENAME, DIR_SYNC = range(1, 8)
HEAD = struct.Struct("=7Q")
SECTOR = 512


class Record:
    def __init__(self, kind, ino, offset, length, old_size, path, old):
        self.kind, self.ino, self.offset, self.length = kind, ino, offset, length
        self.old_size, self.path, self.old = old_size, path, old
        self.new = b""


def read_journal(journal):
    data = (Path(journal) / "journal").read_bytes()
    at = 0
    while at + HEAD.size <= len(data):
        kind, ino, offset, length, old_size, path_len, old_len = HEAD.unpack_from(data, at)
        at += HEAD.size
        if at + path_len + old_len > len(data):
            break  # died while noting it: the change did not happen
        path = data[at : at + path_len].decode()
        at += path_len
        yield Record(kind, ino, offset, length, old_size, path, data[at : at + old_len])
        at += old_len


def _take_back(content, record):
    """Undo one change, remembering in the record what it had brought."""
    if record.kind == WRITE:
        record.new = bytes(content[record.offset : record.offset + record.length])
        content[record.offset : record.offset + len(record.old)] = record.old
        del content[record.old_size :]
    else:
        del content[record.length :]
        content.extend(b"\0" * (record.offset - len(content)))
        content.extend(record.old)
    content.extend(b"\0" * (record.old_size - len(content)))


def _redo(content, record, rng):
    if record.kind == TRUNCATE:
        del content[record.length :]
        content.extend(b"\0" * (record.length - len(content)))
        return
    torn = rng.random() < 0.1
    for start in range(0, len(record.new), SECTOR):
        if torn and rng.random() < 0.5:
            continue
        piece = record.new[start : start + SECTOR]
        at = record.offset + start
        content.extend(b"\0" * (at + len(piece) - len(content)))
        content[at : at + len(piece)] = piece


def _roll_back_bytes(path, records, keep, rng):
    content = bytearray(path.read_bytes())
    for record in reversed(records):
        _take_back(content, record)
    for record in records:
        if rng.random() < keep:
            _redo(content, record, rng)
    with open(path, "r+b") as file:  # the same inode, the same mode
        file.write(content)
        file.truncate(len(content))


def _roll_back_name(journal, record):
    saved = Path(journal) / f"saved-{record.offset}"
    if record.kind == CREATE:
        Path(record.path).unlink(missing_ok=True)
    elif record.kind == UNLINK:
        if not os.path.lexists(record.path):
            os.rename(saved, record.path)
    else:
        source, target = record.path.split("\n")
        if os.path.lexists(target):
            os.rename(target, source)
        if record.offset:
            os.rename(saved, target)


def power_loss(directory, journal, *, keep=0.0, seed=0):
    """Leave `directory` as a disk could after the process that the shim watched has died, and empty the journal.
    Returns how many changes had not been synced."""
    rng = random.Random(seed)
    unsynced, names = {}, {}
    for record in read_journal(journal):
        if record.kind in (WRITE, TRUNCATE):
            unsynced.setdefault(record.ino, []).append(record)
        elif record.kind == SYNC:
            unsynced.pop(record.ino, None)
        elif record.kind == DIR_SYNC:
            names.pop(record.path, None)
        else:
            names.setdefault(os.path.dirname(record.path.split("\n")[0]), []).append(record)
    done = 0
    for root in (Path(directory), Path(journal)):
        for path in root.rglob("*"):
            if path.is_file() and path.name != "journal":
                records = unsynced.get(path.stat().st_ino)
                if records:
                    _roll_back_bytes(path, records, keep, rng)
                    done += len(unsynced.pop(path.stat().st_ino))
    for records in names.values():
        stay = rng.randint(0, len(records)) if keep else 0  # names change in order
        for record in reversed(records[stay:]):
            _roll_back_name(journal, record)
    lost = done + sum(map(len, unsynced.values())) + sum(map(len, names.values()))
    for path in Path(journal).iterdir():
        if path.name == "journal" or re.fullmatch(r"saved-\d+", path.name):
            path.unlink()
    for path in Path(directory).rglob("*-shm"):
        path.unlink()  # memory: no power loss preserves it
    return lost
