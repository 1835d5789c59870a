/* A disk that can lose its power, between one process and the C library (LD_PRELOAD).
 *
 * Below the folder SLIPRING_POWER_ROOT every fsync and fdatasync copies what it forces to disk to the folder
 * SLIPRING_POWER_DISK: of a file the bytes written since the last time, to a file named by its identity; of a
 * folder the names in it, to `<identity>.names`. So at any moment, also when the process is killed, that folder
 * holds exactly what a loss of power would leave. What is there at the start counts as synced.
 *
 * Both folders are given as whole paths without links. The process is told of a boot of its own, so that whoever
 * opens what is left does so after another one.
 *
 * SLIPRING_POWER_ROOM is how many bytes may be written before the disk is full; SLIPRING_POWER_SYNCS is how many
 * syncs succeed before they fail; SLIPRING_POWER_LIES makes the syncs of files report success and do nothing, and
 * SLIPRING_POWER_FORGETS those of folders; SLIPRING_POWER_STEPS is how many syncs, new files and removed ones the
 * process lives to see, of paths that end in SLIPRING_POWER_NEAR only. With SLIPRING_POWER_GOES_ON the power has not failed since the process before: the boot is the
 * same, and what that one had not synced is not synced yet. */
#define _GNU_SOURCE
#include <dirent.h>
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <pthread.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <unistd.h>

enum { CHUNK = 1 << 16, ID = 64, FILES = 4096 };

/* The bytes of a file that may have changed since it was last synced. */
struct dirty { char id[ID]; off_t from, to; };

static struct dirty files[FILES];
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static const char *root, *disk, *near = "";
static char boot[PATH_MAX];
static long long room = LLONG_MAX, syncs = LLONG_MAX, steps = LLONG_MAX;
static int lies, forgets, goes_on;

static ssize_t (*real_write)(int, const void *, size_t);
static ssize_t (*real_writev)(int, const struct iovec *, int);
static ssize_t (*real_pwrite)(int, const void *, size_t, off_t);
static int (*real_ftruncate)(int, off_t);
static int (*real_open)(const char *, int, mode_t);
static int (*real_unlink)(const char *);
static int (*real_fsync)(int);
static int (*real_fdatasync)(int);

static void die(const char *why) {
    fprintf(stderr, "power.c: %s: %s\n", why, strerror(errno));
    _exit(99);
}

/* Inode numbers are used again, so the time of birth belongs to the identity; what was kept is never closed, so that
 * no other file gets its number within one tick of the clock. */
static int identify(int folder, const char *name, int flags, char *id) {
    struct statx info;
    if (statx(folder, name, flags, STATX_INO | STATX_BTIME | STATX_TYPE, &info) != 0) return -1;
    snprintf(id, ID, "%llu-%lld-%u", (unsigned long long)info.stx_ino, (long long)info.stx_btime.tv_sec,
             info.stx_btime.tv_nsec);
    return S_ISDIR(info.stx_mode) ? 2 : S_ISREG(info.stx_mode) ? 1 : 0;
}

static int path_of(int fd, char *path) {
    char link[64];
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t length = readlink(link, path, PATH_MAX - 1);
    if (length < 0) return -1;
    path[length] = 0;
    return 0;
}

/* 0: none of ours. 1: a file below the root. 2: a folder there. */
static int kind_of(int fd, char *id) {
    char path[PATH_MAX];
    if (root == NULL || path_of(fd, path) != 0) return 0;
    size_t prefix = strlen(root);
    if (strncmp(path, root, prefix) != 0 || (path[prefix] != '/' && path[prefix] != 0)) return 0;
    int kind = identify(fd, "", AT_EMPTY_PATH, id);
    return kind < 0 ? 0 : kind;
}

static struct dirty *find(const char *id) {
    struct dirty *clean = NULL;
    for (int i = 0; i < FILES; i++) {
        if (strcmp(files[i].id, id) == 0) return &files[i];
        if (clean == NULL && files[i].from == files[i].to) clean = &files[i];
    }
    if (clean == NULL) die("too many files with unsynced bytes");
    strcpy(clean->id, id);
    /* What the process before had written to it is not known. */
    if (goes_on) { clean->from = 0; clean->to = LLONG_MAX; }
    return clean;
}

static void touch(const char *id, off_t from, off_t to) {
    struct dirty *file = find(id);
    if (file->from == file->to) { file->from = from; file->to = to; }
    if (from < file->from) file->from = from;
    if (to > file->to) file->to = to;
}

static void keep_file(int fd, const char *id, off_t from, off_t to) {
    static char bytes[CHUNK], zeros[CHUNK];
    char path[PATH_MAX], self[64];
    struct stat now, kept;
    snprintf(path, sizeof path, "%s/%s", disk, id);
    snprintf(self, sizeof self, "/proc/self/fd/%d", fd);
    int is_new = access(path, F_OK) != 0;
    int in = open(self, O_RDONLY), out = open(path, O_CREAT | O_RDWR, 0600);
    if (in < 0 || out < 0 || fstat(in, &now) != 0 || fstat(out, &kept) != 0) die("cannot keep a file");
    if (to > now.st_size) to = now.st_size;
    for (off_t at = from; at < to;) {
        size_t want = to - at < CHUNK ? (size_t)(to - at) : CHUNK;
        ssize_t got = pread(in, bytes, want, at);
        if (got <= 0) die("cannot read a file");
        /* Where nothing is kept yet, zeros come with the length. */
        if ((at < kept.st_size || memcmp(bytes, zeros, (size_t)got) != 0) &&
            real_pwrite(out, bytes, (size_t)got, at) != got) die("cannot write a file");
        at += got;
    }
    if (real_ftruncate(out, now.st_size) != 0) die("cannot set a length");
    if (!is_new) close(in);
    close(out);
}

static void keep_names(const char *folder, const char *id) {
    char path[PATH_MAX], fresh[PATH_MAX + 8], child[ID];
    snprintf(path, sizeof path, "%s/%s.names", disk, id);
    snprintf(fresh, sizeof fresh, "%s.new", path);
    DIR *entries = opendir(folder);
    FILE *out = fopen(fresh, "w");
    if (entries == NULL || out == NULL) die("cannot keep a folder");
    for (struct dirent *entry; (entry = readdir(entries)) != NULL;) {
        if (strcmp(entry->d_name, ".") == 0 || strcmp(entry->d_name, "..") == 0) continue;
        int kind = identify(dirfd(entries), entry->d_name, AT_SYMLINK_NOFOLLOW, child);
        if (kind > 0) fprintf(out, "%s %s %s\n", child, kind == 2 ? "folder" : "file", entry->d_name);
    }
    closedir(entries);
    if (fclose(out) != 0 || rename(fresh, path) != 0) die("cannot keep names");
}

static void keep_all(const char *folder) {
    char id[ID], path[PATH_MAX];
    if (identify(AT_FDCWD, folder, 0, id) != 2) die("no such folder");
    keep_names(folder, id);
    DIR *entries = opendir(folder);
    for (struct dirent *entry; (entry = readdir(entries)) != NULL;) {
        if (strcmp(entry->d_name, ".") == 0 || strcmp(entry->d_name, "..") == 0) continue;
        snprintf(path, sizeof path, "%s/%s", folder, entry->d_name);
        int kind = identify(AT_FDCWD, path, AT_SYMLINK_NOFOLLOW, id);
        if (kind == 2) keep_all(path);
        if (kind != 1) continue;
        int fd = open(path, O_RDONLY);
        if (fd < 0) die("cannot open a file");
        keep_file(fd, id, 0, LLONG_MAX);
        close(fd);
    }
    closedir(entries);
}

static void new_boot(void) {
    FILE *out = fopen(boot, "w");
    if (out == NULL || fprintf(out, "boot %d\n", getpid()) < 0 || fclose(out) != 0) die("cannot keep the boot");
}

__attribute__((constructor)) static void start(void) {
    real_write = dlsym(RTLD_NEXT, "write");
    real_writev = dlsym(RTLD_NEXT, "writev");
    real_pwrite = dlsym(RTLD_NEXT, "pwrite64");
    real_ftruncate = dlsym(RTLD_NEXT, "ftruncate64");
    real_open = dlsym(RTLD_NEXT, "open64");
    real_unlink = dlsym(RTLD_NEXT, "unlink");
    real_fsync = dlsym(RTLD_NEXT, "fsync");
    real_fdatasync = dlsym(RTLD_NEXT, "fdatasync");
    disk = getenv("SLIPRING_POWER_DISK");
    const char *limit = getenv("SLIPRING_POWER_ROOM");
    if (limit != NULL) room = atoll(limit);
    if ((limit = getenv("SLIPRING_POWER_SYNCS")) != NULL) syncs = atoll(limit);
    if ((limit = getenv("SLIPRING_POWER_STEPS")) != NULL) steps = atoll(limit);
    if ((limit = getenv("SLIPRING_POWER_NEAR")) != NULL) near = limit;
    lies = getenv("SLIPRING_POWER_LIES") != NULL;
    forgets = getenv("SLIPRING_POWER_FORGETS") != NULL;
    goes_on = getenv("SLIPRING_POWER_GOES_ON") != NULL;
    const char *folder = getenv("SLIPRING_POWER_ROOT");
    if (folder == NULL || disk == NULL) return;
    snprintf(boot, sizeof boot, "%s/boot", disk);
    if (!goes_on) {
        keep_all(folder);
        new_boot();
    }
    root = folder;
}

/* One more of the moments between which the names and what is synced do not change. */
static void step(const char *path) {
    size_t length = strlen(path), end = strlen(near);
    if (root == NULL || strncmp(path, root, strlen(root)) != 0) return;
    if (length < end || strcmp(path + length - end, near) != 0) return;
    if (__atomic_fetch_sub(&steps, 1, __ATOMIC_SEQ_CST) <= 0) kill(getpid(), SIGKILL);
}

int open64(const char *path, int flags, ...) {
    va_list arguments;
    va_start(arguments, flags);
    mode_t mode = va_arg(arguments, mode_t);
    va_end(arguments);
    if (boot[0] != 0 && strcmp(path, "/proc/sys/kernel/random/boot_id") == 0) path = boot;
    if ((flags & O_CREAT) != 0) step(path);
    return real_open(path, flags, mode);
}

int unlink(const char *path) {
    step(path);
    return real_unlink(path);
}

/* Takes room for a write; how many of its bytes fit, or -1 with ENOSPC. */
static ssize_t take(size_t count) {
    if (room <= 0) { errno = ENOSPC; return -1; }
    if ((long long)count > room) count = (size_t)room;
    room -= (long long)count;
    return (ssize_t)count;
}

static ssize_t written(int fd, const char *id, ssize_t count) {
    if (count > 0) {
        off_t end = lseek(fd, 0, SEEK_CUR);
        touch(id, end - count, end);
    }
    return count;
}

ssize_t write(int fd, const void *bytes, size_t count) {
    char id[ID];
    if (kind_of(fd, id) != 1) return real_write(fd, bytes, count);
    pthread_mutex_lock(&lock);
    ssize_t fits = take(count);
    ssize_t result = fits < 0 ? -1 : written(fd, id, real_write(fd, bytes, (size_t)fits));
    pthread_mutex_unlock(&lock);
    return result;
}

ssize_t writev(int fd, const struct iovec *parts, int count) {
    char id[ID];
    if (kind_of(fd, id) != 1) return real_writev(fd, parts, count);
    /* A short write is allowed: the caller comes again with the rest. */
    for (int i = 0; i < count; i++) {
        if (parts[i].iov_len > 0) return write(fd, parts[i].iov_base, parts[i].iov_len);
    }
    return 0;
}

ssize_t pwrite64(int fd, const void *bytes, size_t count, off_t at) {
    char id[ID];
    if (kind_of(fd, id) != 1) return real_pwrite(fd, bytes, count, at);
    pthread_mutex_lock(&lock);
    ssize_t fits = take(count);
    ssize_t result = fits < 0 ? -1 : real_pwrite(fd, bytes, (size_t)fits, at);
    if (result > 0) touch(id, at, at + result);
    pthread_mutex_unlock(&lock);
    return result;
}

int ftruncate64(int fd, off_t length) {
    char id[ID];
    struct stat now;
    if (kind_of(fd, id) != 1) return real_ftruncate(fd, length);
    pthread_mutex_lock(&lock);
    if (fstat(fd, &now) != 0) die("cannot look at a file");
    off_t least = now.st_size < length ? now.st_size : length;
    touch(id, least, length > now.st_size ? length : now.st_size);
    int result = real_ftruncate(fd, length);
    pthread_mutex_unlock(&lock);
    return result;
}

static int sync_with(int (*real)(int), int fd) {
    char id[ID], path[PATH_MAX];
    int kind = kind_of(fd, id);
    if (kind == 0) return real(fd);
    if (path_of(fd, path) == 0) step(path);
    pthread_mutex_lock(&lock);
    int result = 0;
    if (syncs-- <= 0) {
        errno = EIO;
        result = -1;
    } else if (kind == 2 && !forgets) {
        snprintf(path, sizeof path, "/proc/self/fd/%d", fd);
        keep_names(path, id);
    } else if (kind == 1 && !lies) {
        struct dirty *file = find(id);
        keep_file(fd, id, file->from, file->to);
        file->from = file->to = 0;
    }
    pthread_mutex_unlock(&lock);
    return result;
}

int fsync(int fd) { return sync_with(real_fsync, fd); }
int fdatasync(int fd) { return sync_with(real_fdatasync, fd); }
