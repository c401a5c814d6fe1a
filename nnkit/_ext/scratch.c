/* Scratch memory: each thread that calls kernels has a block of its own, which grows with what they ask for and is kept
   from call to call, for to be given fresh pages by the system takes as long as a kernel does. */
#include <pthread.h>
#include <stdlib.h>

#include "kernels.h"

static pthread_key_t key;
static pthread_once_t once = PTHREAD_ONCE_INIT;

static void start(void) { pthread_key_create(&key, free); }

typedef struct {
    size_t bytes;
    void *memory;
} arena;  /* one block: the header, then what it manages, so that `free` on the key's value gives back both */

void *nnkit_scratch(size_t bytes)
{
    enum { HEADER = 64 };  /* keeps the memory on a cache line's boundary */
    pthread_once(&once, start);
    arena *own = pthread_getspecific(key);
    if (bytes > PTRDIFF_MAX - HEADER)
        return NULL;
    if (own && own->bytes >= bytes)
        return own->memory;
    pthread_setspecific(key, NULL);
    free(own);
    void *block;
    if (posix_memalign(&block, HEADER, HEADER + bytes))
        return NULL;
    own = block;
    own->bytes = bytes;
    own->memory = (char *)block + HEADER;
    if (pthread_setspecific(key, own)) {
        free(block);
        return NULL;
    }
    return own->memory;
}

void nnkit_release_scratch(void)
{
    pthread_once(&once, start);
    free(pthread_getspecific(key));
    pthread_setspecific(key, NULL);
}
