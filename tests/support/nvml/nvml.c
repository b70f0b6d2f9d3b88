/* Stands in for libnvidia-ml.so.1: GPUs that exist as files in the folder NVML_STANDIN. driver.py describes the files.
 *
 * The functions, structs and codes are NVML's, as nvidia-ml-py calls them. Memory follows processes: an entry counts
 * while the process that made it lives, and for its grace after it was first seen dead. Built with -DUSER it is the
 * program of such a process instead: it takes memory of the GPUs in CUDA_VISIBLE_DEVICES as vLLM does, and becomes
 * another program.
 */
#define _GNU_SOURCE
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

enum {
    SUCCESS = 0,
    UNINITIALIZED = 1,
    INVALID_ARGUMENT = 2,
    NOT_SUPPORTED = 3,
    NOT_FOUND = 6,
    INSUFFICIENT_SIZE = 7,
    DRIVER_NOT_LOADED = 9,
    GPU_IS_LOST = 15
};
enum { MOST = 64, TEXT = 96, PATH = 4096 };

typedef int Code;
typedef unsigned long long Bytes;

/* One GPU or, with a parent, one MIG device of it. */
typedef struct {
    char uuid[TEXT], name[TEXT];
    int parent, minor, mig, gpu_instance, compute_instance, slices;
    Bytes total, reserved;
} Device;

typedef struct {
    unsigned pid;
    Bytes memory;
    unsigned gpu_instance, compute_instance;
} Process;

/* As in NVML, threads may ask at the same time. */
static _Thread_local Device devices[MOST];
static _Thread_local int count;

/* ---------------------------------------------------------------- files */

static int locate(char *path, const char *format, ...) {
    const char *folder = getenv("NVML_STANDIN");
    if (!folder || !*folder) return 0;
    int length = snprintf(path, PATH, "%s/", folder);
    va_list words;
    va_start(words, format);
    vsnprintf(path + length, PATH - length, format, words);
    va_end(words);
    return 1;
}

/* The devices are read at every call: a test may change them. */
static Code look(void) {
    char path[PATH], line[512];
    int code = 0, gpu = -1, end;
    if (!locate(path, "fault")) return DRIVER_NOT_LOADED;
    FILE *file = fopen(path, "r");
    if (file) {
        if (fscanf(file, "%d", &code) != 1) code = 999;
        fclose(file);
    }
    if (code) return code;
    locate(path, "devices");
    if (!(file = fopen(path, "r"))) return DRIVER_NOT_LOADED;
    for (count = 0; count < MOST && fgets(line, sizeof line, file);) {
        Device d = {.parent = -1};
        line[strcspn(line, "\n")] = 0;
        if (sscanf(line, "gpu %95s %d %llu %llu %d %n", d.uuid, &d.minor, &d.total, &d.reserved, &d.mig, &end) == 5)
            gpu = count;
        else if (gpu >= 0 && sscanf(line, "mig %95s %llu %d %d %d %n", d.uuid, &d.total, &d.gpu_instance,
                                    &d.compute_instance, &d.slices, &end) == 5)
            d.parent = gpu;
        else
            continue;
        snprintf(d.name, sizeof d.name, "%.95s", line + end);
        devices[count++] = d;
    }
    fclose(file);
    return SUCCESS;
}

/* ---------------------------------------------------------------- processes */

/* When a process started, in ticks since boot; 0 when it is gone or only its exit status is left. */
static Bytes started(int pid) {
    char path[64], text[1024], *rest;
    char state = 0;
    Bytes ticks = 0;
    snprintf(path, sizeof path, "/proc/%d/stat", pid);
    int file = open(path, O_RDONLY | O_CLOEXEC);
    if (file < 0) return 0;
    ssize_t length = read(file, text, sizeof text - 1);
    close(file);
    if (length <= 0) return 0;
    text[length] = 0;
    if (!(rest = strrchr(text, ')'))) return 0;
    sscanf(rest + 2, "%c %*d %*d %*d %*d %*d %*u %*u %*u %*u %*u %*u %*u %*d %*d %*d %*d %*d %*d %llu", &state, &ticks);
    return state == 'Z' || state == 'X' ? 0 : ticks;
}

static double now(void) {
    struct timespec at;
    clock_gettime(CLOCK_REALTIME, &at);
    return at.tv_sec + at.tv_nsec / 1e9;
}

/* Is the memory of a process that was found dead still taken? From the first time that somebody asks, for `grace`. */
static int lingers(const char *entry, double grace) {
    char path[PATH + 600];
    struct stat found;
    if (grace <= 0) return 0;
    snprintf(path, sizeof path, "%s.gone", entry);
    int file = open(path, O_CREAT | O_EXCL | O_WRONLY | O_CLOEXEC, 0666);
    if (file >= 0) close(file);
    if (stat(path, &found)) return 0;
    return now() - (found.st_mtim.tv_sec + found.st_mtim.tv_nsec / 1e9) < grace;
}

/* The processes on one device, at most `room` of them; `*taken` is what they and the dying hold. */
static int processes(const Device *d, Process *list, int room, Bytes *taken) {
    char folder[PATH], path[PATH + 300];
    int found = 0;
    *taken = 0;
    locate(folder, "used/%s", d->uuid);
    DIR *entries = opendir(folder);
    for (struct dirent *entry; entries && (entry = readdir(entries));) {
        char *end;
        Bytes start, memory;
        double grace;
        int listed;
        unsigned pid = strtoul(entry->d_name, &end, 10);
        if (!pid || *end) continue;
        snprintf(path, sizeof path, "%s/%s", folder, entry->d_name);
        FILE *file = fopen(path, "r");
        if (!file) continue;
        int fields = fscanf(file, "%llu %llu %lf %d", &start, &memory, &grace, &listed);
        fclose(file);
        if (fields != 4) continue;
        int alive = started(pid) == start;
        if (!alive && !lingers(path, grace)) continue;
        *taken += memory;
        if ((alive || listed) && found < room)
            list[found++] = (Process){pid, memory, d->parent < 0 ? -1U : (unsigned)d->gpu_instance,
                                      d->parent < 0 ? -1U : (unsigned)d->compute_instance};
    }
    if (entries) closedir(entries);
    return found;
}

/* With MIG, the parent has what all its parts have. */
static int gather(int index, Process *list, int room, Bytes *taken) {
    int found = processes(&devices[index], list, room, taken);
    for (int i = 0; i < count; i++)
        if (devices[i].parent == index) {
            Bytes more;
            found += processes(&devices[i], list + found, room - found, &more);
            *taken += more;
        }
    return found;
}

#ifndef USER

/* ---------------------------------------------------------------- NVML */

static _Atomic int initialised;

static Code ready(void) { return initialised ? look() : UNINITIALIZED; }

static Code find(void *handle, Device **d) {
    Code code = ready();
    size_t index = (size_t)handle - 1;
    if (code) return code;
    if (!handle || index >= (size_t)count) return INVALID_ARGUMENT;
    *d = &devices[index];
    char path[PATH];
    Device *gpu = (*d)->parent < 0 ? *d : &devices[(*d)->parent];
    locate(path, "lost/%s", gpu->uuid);
    return access(path, F_OK) ? SUCCESS : GPU_IS_LOST;
}

static void *handle_of(int index) { return (void *)(size_t)(index + 1); }

static Code text(char *to, unsigned length, const char *from) {
    if (strlen(from) >= length) return INSUFFICIENT_SIZE;
    strcpy(to, from);
    return SUCCESS;
}

/* The index of the n-th GPU, or of the n-th MIG device of one; -1 if there are fewer. */
static int nth(int parent, unsigned n) {
    for (int i = 0; i < count; i++)
        if (devices[i].parent == parent && n-- == 0) return i;
    return -1;
}

Code nvmlInitWithFlags(unsigned flags) {
    (void)flags;
    Code code = look();
    if (!code) initialised++;
    return code;
}

Code nvmlInit_v2(void) { return nvmlInitWithFlags(0); }

Code nvmlShutdown(void) {
    if (!initialised) return UNINITIALIZED;
    initialised--;
    return SUCCESS;
}

const char *nvmlErrorString(Code code) {
    return code == 18 ? "Driver/library version mismatch" : code == GPU_IS_LOST ? "GPU is lost" : "Unknown Error";
}

Code nvmlSystemGetDriverVersion(char *version, unsigned length) {
    return initialised ? text(version, length, "580.95.05") : UNINITIALIZED;
}

Code nvmlSystemGetNVMLVersion(char *version, unsigned length) { return text(version, length, "13.580.95.05"); }

Code nvmlSystemGetCudaDriverVersion_v2(int *version) {
    *version = 13000;
    return SUCCESS;
}

Code nvmlSystemGetCudaDriverVersion(int *version) { return nvmlSystemGetCudaDriverVersion_v2(version); }

Code nvmlDeviceGetCount_v2(unsigned *found) {
    Code code = ready();
    if (code) return code;
    for (*found = 0; nth(-1, *found) >= 0;) ++*found;
    return SUCCESS;
}

Code nvmlDeviceGetHandleByIndex_v2(unsigned n, void **handle) {
    Code code = ready();
    if (code) return code;
    int index = nth(-1, n);
    if (index < 0) return INVALID_ARGUMENT;
    Device *d;
    return find(*handle = handle_of(index), &d);
}

Code nvmlDeviceGetHandleByUUID(const char *uuid, void **handle) {
    Code code = ready();
    if (code) return code;
    for (int i = 0; i < count; i++)
        if (!strcmp(devices[i].uuid, uuid)) {
            Device *d;
            return find(*handle = handle_of(i), &d);
        }
    return NOT_FOUND;
}

Code nvmlDeviceGetUUID(void *handle, char *uuid, unsigned length) {
    Device *d;
    Code code = find(handle, &d);
    return code ? code : text(uuid, length, d->uuid);
}

Code nvmlDeviceGetName(void *handle, char *name, unsigned length) {
    Device *d;
    Code code = find(handle, &d);
    return code ? code : text(name, length, d->name);
}

Code nvmlDeviceGetMinorNumber(void *handle, unsigned *minor) {
    Device *d;
    Code code = find(handle, &d);
    if (!code && d->parent >= 0) code = NOT_SUPPORTED;
    if (!code) *minor = d->minor;
    return code;
}

Code nvmlDeviceGetIndex(void *handle, unsigned *index) {
    Device *d;
    Code code = find(handle, &d);
    if (!code && d->parent >= 0) code = NOT_SUPPORTED;
    for (*index = 0; !code && &devices[nth(-1, *index)] != d;) ++*index;
    return code;
}

typedef struct {
    Bytes total, free, used;
} Memory;

typedef struct {
    unsigned version;
    Bytes total, reserved, free, used;
} Memory2;

Code nvmlDeviceGetMemoryInfo_v2(void *handle, Memory2 *memory) {
    Device *d;
    Process list[MOST];
    Code code = find(handle, &d);
    if (code) return code;
    Bytes used;
    gather(d - devices, list, MOST, &used);
    Bytes usable = d->total - d->reserved;
    *memory = (Memory2){memory->version, d->total, d->reserved, used > usable ? 0 : usable - used, used};
    return SUCCESS;
}

/* The older answer counts what is reserved as used. */
Code nvmlDeviceGetMemoryInfo(void *handle, Memory *memory) {
    Memory2 all = {0};
    Code code = nvmlDeviceGetMemoryInfo_v2(handle, &all);
    if (!code) *memory = (Memory){all.total, all.free, all.total - all.free};
    return code;
}

Code nvmlDeviceGetComputeRunningProcesses_v3(void *handle, unsigned *room, Process *list) {
    Device *d;
    Process every[MOST];
    Code code = find(handle, &d);
    if (code) return code;
    Bytes used;
    unsigned found = gather(d - devices, every, MOST, &used), before = *room;
    *room = found;
    if (found > before) return INSUFFICIENT_SIZE;
    if (found) memcpy(list, every, found * sizeof *list);
    return SUCCESS;
}

Code nvmlDeviceGetGraphicsRunningProcesses_v3(void *handle, unsigned *room, Process *list) {
    Device *d;
    (void)list;
    *room = 0;
    Code code = find(handle, &d);
    return code ? code : d->parent < 0 ? SUCCESS : NOT_SUPPORTED;
}

Code nvmlDeviceGetMigMode(void *handle, unsigned *current, unsigned *pending) {
    Device *d;
    Code code = find(handle, &d);
    if (!code && (d->parent >= 0 || d->mig < 0)) code = NOT_SUPPORTED;
    if (!code) *current = *pending = d->mig;
    return code;
}

Code nvmlDeviceGetMaxMigDeviceCount(void *handle, unsigned *most) {
    Device *d;
    Code code = find(handle, &d);
    if (!code) *most = d->mig < 0 ? 0 : 7;
    return code;
}

Code nvmlDeviceGetMigDeviceHandleByIndex(void *handle, unsigned n, void **part) {
    Device *d;
    Code code = find(handle, &d);
    if (code) return code;
    if (d->mig != 1) return NOT_SUPPORTED;
    if (n >= 7) return INVALID_ARGUMENT;
    int index = nth(d - devices, n);
    if (index < 0) return NOT_FOUND;
    *part = handle_of(index);
    return SUCCESS;
}

Code nvmlDeviceGetDeviceHandleFromMigDeviceHandle(void *handle, void **gpu) {
    Device *d;
    Code code = find(handle, &d);
    if (!code && d->parent < 0) code = INVALID_ARGUMENT;
    if (!code) *gpu = handle_of(d->parent);
    return code;
}

Code nvmlDeviceIsMigDeviceHandle(void *handle, unsigned *is_mig) {
    Device *d;
    Code code = find(handle, &d);
    if (!code) *is_mig = d->parent >= 0;
    return code;
}

Code nvmlDeviceGetGpuInstanceId(void *handle, unsigned *id) {
    Device *d;
    Code code = find(handle, &d);
    if (!code && d->parent < 0) code = NOT_SUPPORTED;
    if (!code) *id = d->gpu_instance;
    return code;
}

Code nvmlDeviceGetComputeInstanceId(void *handle, unsigned *id) {
    Device *d;
    Code code = find(handle, &d);
    if (!code && d->parent < 0) code = NOT_SUPPORTED;
    if (!code) *id = d->compute_instance;
    return code;
}

typedef struct {
    unsigned multiprocessors, copy_engines, decoders, encoders, jpegs, ofas, gpu_slices, compute_slices;
    Bytes memory_mb;
} Attributes;

Code nvmlDeviceGetAttributes_v2(void *handle, Attributes *all) {
    Device *d;
    Code code = find(handle, &d);
    if (!code && d->parent < 0) code = NOT_SUPPORTED;
    if (!code)
        *all = (Attributes){14 * d->slices, 1, 0, 0, 0, 0, d->slices, d->slices, d->total >> 20};
    return code;
}

#else

/* ---------------------------------------------------------------- a process that uses GPUs */

static void note(const char *word, const char *uuid) {
    char path[PATH];
    locate(path, "log");
    FILE *file = fopen(path, "a");
    if (!file) return;
    fprintf(file, "%.3f %s %s %d\n", now(), word, uuid, getpid());
    fclose(file);
}

/* As vLLM does it: a share of all memory must be free, or it does not start. */
static int take(const char *uuid, double share, const char *grace) {
    char path[PATH];
    for (int i = 0; i < count; i++) {
        if (strcmp(devices[i].uuid, uuid)) continue;
        Process list[MOST];
        Bytes used, usable = devices[i].total - devices[i].reserved, wanted = usable * share;
        gather(i, list, MOST, &used);
        if (used + wanted > usable) {
            note("refused", uuid);
            printf("ValueError: Free memory on device cuda:0 (%.2f/%.2f GiB) on startup is less than desired GPU "
                   "memory utilization (%.2f, %.2f GiB). Decrease GPU memory utilization or reduce GPU memory used by "
                   "other processes.\n",
                   (double)(usable > used ? usable - used : 0) / (1 << 30), (double)usable / (1 << 30), share,
                   (double)wanted / (1 << 30));
            return 1;
        }
        locate(path, "used/%s/%d", uuid, getpid());
        FILE *file = fopen(path, "w");
        if (!file) return perror(path), 1;
        fprintf(file, "%llu %llu %s 0\n", started(getpid()), wanted, grace);
        fclose(file);
        note("took", uuid);
        return 0;
    }
    printf("RuntimeError: No CUDA GPUs are available: %s\n", uuid);
    return 1;
}

/* USER SHARE GRACE PROGRAM ARGUMENT… */
int main(int argc, char **argv) {
    if (argc < 4 || look()) return fprintf(stderr, "no GPUs, or nothing to become\n"), 64;
    char *every = strdup(getenv("CUDA_VISIBLE_DEVICES") ?: "");
    for (char *uuid = strtok(every, ","); uuid; uuid = strtok(NULL, ","))
        if (take(uuid, atof(argv[1]), argv[2])) return 1;
    execvp(argv[3], argv + 3);
    return perror(argv[3]), 127;
}

#endif
