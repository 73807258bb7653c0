/* What the guests of the benchmark of backups do with their disk; linked statically and put into the pebble.
 *
 *   bench-writes fill DEVICE SEED COUNT      writes COUNT stretches of 1 MiB, spread evenly over the disk
 *   bench-writes latency DEVICE SEED FILE    writes 4 KiB anywhere, a hundred times a second, until FILE is gone; then tells how
 *                                            many there were, and the median, the 99th percentile and the largest of their
 *                                            times in microseconds
 *
 * Both go past the guest's memory (O_DIRECT), one write at a time. The seed makes the bytes and the places.
 */
#define _GNU_SOURCE
#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <linux/fs.h>
#include <time.h>
#include <unistd.h>

enum { MIB = 1 << 20, SMALL = 4096, WRITES_MAX = 1 << 20, PAUSE_NS = 10 * 1000 * 1000 };

static uint64_t state;

static uint64_t chance(void) {
    state ^= state << 13;
    state ^= state >> 7;
    state ^= state << 17;
    return state;
}

static void fail(const char *what) {
    perror(what);
    exit(1);
}

static void put(int disk, char *bytes, size_t length, uint64_t at) {
    for (size_t i = 0; i < length; i += 8) {
        uint64_t word = chance();
        memcpy(bytes + i, &word, 8);
    }
    if (pwrite(disk, bytes, length, (off_t)at) != (ssize_t)length) fail("write");
}

static int64_t now_ns(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (int64_t)now.tv_sec * 1000000000 + now.tv_nsec;
}

static int by_size(const void *a, const void *b) {
    int64_t x = *(const int64_t *)a, y = *(const int64_t *)b;
    return (x > y) - (x < y);
}

static void latency(int disk, char *bytes, uint64_t size, const char *file) {
    static int64_t took[WRITES_MAX];
    size_t count = 0;
    while (access(file, F_OK) == 0 && count < WRITES_MAX) {
        uint64_t at = chance() % (size / SMALL) * SMALL;
        int64_t began = now_ns();
        put(disk, bytes, SMALL, at);
        took[count++] = now_ns() - began;
        nanosleep(&(struct timespec){.tv_nsec = PAUSE_NS}, NULL);
    }
    if (count == 0) { fputs("no write was made\n", stderr); exit(1); }
    qsort(took, count, sizeof *took, by_size);
    printf("%zu %lld %lld %lld\n", count, (long long)took[count / 2] / 1000, (long long)took[count * 99 / 100] / 1000,
           (long long)took[count - 1] / 1000);
}

int main(int argc, char **argv) {
    if (argc != 5) { fputs("usage: bench-writes fill|latency DEVICE SEED COUNT|FILE\n", stderr); return 2; }
    int disk = open(argv[2], O_WRONLY | O_DIRECT);
    uint64_t size;
    void *bytes;
    if (disk < 0 || ioctl(disk, BLKGETSIZE64, &size) != 0) fail(argv[2]);
    if (posix_memalign(&bytes, SMALL, MIB) != 0) fail("memory");
    state = strtoull(argv[3], NULL, 10) * 2654435761u + 1;
    if (strcmp(argv[1], "latency") == 0) {
        latency(disk, bytes, size, argv[4]);
        return 0;
    }
    uint64_t count = strtoull(argv[4], NULL, 10);
    for (uint64_t i = 0; i < count; i++) put(disk, bytes, MIB, size / MIB * i / count * MIB);
    if (fsync(disk) != 0) fail("fsync");
    return 0;
}
