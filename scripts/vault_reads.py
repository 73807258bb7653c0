#!/usr/bin/env python3
"""How long random 4 KiB reads take, over NBD or from a mounted file, and what the page cache holds before.

  vault_reads.py reads IMAGE COUNT SEED nbd:SOCKET|file:PATH   every byte is compared with IMAGE; prints lines
                                                               "pass<TAB>p50_us<TAB>p99_us<TAB>max_us"
  vault_reads.py evict PATH...       drops the files, or those below the folders, from the page cache
  vault_reads.py warm IMAGE          brings what an image holds, without its holes, into the page cache

Passes: cold, the first reads of all; new, other places in the same process; warm, the first places again.
"""

import os
import random
import socket
import struct
import sys
import time

BLOCK = 4096
MIB = 1 << 20
OPTION_MAGIC = 0x49484156454F5054
REPLY_MAGIC = 0x3E889045565A9
REQUEST = struct.Struct(">IHHQQI")
REPLY = struct.Struct(">IIQ")


def extents(descriptor):
    at, size = 0, os.fstat(descriptor).st_size
    while at < size:
        try:
            begin = os.lseek(descriptor, at, os.SEEK_DATA)
        except OSError:
            return
        at = os.lseek(descriptor, begin, os.SEEK_HOLE)
        yield begin, at


def places(descriptor, count, seed):
    """Blocks that are not zero, chosen evenly over all data: offset and content."""
    rng = random.Random(seed)
    blocks = [(begin // BLOCK, (end - begin) // BLOCK) for begin, end in extents(descriptor)]
    found = {}
    while len(found) < count:
        first, length = rng.choices(blocks, [block[1] for block in blocks])[0]
        if length:
            at = (first + rng.randrange(length)) * BLOCK
            data = os.pread(descriptor, BLOCK, at)
            if any(data):
                found[at] = data
    return list(found.items())


class Nbd:
    """The least of an NBD client: one export, one request at a time, simple replies."""

    def __init__(self, path):
        self.socket = socket.socket(socket.AF_UNIX)
        self.socket.settimeout(60)
        self.socket.connect(path)
        self.reply = memoryview(bytearray(REPLY.size + BLOCK))
        greeting = self.receive(18)
        if greeting[:16] != b"NBDMAGICIHAVEOPT":
            raise SystemExit("the server does not speak the fixed newstyle protocol")
        self.socket.sendall(struct.pack(">I", 3))
        # NBD_OPT_GO, the default export, no information asked for.
        self.socket.sendall(struct.pack(">QIIIH", OPTION_MAGIC, 7, 6, 0, 0))
        while True:
            magic, _, kind, length = struct.unpack(">QIII", self.receive(20))
            text = self.receive(length)
            if magic != REPLY_MAGIC or kind & 0x80000000:
                raise SystemExit(f"the server refuses the default export: {kind:#x} {text!r}")
            if kind == 1:
                return

    def receive(self, length):
        data = b""
        while len(data) < length:
            part = self.socket.recv(length - len(data))
            if not part:
                raise SystemExit("the server has closed the connection")
            data += part
        return data

    def read(self, at):
        self.socket.sendall(REQUEST.pack(0x25609513, 0, 0, at, at, BLOCK))
        have = 0
        while have < REPLY.size + BLOCK:
            got = self.socket.recv_into(self.reply[have:])
            if got == 0:
                raise SystemExit("the server has closed the connection")
            have += got
            if have >= REPLY.size and REPLY.unpack_from(self.reply) != (0x67446698, 0, at):
                raise SystemExit(f"the server answers a read at {at} with an error")
        return self.reply[REPLY.size:]

    def forget(self):
        pass


class File:
    def __init__(self, path):
        self.descriptor = os.open(path, os.O_RDONLY)
        os.posix_fadvise(self.descriptor, 0, 0, os.POSIX_FADV_RANDOM)

    def read(self, at):
        return os.pread(self.descriptor, BLOCK, at)

    def forget(self):
        os.posix_fadvise(self.descriptor, 0, 0, os.POSIX_FADV_DONTNEED)


def timed(source, wanted):
    taken = []
    for at, data in wanted:
        begun = time.perf_counter_ns()
        got = source.read(at)
        taken.append(time.perf_counter_ns() - begun)
        if got != data:
            raise SystemExit(f"wrong bytes at {at}")
    taken.sort()
    return [taken[min(len(taken) - 1, len(taken) * share // 100)] / 1000 for share in (50, 99, 100)]


def reads(image, count, seed, target):
    descriptor = os.open(image, os.O_RDONLY)
    first, other = places(descriptor, count, seed), places(descriptor, count, seed + 1)
    kind, path = target.split(":", 1)
    source = Nbd(path) if kind == "nbd" else File(path)
    for name, wanted in (("cold", first), ("new", other), ("warm", first)):
        source.forget()
        print(name, *(f"{value:.1f}" for value in timed(source, wanted)), sep="\t")


def evict(paths):
    for path in paths:
        files = [path] if os.path.isfile(path) else [
            os.path.join(folder, name) for folder, _, names in os.walk(path) for name in names]
        for file in files:
            descriptor = os.open(file, os.O_RDONLY)
            os.fdatasync(descriptor)
            os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
            os.close(descriptor)


def warm(image):
    descriptor = os.open(image, os.O_RDONLY)
    buffer = bytearray(MIB)
    for begin, end in extents(descriptor):
        for at in range(begin, end, MIB):
            os.preadv(descriptor, [memoryview(buffer)[:min(MIB, end - at)]], at)


def main(words):
    if words[:1] == ["reads"] and len(words) == 5:
        reads(words[1], int(words[2]), int(words[3]), words[4])
    elif words[:1] == ["evict"]:
        evict(words[1:])
    elif words[:1] == ["warm"] and len(words) == 2:
        warm(words[1])
    else:
        sys.exit(__doc__)


if __name__ == "__main__":
    main(sys.argv[1:])
