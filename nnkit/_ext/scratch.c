/* Scratch memory: each thread that calls kernels has a block of its own, which grows with what they ask for and is kept
   from call to call, for to be given fresh pages by the system takes as long as a kernel does. */
#include <pthread.h>
#include <stdlib.h>

#include "kernels.h"

static pthread_key_t key;
static pthread_once_t once = PTHREAD_ONCE_INIT;

static void start(void) { pthread_key_create(&key, free); }

/* One block: how large the memory is, then that. So `free` on the key's value gives back both. */
enum { HEADER = 64 };  /* keeps the memory on a cache line's boundary */

void *nnkit_scratch(size_t bytes)
{
    pthread_once(&once, start);
    void *block = pthread_getspecific(key);
    if (bytes > PTRDIFF_MAX - HEADER)
        return NULL;
    if (block && *(size_t *)block >= bytes)
        return (char *)block + HEADER;
    pthread_setspecific(key, NULL);
    free(block);
    if (posix_memalign(&block, HEADER, HEADER + bytes))
        return NULL;
    *(size_t *)block = bytes;
    if (pthread_setspecific(key, block)) {
        free(block);
        return NULL;
    }
    return (char *)block + HEADER;
}

void nnkit_release_scratch(void)
{
    pthread_once(&once, start);
    free(pthread_getspecific(key));
    pthread_setspecific(key, NULL);
}
