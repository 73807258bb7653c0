#!/usr/bin/env -S python3 -I -S
"""Speaks with a QEMU that was started by hand, for the benchmark of backups.

    bench_qemu.py exec AGENT_SOCKET LINE         runs a shell line in the guest; writes what it says
    bench_qemu.py full QMP_SOCKET TARGET         a whole backup to a qcow2 image that is there, and a bitmap from its instant on
    bench_qemu.py incremental QMP_SOCKET TARGET  one of what the bitmap names; writes how many bytes that was

A backup is what QEMU's own documentation of incremental backups does: blockdev-backup with a persistent bitmap.
"""

import base64
import json
import socket
import sys
import time

SECONDS = 600


class Channel:
    """Lines of JSON there and back. The agent speaks only when asked, QMP also by itself."""

    def __init__(self, path):
        self.socket = socket.socket(socket.AF_UNIX)
        self.socket.settimeout(SECONDS)
        self.socket.connect(path)
        self.lines = self.socket.makefile("r", encoding="utf-8")
        self.events = []

    def read(self):
        line = self.lines.readline()
        if not line:
            sys.exit("the other side has ended")
        return json.loads(line.strip("\xff"))

    def ask(self, command, **arguments):
        words = {"execute": command}
        if arguments:
            words["arguments"] = arguments
        self.socket.sendall((json.dumps(words) + "\n").encode())
        while True:
            said = self.read()
            if "return" in said:
                return said["return"]
            if "error" in said:
                sys.exit(f"{command}: {said['error']['desc']}")
            if "event" in said:
                self.events.append(said)

    def wait(self, name):
        while True:
            for event in self.events:
                if event["event"] == name:
                    return event["data"]
            self.events = [said for said in [self.read()] if "event" in said]


def run(path, line):
    agent = Channel(path)
    pid = agent.ask("guest-exec", path="/bin/sh", arg=["-c", line], **{"capture-output": True})["pid"]
    end = time.monotonic() + SECONDS
    while time.monotonic() < end:
        status = agent.ask("guest-exec-status", pid=pid)
        if status["exited"]:
            for stream, data in ((sys.stdout, "out-data"), (sys.stderr, "err-data")):
                stream.write(base64.b64decode(status.get(data, "")).decode())
            return status.get("exitcode", 1)
        time.sleep(0.1)
    sys.exit(f"not done after {SECONDS} s: {line}")


def bitmap_bytes(qmp):
    for node in qmp.ask("query-named-block-nodes", flat=True):
        for bitmap in node.get("dirty-bitmaps", []):
            if node["node-name"] == "disk" and bitmap["name"] == "b":
                return bitmap["count"]
    return sys.exit("the bitmap is gone")


def backup(path, target, kind):
    qmp = Channel(path)
    qmp.read()
    qmp.ask("qmp_capabilities")
    qmp.ask("blockdev-add", **{"driver": "qcow2", "node-name": "target", "file": {"driver": "file", "filename": target}})
    job = {"job-id": "backup", "device": "disk", "target": "target"}
    if kind == "full":
        qmp.ask("transaction", actions=[
            {"type": "block-dirty-bitmap-add", "data": {"node": "disk", "name": "b", "persistent": True}},
            {"type": "blockdev-backup", "data": {**job, "sync": "full"}}])
    else:
        print(bitmap_bytes(qmp))
        qmp.ask("blockdev-backup", **job, sync="incremental", bitmap="b")
    done = qmp.wait("BLOCK_JOB_COMPLETED")
    if "error" in done:
        sys.exit(f"the backup failed: {done['error']}")
    qmp.ask("blockdev-del", **{"node-name": "target"})
    return 0


if __name__ == "__main__":
    if len(sys.argv) != 4 or sys.argv[1] not in ("exec", "full", "incremental"):
        sys.exit("usage: bench_qemu.py exec AGENT_SOCKET LINE | full|incremental QMP_SOCKET TARGET")
    WORD, PATH, WHAT = sys.argv[1:]
    sys.exit(run(PATH, WHAT) if WORD == "exec" else backup(PATH, WHAT, WORD))
