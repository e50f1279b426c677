/* A wall clock that can be turned while a process runs, for LD_PRELOAD: adds the seconds in a file, 8 bytes, to it.

   libfaketime was tried first: it takes a lock for every look at any clock, which made nodes ten times slower, and
   breaks sleeps until a time of the monotonic clock. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <fcntl.h>
#include <stdint.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

static int (*from_kernel)(clockid_t, struct timespec *);
static const volatile int64_t *ahead_s;

__attribute__((constructor)) static void map_offset(void)
{
    int file = open("/etc/clock-ahead", O_RDONLY | O_CLOEXEC);
    if (file < 0)
        return;
    void *mapped = mmap(NULL, sizeof *ahead_s, PROT_READ, MAP_SHARED, file, 0);
    close(file);
    if (mapped != MAP_FAILED)
        ahead_s = mapped;
}

int clock_gettime(clockid_t clock, struct timespec *now)
{
    if (!from_kernel)
        from_kernel = (int (*)(clockid_t, struct timespec *))dlsym(RTLD_NEXT, "clock_gettime");
    int status = from_kernel(clock, now);
    if (!status && ahead_s && (clock == CLOCK_REALTIME || clock == CLOCK_REALTIME_COARSE))
        now->tv_sec += *ahead_s;
    return status;
}
