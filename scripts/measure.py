#!/usr/bin/env -S python3 -I -S
"""Runs a command and writes what it cost: measure.py OUT COMMAND [WORD...]

OUT gets one line "wall_ms cpu_ms rss_kib read_bytes written_bytes". CPU time is user and system time of the command
and of every child it waited for; rss_kib is the largest memory of any one of them (never below this program's own, some
9 MB); bytes are those of read and write calls, from the page cache or not. Ends with the command's exit status.
"""

import os
import signal
import sys
import time


def calls():
    """Bytes that this process, its threads and the children it waited for have read and written."""
    with open("/proc/self/io", encoding="ascii") as file:
        facts = dict(line.split(": ") for line in file.read().splitlines())
    return int(facts["rchar"]), int(facts["wchar"])


def main(out, words):
    read, written = calls()
    begun = time.monotonic()
    child = os.posix_spawnp(words[0], words, os.environ)
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda caught, _: os.kill(child, caught))
    _, status, usage = os.wait4(child, 0)
    wall = time.monotonic() - begun
    read_after, written_after = calls()
    with open(out, "w", encoding="ascii") as file:
        print(round(wall * 1000), round((usage.ru_utime + usage.ru_stime) * 1000), usage.ru_maxrss,
              read_after - read, written_after - written, file=file)
    code = os.waitstatus_to_exitcode(status)
    return code if code >= 0 else 128 - code


if __name__ == "__main__":
    if len(sys.argv) < 3:
        sys.exit("usage: measure.py OUT COMMAND [WORD...]")
    sys.exit(main(sys.argv[1], sys.argv[2:]))
