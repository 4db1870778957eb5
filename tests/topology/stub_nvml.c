/* A libnvidia-ml.so.1 that tells of the GPUs listed in the file that STUB_NVML names; see driver.py beside it. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { OK = 0, INVALID = 2, NOT_SUPPORTED = 3, NOT_FOUND = 6, NOT_LOADED = 9, LOST = 15, GPUS = 16, PARTS = 8, LINKS = 18 };
typedef unsigned long long u64;
typedef struct { u64 total, free, used; } memory_t;
typedef struct { char legacy[16]; unsigned domain, bus, device, id, subsystem; char text[32]; } pci_t;
typedef struct device {
    char uuid[96], name[96];
    u64 total, free, cores[2];
    int major, minor, split, lost, to_switch, parts, is_part;
    unsigned domain, bus, slot;
    int level[GPUS], links[GPUS];
    struct device *part[PARTS];
} device_t;
static device_t gpus[GPUS];
static int count, loaded;

static void line(FILE *file, char *text, int size) {
    text[0] = 0;
    if (fgets(text, size, file)) { text[strcspn(text, "\n")] = 0; memmove(text, text + 1, strlen(text)); }
}

static int nvmlInit_v2(void) {
    const char *path = getenv("STUB_NVML");
    FILE *file = path ? fopen(path, "r") : NULL;
    char word[16];
    int i, j, n;
    if (!file) return NOT_LOADED;
    count = 0;
    memset(gpus, 0, sizeof gpus);
    while (fscanf(file, "%15s", word) == 1) {
        if (!strcmp(word, "gpu")) {
            device_t *g = &gpus[count++];
            fscanf(file, "%95s %llu %llu %d %d %x:%x:%x %llx %llx %d %d %d", g->uuid, &g->total, &g->free, &g->major,
                   &g->minor, &g->domain, &g->bus, &g->slot, &g->cores[0], &g->cores[1], &g->split, &g->lost,
                   &g->to_switch);
            line(file, g->name, sizeof g->name);
        } else if (!strcmp(word, "mig")) {
            device_t *g = calloc(1, sizeof *g);
            fscanf(file, "%d %95s %llu %llu", &i, g->uuid, &g->total, &g->free);
            line(file, g->name, sizeof g->name);
            g->is_part = 1;
            gpus[i].part[gpus[i].parts++] = g;
        } else if (!strcmp(word, "level") && fscanf(file, "%d %d %d", &i, &j, &n) == 3) gpus[i].level[j] = n;
        else if (!strcmp(word, "nvlink") && fscanf(file, "%d %d %d", &i, &j, &n) == 3) gpus[i].links[j] = n;
    }
    fclose(file);
    loaded = 1;
    return OK;
}
int nvmlInitWithFlags(unsigned flags) { (void)flags; return nvmlInit_v2(); }
int nvmlShutdown(void) { loaded = 0; return OK; }
const char *nvmlErrorString(int code) { return code == LOST ? "GPU is lost" : code == NOT_LOADED ? "Driver Not Loaded" : "Error"; }
int nvmlDeviceGetCount_v2(unsigned *n) { *n = count; return loaded ? OK : INVALID; }
int nvmlDeviceGetHandleByIndex_v2(unsigned i, device_t **d) { *d = &gpus[i]; return gpus[i].lost ? LOST : OK; }
int nvmlDeviceGetUUID(device_t *d, char *text, unsigned size) { snprintf(text, size, "%s", d->uuid); return OK; }
int nvmlDeviceGetName(device_t *d, char *text, unsigned size) { snprintf(text, size, "%s", d->name); return OK; }
int nvmlDeviceGetMemoryInfo(device_t *d, memory_t *m) { m->total = d->total; m->free = d->free; m->used = d->total - d->free; return OK; }
int nvmlDeviceGetCudaComputeCapability(device_t *d, int *a, int *b) { *a = d->major; *b = d->minor; return OK; }
static int pci(device_t *d, pci_t *p) {
    memset(p, 0, sizeof *p);
    p->domain = d->domain; p->bus = d->bus; p->device = d->slot;
    snprintf(p->text, sizeof p->text, "%08X:%02X:%02X.0", p->domain, p->bus, p->device);
    return OK;
}
int nvmlDeviceGetPciInfo_v3(device_t *d, pci_t *p) { return pci(d, p); }
int nvmlDeviceGetCpuAffinity(device_t *d, unsigned n, u64 *set) {
    for (unsigned i = 0; i < n; i++) set[i] = i < 2 ? d->cores[i] : 0;
    return OK;
}
int nvmlDeviceGetMigMode(device_t *d, unsigned *now, unsigned *later) {
    if (d->split < 0) return NOT_SUPPORTED;
    *now = *later = d->split;
    return OK;
}
int nvmlDeviceGetMaxMigDeviceCount(device_t *d, unsigned *n) { (void)d; *n = PARTS - 1; return OK; }
int nvmlDeviceGetMigDeviceHandleByIndex(device_t *d, unsigned i, device_t **part) {
    *part = d->part[i];
    return *part ? OK : NOT_FOUND;
}
int nvmlDeviceGetTopologyCommonAncestor(device_t *a, device_t *b, int *level) { *level = a->level[b - gpus]; return OK; }
static int far_end(device_t *d, unsigned link) { /* index of the GPU at a link's other end, GPUS for a switch, -1 for none */
    int i, n = link;
    for (i = 0; i < count; i++) if ((n -= d->links[i]) < 0) return i;
    return n - d->to_switch < 0 ? GPUS : -1;
}
int nvmlDeviceGetNvLinkState(device_t *d, unsigned link, unsigned *on) {
    if (link >= LINKS) return INVALID;
    *on = far_end(d, link) >= 0;
    return d->major < 7 ? NOT_SUPPORTED : OK;
}
int nvmlDeviceGetNvLinkRemoteDeviceType(device_t *d, unsigned link, unsigned *type) { *type = far_end(d, link) == GPUS ? 2 : 0; return OK; }
int nvmlDeviceGetNvLinkRemotePciInfo_v2(device_t *d, unsigned link, pci_t *p) { return pci(&gpus[far_end(d, link)], p); }
int nvmlDeviceGetP2PStatus(device_t *a, device_t *b, int kind, unsigned *status) {
    *status = kind == 2 && a->to_switch && b->to_switch ? 0 : 5;
    return OK;
}
