#!/usr/bin/env python3
"""Generated data of the vault's benchmark, the changes to it, and the comparison of images.

Everything comes from the seed that is given; scripts/vault-corpus.sh is the only caller.
"""

import hashlib
import json
import mmap
import multiprocessing
import os
import random
import sqlite3
import struct
import sys
import time

PAGE = 8192
MIB = 1 << 20


def write_logs(path, size, seed):
    """Lines as a system logger writes them, with times that grow and words that come again."""
    rng = random.Random(seed)
    hosts = [f"web{n:02}" for n in range(12)]
    units = ["sshd", "kernel", "systemd", "nginx", "postgres", "cron", "dhclient", "app-worker"]
    paths = [f"/api/v{rng.randrange(3)}/{rng.choice(units)}/{rng.randrange(5000)}" for _ in range(400)]
    clock, written = 1_700_000_000, 0
    with open(path, "ab") as out:
        while written < size:
            lines = []
            for _ in range(2000):
                bits = rng.getrandbits(64)
                clock += bits & 1
                lines.append(
                    "%d.%06d %s %s[%d]: request %016x from 10.%d.%d.%d %s took %d us status %d\n"
                    % (clock, bits % 1000000, hosts[(bits >> 3) % 12], units[(bits >> 9) & 7],
                       300 + (bits >> 12) % 9000, bits * 0x9E3779B97F4A7C15 & (1 << 64) - 1, bits >> 20 & 7,
                       bits >> 23 & 255, bits >> 31 & 255, paths[(bits >> 39) % 400], (bits >> 44) % 90000,
                       (200, 200, 200, 200, 304, 404, 200, 500)[bits >> 61]))
            text = "".join(lines).encode()
            out.write(text)
            written += len(text)


def write_random(path, size, seed):
    rng = random.Random(seed)
    with open(path, "wb") as out:
        for _ in range(size // MIB):
            out.write(rng.randbytes(MIB))


def write_files(folder, size, seed):
    """Documents of 1 to 200 KB each, of words and numbers."""
    rng = random.Random(seed)
    words = ["".join(rng.choices("etaoinshrdlucmfwyp", k=rng.randrange(2, 11))) for _ in range(6000)]
    number = 0
    while size > 0:
        text = " ".join(rng.choices(words, k=rng.randrange(200, 30000))).encode()
        place = os.path.join(folder, f"{number % 40:02}")
        os.makedirs(place, exist_ok=True)
        with open(os.path.join(place, f"document-{number}.txt"), "wb") as out:
            out.write(text)
        size -= len(text)
        number += 1


def sqlite_rows(rng, count):
    for number in range(count):
        token = rng.randbytes(20)
        yield number, token.hex(), f"item {number} of lot {token[0]}", token[:12], number * 37 % 99991


def write_sqlite(path, count, seed):
    base = sqlite3.connect(path)
    base.executescript(
        "PRAGMA page_size=8192; PRAGMA journal_mode=OFF; PRAGMA synchronous=OFF;"
        "CREATE TABLE item (id INTEGER PRIMARY KEY, token TEXT, name TEXT, body BLOB, amount INTEGER);")
    base.executemany("INSERT INTO item VALUES (?,?,?,?,?)", sqlite_rows(random.Random(seed), count))
    base.execute("CREATE INDEX item_token ON item (token)")
    base.commit()
    base.close()


def update_sqlite(path, count, seed):
    rng = random.Random(seed)
    base = sqlite3.connect(path)
    (rows,) = base.execute("SELECT max(id) FROM item").fetchone()
    base.executemany(
        "UPDATE item SET amount = ?, body = ? WHERE id = ?",
        ((rng.randrange(99991), rng.randbytes(12), rng.randrange(rows)) for _ in range(count)))
    base.commit()
    base.close()


def is_database_page(view, at):
    """Whether a PostgreSQL page with tuples begins there: its size and layout version, and sane bounds."""
    if view[at + 18] != 4 or view[at + 19] != 0x20:
        return False
    lower, upper, special = struct.unpack_from("<HHH", view, at + 12)
    return 24 < lower <= upper < special <= PAGE


def change_pages(path, count, seed):
    """Changes pages of a database in the middle of an image, as updates of a few rows do."""
    rng = random.Random(seed)
    with open(path, "r+b") as image, mmap.mmap(image.fileno(), 0) as view:
        pages = []
        at = 0
        for begin, end in data_extents(image.fileno()):
            at = max(at, begin & -4096)
            while at + PAGE <= end:
                if is_database_page(view, at):
                    pages.append(at)
                    at += PAGE
                else:
                    at += 4096
        for at in rng.sample(pages, count):
            upper = struct.unpack_from("<H", view, at + 14)[0]
            view[at:at + 8] = rng.randbytes(8)
            for _ in range(rng.randrange(2, 12)):
                length = min(64, PAGE - upper)
                place = at + rng.randrange(upper, PAGE - length + 1)
                view[place:place + length] = rng.randbytes(length // 2).hex().encode().ljust(length, b"0")
        print(f"changed {count} of {len(pages)} pages")


def change_blocks(path, count, seed):
    """Overwrites 4 KiB blocks at places of the seed: a small change between two of many points. Prints extents."""
    rng = random.Random(seed)
    places = []
    with open(path, "r+b") as image:
        size = os.fstat(image.fileno()).st_size
        for at in sorted(rng.sample(range(size // 65536), count)):
            os.pwrite(image.fileno(), rng.randbytes(2048).hex().encode(), at * 65536 + 4096 * rng.randrange(16))
            places.append({"offset": at * 65536, "length": 65536})
    print(json.dumps(places))


def data_extents(descriptor):
    at, size = 0, os.fstat(descriptor).st_size
    while at < size:
        try:
            begin = os.lseek(descriptor, at, os.SEEK_DATA)
        except OSError:
            return
        at = os.lseek(descriptor, begin, os.SEEK_HOLE)
        yield begin, at


def units_with_data(descriptor, unit):
    return {n for begin, end in data_extents(descriptor) for n in range(begin // unit, (end + unit - 1) // unit)}


def changed_units(base_path, new_path, unit):
    with open(base_path, "rb") as base, open(new_path, "rb") as new:
        units = units_with_data(base.fileno(), unit) | units_with_data(new.fileno(), unit)
        with mmap.mmap(base.fileno(), 0, prot=mmap.PROT_READ) as left, \
                mmap.mmap(new.fileno(), 0, prot=mmap.PROT_READ) as right, \
                memoryview(left) as one, memoryview(right) as two:
            step = 16 * unit
            for begin in sorted({n // 16 for n in units}):
                # One comparison for what is mostly equal, then unit by unit.
                if bytes(one[begin * step:(begin + 1) * step]) == bytes(two[begin * step:(begin + 1) * step]):
                    continue
                for at in range(begin * step, min((begin + 1) * step, len(two)), unit):
                    if bytes(one[at:at + unit]) != bytes(two[at:at + unit]):
                        yield at


def write_changed(base_path, new_path, out_path, unit):
    """The extents of the new image that differ from the base, in whole units, joined where they touch."""
    extents = []
    for at in changed_units(base_path, new_path, unit):
        if extents and extents[-1]["offset"] + extents[-1]["length"] == at:
            extents[-1]["length"] += unit
        else:
            extents.append({"offset": at, "length": unit})
    with open(out_path, "w", encoding="ascii") as out:
        json.dump(extents, out)


def used_bytes(path, unit=65536):
    """Bytes of an image that are not zero, in units of 64 KiB: what a backup has to store."""
    zeros = bytes(unit)
    total = 0
    with open(path, "rb") as image:
        for number in sorted(units_with_data(image.fileno(), unit)):
            data = os.pread(image.fileno(), unit, number * unit)
            total += len(data) if data != zeros[:len(data)] else 0
    return total


def sha256(path):
    digest = hashlib.sha256()
    buffer = memoryview(bytearray(4 * MIB))
    with open(path, "rb", buffering=0) as image:
        while count := image.readinto(buffer):
            digest.update(buffer[:count])
    return digest.hexdigest()


def image_facts(path):
    return {"bytes": os.path.getsize(path), "used_bytes": used_bytes(path), "sha256": sha256(path)}


def write_manifest(folder, version):
    images = {}
    names = sorted(name for name in os.listdir(folder) if name.endswith((".raw", ".changed.json")))
    with multiprocessing.Pool() as pool:
        later = {name: pool.apply_async(image_facts, [os.path.join(folder, name)]) for name in names
                 if name.endswith(".raw")}
        for name, facts in later.items():
            images[name] = facts.get()
    for name in names:
        path = os.path.join(folder, name)
        if name.endswith(".changed.json"):
            with open(path, encoding="ascii") as file:
                extents = json.load(file)
            images[name] = {"bytes": os.path.getsize(path), "extents": len(extents),
                            "changed_bytes": sum(extent["length"] for extent in extents)}
    text = json.dumps({"version": version, "made": int(time.time()), "files": images}, indent=1)
    with open(os.path.join(folder, "manifest.json.new"), "w", encoding="ascii") as out:
        out.write(text + "\n")
    os.rename(os.path.join(folder, "manifest.json.new"), os.path.join(folder, "manifest.json"))


def is_complete(folder, version):
    try:
        with open(os.path.join(folder, "manifest.json"), encoding="ascii") as file:
            manifest = json.load(file)
        return manifest["version"] == version and all(
            os.path.getsize(os.path.join(folder, name)) == facts["bytes"]
            for name, facts in manifest["files"].items())
    except (OSError, ValueError, KeyError):
        return False


def main(words):
    do, arguments = words[0], [int(word) if word.isdigit() else word for word in words[1:]]
    if do == "complete":
        sys.exit(0 if is_complete(*arguments) else 1)
    {"logs": write_logs, "random": write_random, "files": write_files, "sqlite": write_sqlite,
     "update-sqlite": update_sqlite, "change-pages": change_pages, "change-blocks": change_blocks,
     "changed": write_changed, "manifest": write_manifest}[do](*arguments)


if __name__ == "__main__":
    main(sys.argv[1:])
