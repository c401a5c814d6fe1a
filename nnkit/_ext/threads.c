/* Threads and scratch memory: the only file that knows OpenMP.

   A kernel cuts its work into tasks so that no sum depends on the number of threads, so its result does not either;
   which thread takes which task is left to chance. */
#ifdef _OPENMP
#include <omp.h>
#endif
#include <pthread.h>
#include <stdlib.h>

#include "kernels.h"

#define WORTH_A_TEAM 20e3  /* nanoseconds: starting and ending a parallel region costs 5 to 50 microseconds */

static int thread_count = 1, forked = 0;

#ifdef _OPENMP
const int nnkit_openmp = 1;
#else
const int nnkit_openmp = 0;
#endif

/* libgomp's team does not survive a fork: a child that entered a parallel region would wait for it for ever. */
static void in_child(void) { forked = 1; }

static pthread_key_t scratch_key;
static pthread_once_t once = PTHREAD_ONCE_INIT;

static void start(void)
{
    pthread_key_create(&scratch_key, free);
    pthread_atfork(NULL, NULL, in_child);
}

void nnkit_set_threads(int count)
{
    pthread_once(&once, start);
    thread_count = nnkit_openmp && count > 1 ? count : 1;
}

int nnkit_get_threads(void) { return forked ? 1 : thread_count; }

int nnkit_threads_for(double nanoseconds) { return nanoseconds < WORTH_A_TEAM ? 1 : nnkit_get_threads(); }

#ifdef _OPENMP
static void *wait_for(void *gate)
{
    pthread_mutex_lock(gate);
    pthread_mutex_unlock(gate);
    return NULL;
}

/* How large a team can be, up to `wanted`. A limit on processes or memory may forbid threads, and OpenMP would end the
   process then; so as many are started here once, for each thread that has a team of its own. */
static int team_to_be_had(int wanted)
{
    static __thread int had = 1;
    if (wanted <= had)
        return wanted;
    pthread_t *threads = malloc(sizeof *threads * wanted);
    pthread_mutex_t gate = PTHREAD_MUTEX_INITIALIZER;
    int count = 0;
    pthread_mutex_lock(&gate);
    while (threads && count < wanted - 1 && !pthread_create(threads + count, NULL, wait_for, &gate))
        count++;
    pthread_mutex_unlock(&gate);
    for (int i = 0; i < count; i++)
        pthread_join(threads[i], NULL);
    free(threads);
    if (count == wanted - 1)
        had = wanted;
    return count + 1;
}
#endif

/* The team is as large for two tasks as for many: libgomp would end the threads that a smaller one leaves over. */
void nnkit_parallel(int threads, ptrdiff_t tasks, nnkit_task task, void *job)
{
#ifdef _OPENMP
    if (threads > 1 && tasks > 1 && (threads = team_to_be_had(threads)) > 1) {
#pragma omp parallel for num_threads(threads) schedule(dynamic, 1)
        for (ptrdiff_t i = 0; i < tasks; i++)
            task(job, i, omp_get_thread_num());
        return;
    }
#endif
    (void)threads;
    for (ptrdiff_t i = 0; i < tasks; i++)
        task(job, i, 0);
}

typedef struct {
    size_t bytes;
    void *memory;
} arena;  /* one block: the header, then what it manages, so that `free` on the key's value gives back both */

void *nnkit_scratch(size_t bytes)
{
    enum { HEADER = 64 };  /* keeps the memory on a cache line's boundary */
    pthread_once(&once, start);
    arena *own = pthread_getspecific(scratch_key);
    if (bytes > PTRDIFF_MAX - HEADER)
        return NULL;
    if (own && own->bytes >= bytes)
        return own->memory;
    pthread_setspecific(scratch_key, NULL);
    free(own);
    void *block;
    if (posix_memalign(&block, HEADER, HEADER + bytes))
        return NULL;
    own = block;
    own->bytes = bytes;
    own->memory = (char *)block + HEADER;
    if (pthread_setspecific(scratch_key, own)) {
        free(block);
        return NULL;
    }
    return own->memory;
}

void nnkit_release_scratch(void)
{
    pthread_once(&once, start);
    free(pthread_getspecific(scratch_key));
    pthread_setspecific(scratch_key, NULL);
}
