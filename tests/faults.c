/*
 * Preloaded (LD_PRELOAD), makes one chosen call under one folder fail, fall short, or kill the process.
 *
 * Calls that open, write, sync, rename, cut, remove or make something under the folder are counted
 * from 1 while a fault is armed. Call number `at` does what `kind` says:
 *
 *     errno > 0   it fails with that errno        KILL    the process dies of SIGKILL instead
 *     COUNT       nothing: only counting          SHORT   a write writes half of what it is given
 *
 * With `sticky`, every later call fails too. The counter is shared with the parent process.
 * While armed, syncing to the disk is left out: the tests crash processes, never the machine.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/types.h>
#include <sys/uio.h>
#include <unistd.h>

enum { COUNT = 0, KILL = -1, SHORT = -2 };

struct state {
    long count;
    char log[1 << 20]; /* one line a call: its name and path */
    size_t logged;
};

static struct state *state;
static char root[PATH_MAX];
static long at;
static int kind, sticky;

__attribute__((constructor)) static void begin(void) {
    state = mmap(NULL, sizeof *state, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
}

void faults_arm(const char *folder, long call, int what, int for_good) {
    state->count = 0;
    state->logged = 0;
    snprintf(root, sizeof root, "%s", folder);
    at = call;
    kind = what;
    sticky = for_good;
}

long faults_count(void) { return state->count; }

const char *faults_log(void) { return state->log; }

static int under(int folder, const char *path, char *full) {
    char base[PATH_MAX / 2] = "";
    if (path[0] != '/') {
        if (folder == AT_FDCWD) {
            if (!getcwd(base, sizeof base)) return 0;
        } else {
            char link[64];
            snprintf(link, sizeof link, "/proc/self/fd/%d", folder);
            ssize_t got = readlink(link, base, sizeof base - 1);
            base[got > 0 ? got : 0] = 0;
        }
    }
    snprintf(full, PATH_MAX, "%s%s%s", base, *base && *path ? "/" : "", path);
    return *root && !strncmp(full, root, strlen(root));
}

/* 0: go on; -1: fail, errno is set; SHORT: write half. */
static int judge(const char *name, int folder, const char *path) {
    char full[PATH_MAX];
    int kept = errno;
    if (!*root || !under(folder, path, full)) {
        errno = kept;
        return 0;
    }
    errno = kept;
    long number = ++state->count;
    size_t room = sizeof state->log - state->logged;
    int got = snprintf(state->log + state->logged, room, "%s %s\n", name, full + strlen(root));
    if (got > 0 && (size_t)got < room) state->logged += got;
    if (!(number == at || (sticky && number > at))) return 0;
    if (kind == KILL) {
        kill(getpid(), SIGKILL);
        pause();
    }
    if (kind == SHORT) return SHORT;
    if (kind == COUNT) return 0;
    errno = kind;
    return -1;
}

#define REAL(name) ((__typeof__(&name))dlsym(RTLD_NEXT, #name))

#define OPEN(name)                                             \
    int name(const char *path, int flags, ...) {               \
        va_list rest;                                          \
        va_start(rest, flags);                                 \
        mode_t mode = va_arg(rest, mode_t);                    \
        va_end(rest);                                          \
        if (judge("open", AT_FDCWD, path) == -1) return -1;    \
        return REAL(name)(path, flags, mode);                  \
    }
OPEN(open)
OPEN(open64)

#define OPENAT(name)                                               \
    int name(int folder, const char *path, int flags, ...) {       \
        va_list rest;                                              \
        va_start(rest, flags);                                     \
        mode_t mode = va_arg(rest, mode_t);                        \
        va_end(rest);                                              \
        if (judge("open", folder, path) == -1) return -1;          \
        return REAL(name)(folder, path, flags, mode);              \
    }
OPENAT(openat)
OPENAT(openat64)

ssize_t write(int fd, const void *data, size_t size) {
    int verdict = judge("write", fd, "");
    if (verdict == -1) return -1;
    return REAL(write)(fd, data, verdict == SHORT && size > 1 ? size / 2 : size);
}

#define PWRITE(name, type)                                                                   \
    ssize_t name(int fd, const void *data, size_t size, type offset) {                       \
        int verdict = judge("write", fd, "");                                                \
        if (verdict == -1) return -1;                                                        \
        return REAL(name)(fd, data, verdict == SHORT && size > 1 ? size / 2 : size, offset); \
    }
PWRITE(pwrite, off_t)
PWRITE(pwrite64, off64_t)

ssize_t writev(int fd, const struct iovec *parts, int count) {
    if (judge("write", fd, "") == -1) return -1;
    return REAL(writev)(fd, parts, count);
}

#define SYNC(name)                                   \
    int name(int fd) {                               \
        if (judge("fsync", fd, "") == -1) return -1; \
        return *root ? 0 : REAL(name)(fd);           \
    }
SYNC(fsync)
SYNC(fdatasync)

int msync(void *address, size_t size, int flags) {
    return *root ? 0 : REAL(msync)(address, size, flags);
}

#define CUT(name, type)                                  \
    int name(int fd, type size) {                        \
        if (judge("ftruncate", fd, "") == -1) return -1; \
        return REAL(name)(fd, size);                     \
    }
CUT(ftruncate, off_t)
CUT(ftruncate64, off64_t)

int rename(const char *from, const char *to) {
    if (judge("rename", AT_FDCWD, to) == -1) return -1;
    return REAL(rename)(from, to);
}

int renameat(int from_folder, const char *from, int to_folder, const char *to) {
    if (judge("rename", to_folder, to) == -1) return -1;
    return REAL(renameat)(from_folder, from, to_folder, to);
}

int unlink(const char *path) {
    if (judge("unlink", AT_FDCWD, path) == -1) return -1;
    return REAL(unlink)(path);
}

int unlinkat(int folder, const char *path, int flags) {
    if (judge("unlink", folder, path) == -1) return -1;
    return REAL(unlinkat)(folder, path, flags);
}

int rmdir(const char *path) {
    if (judge("unlink", AT_FDCWD, path) == -1) return -1;
    return REAL(rmdir)(path);
}

int mkdir(const char *path, mode_t mode) {
    if (judge("mkdir", AT_FDCWD, path) == -1) return -1;
    return REAL(mkdir)(path, mode);
}

int mkdirat(int folder, const char *path, mode_t mode) {
    if (judge("mkdir", folder, path) == -1) return -1;
    return REAL(mkdirat)(folder, path, mode);
}
