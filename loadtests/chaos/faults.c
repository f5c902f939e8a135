/* Stands between one process and the C library, and makes its files fail and its wall clock jump. Loaded with LD_PRELOAD by the
 * harness (shim.py), which turns faults on and off while the process runs, through a page of memory that both map: the file that
 * CHAOS_CONTROL names. Without that variable, or with a page of zeros, nothing changes.
 *
 * The page, little-endian, as shim.py writes it: 8 bytes that are added to the wall clock, in nanoseconds; then RULES rules of
 * 40 bytes. The first rule that fits a call decides what becomes of it. */

#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

#define EXPORTED __attribute__((visibility("default")))

enum { RULES = 8, PAGE_BYTES = 4096, PATH_BYTES_MAX = 512 };
enum { NOTHING, FAIL, DELAY, DIE_BEFORE, DIE_HALFWAY, DIE_AFTER, HOLD };
enum { READ = 1, WRITE = 2, SYNC = 4, RESIZE = 8 };
enum { JOURNAL = 1, STORE = 2 };

struct rule {
    volatile uint32_t action;
    volatile uint32_t calls; /* which of READ, WRITE, SYNC, RESIZE */
    volatile uint32_t files; /* which of JOURNAL, STORE */
    volatile uint32_t error; /* for FAIL: what errno becomes */
    volatile uint64_t micros; /* for DELAY */
    volatile uint32_t passes; /* how many calls that fit pass first */
    volatile uint32_t hits; /* counted here: calls on which the rule has acted */
    volatile uint64_t spare;
};

struct page {
    volatile int64_t clock_offset;
    struct rule rules[RULES];
};

static struct page *page;
static int (*real_clock_gettime)(clockid_t, struct timespec *);

__attribute__((constructor)) static void begin(void) {
    real_clock_gettime = (int (*)(clockid_t, struct timespec *))dlsym(RTLD_NEXT, "clock_gettime");
    const char *path = getenv("CHAOS_CONTROL");
    if (path == NULL)
        return;
    int file = open(path, O_RDWR | O_CLOEXEC);
    if (file < 0) {
        dprintf(2, "the fault shim cannot open %s\n", path);
        _exit(99);
    }
    void *mapped = mmap(NULL, PAGE_BYTES, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
    close(file);
    if (mapped == MAP_FAILED) {
        dprintf(2, "the fault shim cannot map %s\n", path);
        _exit(99);
    }
    page = mapped;
}

static uint32_t file_of(int descriptor) {
    char link[64], path[PATH_BYTES_MAX];
    snprintf(link, sizeof link, "/proc/self/fd/%d", descriptor);
    ssize_t length = readlink(link, path, sizeof path - 1);
    if (length <= 0)
        return 0;
    path[length] = 0;
    if (strstr(path, "/journal.redb"))
        return JOURNAL;
    return strstr(path, "/store.redb") ? STORE : 0;
}

/* The rule that acts on this call, with its hit counted, or NULL. Files are asked for only where some rule is in force. */
static struct rule *rule_for(uint32_t call, int descriptor) {
    if (page == NULL)
        return NULL;
    uint32_t file = 0;
    for (int number = 0; number < RULES; number++) {
        struct rule *rule = &page->rules[number];
        if (rule->action == NOTHING || !(rule->calls & call))
            continue;
        if (file == 0 && (file = file_of(descriptor)) == 0)
            return NULL;
        if (!(rule->files & file))
            continue;
        uint32_t left = rule->passes;
        while (left > 0 && !__atomic_compare_exchange_n(&rule->passes, &left, left - 1, 0, __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST)) {
        }
        if (left > 0)
            continue;
        __atomic_fetch_add(&rule->hits, 1, __ATOMIC_SEQ_CST);
        return rule;
    }
    return NULL;
}

static void pause_for(uint64_t micros) {
    struct timespec left = {.tv_sec = micros / 1000000, .tv_nsec = (micros % 1000000) * 1000};
    while (nanosleep(&left, &left) == -1 && errno == EINTR) {
    }
}

static void die(void) {
    kill(getpid(), SIGKILL);
    for (;;)
        pause();
}

/* What happens before the call itself; non-zero when the call must not be made, because it fails. */
static int before(struct rule *rule) {
    if (rule == NULL)
        return 0;
    switch (rule->action) {
    case FAIL:
        errno = (int)rule->error;
        return 1;
    case DELAY:
        pause_for(rule->micros);
        return 0;
    case DIE_BEFORE:
        die();
        return 0;
    case HOLD:
        while (rule->action == HOLD)
            pause_for(2000);
        return 0;
    default:
        return 0;
    }
}

static void after(struct rule *rule, uint32_t action) {
    if (rule != NULL && (action == DIE_AFTER || action == DIE_HALFWAY))
        die();
}

static ssize_t read_at(int descriptor, void *to, size_t bytes, off64_t offset) {
    return before(rule_for(READ, descriptor)) ? -1 : syscall(SYS_pread64, descriptor, to, bytes, offset);
}

static ssize_t write_at(int descriptor, const void *from, size_t bytes, off64_t offset) {
    struct rule *rule = rule_for(WRITE, descriptor);
    uint32_t action = rule == NULL ? NOTHING : rule->action;
    if (before(rule))
        return -1;
    ssize_t written = syscall(SYS_pwrite64, descriptor, from, action == DIE_HALFWAY ? bytes / 2 : bytes, offset);
    after(rule, action);
    return written;
}

static int sync_with(long number, int descriptor) {
    struct rule *rule = rule_for(SYNC, descriptor);
    uint32_t action = rule == NULL ? NOTHING : rule->action;
    if (before(rule))
        return -1;
    int result = (int)syscall(number, descriptor);
    after(rule, action);
    return result;
}

static int resize(int descriptor, off64_t bytes) {
    return before(rule_for(RESIZE, descriptor)) ? -1 : (int)syscall(SYS_ftruncate, descriptor, bytes);
}

EXPORTED ssize_t pread(int descriptor, void *to, size_t bytes, off_t offset) { return read_at(descriptor, to, bytes, offset); }
EXPORTED ssize_t pread64(int descriptor, void *to, size_t bytes, off64_t offset) { return read_at(descriptor, to, bytes, offset); }
EXPORTED ssize_t pwrite(int descriptor, const void *from, size_t bytes, off_t offset) { return write_at(descriptor, from, bytes, offset); }
EXPORTED ssize_t pwrite64(int descriptor, const void *from, size_t bytes, off64_t offset) {
    return write_at(descriptor, from, bytes, offset);
}
EXPORTED int fsync(int descriptor) { return sync_with(SYS_fsync, descriptor); }
EXPORTED int fdatasync(int descriptor) { return sync_with(SYS_fdatasync, descriptor); }
EXPORTED int ftruncate(int descriptor, off_t bytes) { return resize(descriptor, bytes); }
EXPORTED int ftruncate64(int descriptor, off64_t bytes) { return resize(descriptor, bytes); }

/* ---- The wall clock. Clocks that only count are left alone: a machine has one, and no fault makes it jump. */

EXPORTED int clock_gettime(clockid_t clock, struct timespec *now) {
    int result = real_clock_gettime ? real_clock_gettime(clock, now) : (int)syscall(SYS_clock_gettime, clock, now);
    if (result == 0 && page != NULL && page->clock_offset != 0 && (clock == CLOCK_REALTIME || clock == CLOCK_REALTIME_COARSE)) {
        int64_t nanos = (int64_t)now->tv_sec * 1000000000 + now->tv_nsec + page->clock_offset;
        now->tv_sec = nanos / 1000000000;
        now->tv_nsec = nanos % 1000000000;
    }
    return result;
}

EXPORTED int gettimeofday(struct timeval *restrict now, void *restrict zone) {
    (void)zone;
    struct timespec exact;
    if (clock_gettime(CLOCK_REALTIME, &exact) == 0) {
        now->tv_sec = exact.tv_sec;
        now->tv_usec = exact.tv_nsec / 1000;
    }
    return 0;
}

EXPORTED time_t time(time_t *now) {
    struct timespec exact;
    clock_gettime(CLOCK_REALTIME, &exact);
    if (now != NULL)
        *now = exact.tv_sec;
    return exact.tv_sec;
}
