/* A file system that fails now and then, for one process: loaded by LD_PRELOAD (ld.so(8)).
 *
 * Calls on paths that hold PIPEN_FAIL_BELOW fail at random, one of PIPEN_FAIL_ONE_IN, with an
 * error as full disks and network file systems give it. No call fails twice running. It acts in
 * the process that loaded it first and not in those that this one starts; PIPEN_FAIL_SEED makes
 * it the same each time, as far as threads allow, and PIPEN_FAIL_LOG takes a line for each.
 */
#define _GNU_SOURCE
#include <dirent.h>
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

static const char *below, *report;
static int one_in, active;
static unsigned state;

__attribute__((constructor)) static void begin(void)
{
    const char *seed = getenv("PIPEN_FAIL_SEED"), *rate = getenv("PIPEN_FAIL_ONE_IN"), *first;
    char own[32];
    below = getenv("PIPEN_FAIL_BELOW");
    report = getenv("PIPEN_FAIL_LOG");
    snprintf(own, sizeof own, "%d", getpid());
    if (!below)
        return;
    first = getenv("PIPEN_FAIL_PID");
    if (first && strcmp(first, own)) /* execve(2) keeps the process, and so its number */
        return;
    if (!first)
        setenv("PIPEN_FAIL_PID", own, 1);
    one_in = rate ? atoi(rate) : 5;
    state = seed ? (unsigned)atoi(seed) * 2654435761u + 1 : 1;
    active = getpid();
}

static unsigned next(void)
{
    unsigned seen, new;
    do { /* xorshift (Marsaglia, 2003) */
        new = seen = __atomic_load_n(&state, __ATOMIC_RELAXED);
        new ^= new << 13;
        new ^= new >> 17;
        new ^= new << 5;
    } while (!__atomic_compare_exchange_n(&state, &seen, new, 0, __ATOMIC_RELAXED, __ATOMIC_RELAXED));
    return new;
}

static int fails(const char *call, const char *path)
{
    static const int errors[] = {ESTALE, EIO, ENOSPC, EDQUOT};
    static __thread int rested = 1;
    unsigned number;
    if (!active || !path || !strstr(path, below) || active != getpid())
        return 0;
    if (!rested || (number = next()) % one_in) {
        rested = 1;
        return 0;
    }
    rested = 0;
    errno = errors[(number >> 16) % 4];
    if (report) {
        static int (*open_)(const char *, int, ...);
        int saved = errno, out;
        if (!open_)
            open_ = dlsym(RTLD_NEXT, "open");
        out = open_(report, O_WRONLY | O_CREAT | O_APPEND, 0600);
        if (out >= 0) {
            dprintf(out, "%s %d %s\n", call, saved, path);
            close(out);
        }
        errno = saved;
    }
    return 1;
}

#define REAL(type, name, ...)                                                                      \
    static type (*real)(__VA_ARGS__);                                                              \
    if (!real)                                                                                     \
        real = dlsym(RTLD_NEXT, name);

#define OPEN(name)                                                                                 \
    int name(const char *path, int flags, ...)                                                     \
    {                                                                                              \
        va_list more;                                                                              \
        REAL(int, #name, const char *, int, ...)                                                   \
        va_start(more, flags);                                                                     \
        mode_t mode = flags & (O_CREAT | O_TMPFILE) ? va_arg(more, mode_t) : 0;                    \
        va_end(more);                                                                              \
        return fails(#name, path) ? -1 : real(path, flags, mode);                                  \
    }
OPEN(open)
OPEN(open64)

#define OPENAT(name)                                                                               \
    int name(int directory, const char *path, int flags, ...)                                      \
    {                                                                                              \
        va_list more;                                                                              \
        REAL(int, #name, int, const char *, int, ...)                                              \
        va_start(more, flags);                                                                     \
        mode_t mode = flags & (O_CREAT | O_TMPFILE) ? va_arg(more, mode_t) : 0;                    \
        va_end(more);                                                                              \
        return fails(#name, path) ? -1 : real(directory, path, flags, mode);                       \
    }
OPENAT(openat)
OPENAT(openat64)

#define STAT(name, kind)                                                                           \
    int name(const char *path, struct kind *found)                                                 \
    {                                                                                              \
        REAL(int, #name, const char *, struct kind *)                                              \
        return fails(#name, path) ? -1 : real(path, found);                                        \
    }
STAT(stat, stat)
STAT(lstat, stat)
STAT(stat64, stat64)
STAT(lstat64, stat64)

#define STATAT(name, kind)                                                                         \
    int name(int directory, const char *path, struct kind *found, int flags)                       \
    {                                                                                              \
        REAL(int, #name, int, const char *, struct kind *, int)                                    \
        return fails(#name, path) ? -1 : real(directory, path, found, flags);                      \
    }
STATAT(fstatat, stat)
STATAT(fstatat64, stat64)

DIR *opendir(const char *path)
{
    REAL(DIR *, "opendir", const char *)
    return fails("opendir", path) ? NULL : real(path);
}

int unlink(const char *path)
{
    REAL(int, "unlink", const char *)
    return fails("unlink", path) ? -1 : real(path);
}

int mkdir(const char *path, mode_t mode)
{
    REAL(int, "mkdir", const char *, mode_t)
    return fails("mkdir", path) ? -1 : real(path, mode);
}

int rename(const char *from, const char *to)
{
    REAL(int, "rename", const char *, const char *)
    return fails("rename", from) ? -1 : real(from, to);
}

ssize_t write(int descriptor, const void *data, size_t size)
{
    char link[64], path[4096];
    ssize_t length;
    REAL(ssize_t, "write", int, const void *, size_t)
    if (active && descriptor > 2) {
        snprintf(link, sizeof link, "/proc/self/fd/%d", descriptor);
        length = readlink(link, path, sizeof path - 1);
        if (length > 0) {
            path[length] = 0;
            if (fails("write", path))
                return -1;
        }
    }
    return real(descriptor, data, size);
}
