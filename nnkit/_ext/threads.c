/* Threads: the only file that knows them.

   A kernel cuts its work into tasks so that no sum depends on the number of threads, so its result does not either.
   Which thread takes which task is left to chance, but each begins with a share of its own, the same part of all tasks
   every time: what it has written there, in one kernel, is in its own core's cache for the next.

   Each thread that calls kernels has a team of helpers of its own. It opens a region, in which all take tasks until
   there are no more, and closes it. A helper that comes late, since another program had its core, finds it closed, and
   nobody has waited for it: OpenMP's regions end only when every thread has come.

   To wake a sleeping thread takes as long as a small kernel, so helpers spin for a while between regions. Where others
   want to compute, too, that would take a core from them, or from the very thread that all wait for. So a spinning
   helper yields now and then; if its core was given away, it sleeps, and there is no spinning for some time.

   What nobody waits for yet, such as the next batch, is done meanwhile: a helper that would spin takes tasks that were
   left for later, until the next region opens. */
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <time.h>

#include "kernels.h"

#define WORTH_A_TEAM 5e3   /* nanoseconds of work */
#define SPINNING 1e6       /* how long a helper spins: Python between two kernels takes less, on slow machines, too */
#define PATIENCE 200e3     /* how long the thread spins for its helpers' last tasks; asleep, it leaves them its core */
#define AWAY 200e3         /* a thread that is away for so long has given its core to another one */
#define CAUTION 20e6       /* how long there is no spinning then */
#define CLOSED (1u << 30)
#define MIN(a, b) ((a) < (b) ? (a) : (b))

static atomic_int thread_count = 1;
static int forked = 0;

typedef struct {
    _Alignas(64) _Atomic ptrdiff_t next;
} share;  /* of a region's tasks, a thread's own at first */

typedef struct team {
    pthread_mutex_t lock;
    pthread_cond_t opened, left;
    atomic_uint region;        /* their number: a helper waits for another one than it has seen */
    atomic_uint inside;        /* helpers in the region, and CLOSED */
    atomic_int asleep, waiting;  /* helpers; whether the thread itself is, for helpers to leave */
    _Atomic double cautious;   /* until when there is no spinning */
    nnkit_task task;
    void *job;
    ptrdiff_t tasks;
    int threads;               /* of this region: helpers beyond stay outside */
    _Atomic(nnkit_later *) later;  /* what helpers may do between regions, or NULL */
    atomic_int busy;           /* helpers that are at it, or look for it */
    atomic_int users;          /* the thread, and whoever has left something for later: the last one frees the team */
    int helpers, room;         /* threads that there are shares for */
    share *shares;
    struct helper *first;
    int over;                  /* the thread whose team this is has ended */
} team;

typedef struct helper {
    team *team;
    int number;
    pthread_t thread;
    struct helper *next;
} helper;

struct nnkit_later {
    nnkit_task task;
    void *job;
    ptrdiff_t tasks;
    _Atomic ptrdiff_t next;
    team *team;                /* whose helpers know of it, or NULL */
    int threads;
};

static pthread_key_t team_key;
static pthread_once_t once = PTHREAD_ONCE_INIT;

static double now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return 1e9 * t.tv_sec + t.tv_nsec;
}

static void rest_a_moment(void)
{
#if defined(__x86_64__) || defined(__i386__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    __asm__ volatile("yield");
#endif
}

/* Spin for a microsecond or two, or until a number is another one; return whether it is. */
static int spin(const atomic_uint *number, unsigned unwanted)
{
    for (int i = 0; i < 64; i++) {
        if (atomic_load(number) != unwanted)
            return 1;
        rest_a_moment();
    }
    return 0;
}

/* Do one of the tasks; return 0 if there are no more. */
static int take_later(nnkit_later *l, int thread)
{
    const ptrdiff_t task = atomic_fetch_add(&l->next, 1);
    if (task >= l->tasks)
        return 0;
    l->task(l->job, task, thread);
    return 1;
}

/* Do one task that was left for later, if there is one; return whether there was. */
static int use_the_time(team *t, int thread)
{
    int done = 0;
    if (!atomic_load(&t->later))
        return 0;
    atomic_fetch_add(&t->busy, 1);
    nnkit_later *l = atomic_load(&t->later);
    if (l && thread < l->threads && !(done = take_later(l, thread)))
        atomic_compare_exchange_strong(&t->later, &l, NULL);
    atomic_fetch_sub(&t->busy, 1);
    return done;
}

/* Return the number of the next region after `seen`. */
static unsigned wait_for_region(team *t, unsigned seen, int thread)
{
    double start = now();
    for (double time = start; time >= atomic_load(&t->cautious) && time < start + SPINNING;) {
        while (atomic_load(&t->region) == seen && use_the_time(t, thread))
            start = now();
        if (spin(&t->region, seen))
            return atomic_load(&t->region);
        const double before = now();
        sched_yield();
        time = now();
        if (time > before + AWAY)
            atomic_store(&t->cautious, time + CAUTION);
    }
    pthread_mutex_lock(&t->lock);
    atomic_fetch_add(&t->asleep, 1);
    while (atomic_load(&t->region) == seen)
        pthread_cond_wait(&t->opened, &t->lock);
    atomic_fetch_sub(&t->asleep, 1);
    pthread_mutex_unlock(&t->lock);
    return atomic_load(&t->region);
}

static ptrdiff_t first_task(const team *t, int thread) { return t->tasks * thread / t->threads; }

/* Do the thread's own share, then what is left of the others'. */
static void take_tasks(team *t, int thread)
{
    for (int i = 0; i < t->threads; i++) {
        const int owner = (thread + i) % t->threads;
        const ptrdiff_t end = first_task(t, owner + 1);
        if (atomic_load(&t->shares[owner].next) >= end)
            continue;
        for (ptrdiff_t task; (task = atomic_fetch_add(&t->shares[owner].next, 1)) < end;)
            t->task(t->job, task, thread);
    }
}

static void *help(void *argument)
{
    const helper *h = argument;
    team *t = h->team;
    for (unsigned seen = 0;;) {
        seen = wait_for_region(t, seen, h->number);
        if (atomic_fetch_add(&t->inside, 1) < CLOSED) {
            if (t->over)
                return NULL;
            if (h->number < t->threads)
                take_tasks(t, h->number);
        }
        if (atomic_fetch_sub(&t->inside, 1) == CLOSED + 1 && atomic_load(&t->waiting)) {
            pthread_mutex_lock(&t->lock);
            pthread_cond_signal(&t->left);
            pthread_mutex_unlock(&t->lock);
        }
    }
}

/* Let the helpers in, and wake those who sleep. */
static void open_region(team *t)
{
    atomic_fetch_and(&t->inside, ~CLOSED);
    atomic_fetch_add(&t->region, 1);
    if (atomic_load(&t->asleep)) {
        pthread_mutex_lock(&t->lock);
        pthread_cond_broadcast(&t->opened);
        pthread_mutex_unlock(&t->lock);
    }
}

/* Let nobody else in, and wait for those who have come. */
static void close_region(team *t)
{
    unsigned inside = atomic_fetch_or(&t->inside, CLOSED) | CLOSED;
    for (double start = now(); inside != CLOSED && now() < start + PATIENCE; inside = atomic_load(&t->inside))
        spin(&t->inside, inside);
    if (inside == CLOSED)
        return;
    pthread_mutex_lock(&t->lock);
    atomic_store(&t->waiting, 1);
    while (atomic_load(&t->inside) != CLOSED)
        pthread_cond_wait(&t->left, &t->lock);
    atomic_store(&t->waiting, 0);
    pthread_mutex_unlock(&t->lock);
}

static void leave(team *t)
{
    if (atomic_fetch_sub(&t->users, 1) > 1)
        return;
    pthread_cond_destroy(&t->opened);
    pthread_cond_destroy(&t->left);
    pthread_mutex_destroy(&t->lock);
    free(t->shares);
    free(t);
}

/* A team ends with its thread. */
static void dismiss(void *own)
{
    team *t = own;
    if (forked)  /* its helpers are in the parent */
        return;
    t->over = 1;
    open_region(t);
    for (helper *h = t->first, *next; h; h = next) {
        next = h->next;
        pthread_join(h->thread, NULL);
        free(h);
    }
    leave(t);
}

static void in_child(void) { forked = 1; }

static void start(void)
{
    pthread_key_create(&team_key, dismiss);
    pthread_atfork(NULL, NULL, in_child);
}

void nnkit_set_threads(int count)
{
    pthread_once(&once, start);
    thread_count = count > 1 ? count : 1;
}

int nnkit_get_threads(void) { return forked ? 1 : thread_count; }

int nnkit_threads_for(double nanoseconds) { return nanoseconds < WORTH_A_TEAM ? 1 : nnkit_get_threads(); }

/* Start one more helper; return 0 if there is no memory or no thread to be had. */
static int add_helper(team *t)
{
    helper *h = malloc(sizeof *h);
    if (!h)
        return 0;
    *h = (helper){.team = t, .number = t->helpers + 1, .next = t->first};
    /* Signals are for the threads of the program. */
    sigset_t all, before;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    const int failed = pthread_create(&h->thread, NULL, help, h);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    if (failed) {
        free(h);
        return 0;
    }
    t->first = h;
    t->helpers++;
    return 1;
}

/* Make room for the shares of so many threads; return 0 if there is no memory. Nobody looks at them between regions. */
static int make_room(team *t, int threads)
{
    void *shares;
    if (threads <= t->room)
        return 1;
    if (posix_memalign(&shares, sizeof(share), threads * sizeof(share)))
        return 0;
    free(t->shares);
    t->shares = shares, t->room = threads;
    return 1;
}

/* The calling thread's team, which may be smaller than `threads`; NULL if it is alone. */
static team *team_of(int threads)
{
    pthread_once(&once, start);
    team *t = pthread_getspecific(team_key);
    if (!t) {
        if (!(t = calloc(1, sizeof *t)))
            return NULL;
        pthread_mutex_init(&t->lock, NULL);
        pthread_cond_init(&t->opened, NULL);
        pthread_cond_init(&t->left, NULL);
        atomic_store(&t->inside, CLOSED);
        atomic_store(&t->users, 1);
        if (pthread_setspecific(team_key, t)) {
            free(t);
            return NULL;
        }
    }
    while (t->helpers < threads - 1 && make_room(t, t->helpers + 2) && add_helper(t))
        ;
    return t->helpers ? t : NULL;
}

void nnkit_parallel(int threads, ptrdiff_t tasks, nnkit_task task, void *job)
{
    team *t = threads > 1 && tasks > 1 ? team_of(threads) : NULL;
    if (!t) {
        for (ptrdiff_t i = 0; i < tasks; i++)
            task(job, i, 0);
        return;
    }
    t->task = task, t->job = job, t->tasks = tasks;
    t->threads = MIN(MIN(threads, t->helpers + 1), tasks);
    for (int i = 0; i < t->threads; i++)
        atomic_store(&t->shares[i].next, first_task(t, i));
    open_region(t);
    take_tasks(t, 0);
    close_region(t);
}

nnkit_later *nnkit_begin(int threads, ptrdiff_t tasks, nnkit_task task, void *job)
{
    nnkit_later *l = malloc(sizeof *l), *none = NULL;
    if (!l)
        return NULL;
    team *t = threads > 1 && tasks > 1 ? team_of(threads) : NULL;
    *l = (nnkit_later){.task = task, .job = job, .tasks = tasks, .threads = threads};
    if (t && atomic_compare_exchange_strong(&t->later, &none, l)) {
        l->team = t;
        atomic_fetch_add(&t->users, 1);
    }
    return l;
}

static void take_all(void *later, ptrdiff_t index, int thread)
{
    (void)index;
    while (take_later(later, thread))
        ;
}

void nnkit_finish(nnkit_later *l, int wanted)
{
    team *t = l->team;
    nnkit_later *own = l;
    if (t && forked)  /* those who took a task are in the parent */
        t = NULL, atomic_store(&l->next, 0);
    if (!wanted)
        atomic_store(&l->next, l->tasks);
    if (t)
        atomic_compare_exchange_strong(&t->later, &own, NULL);
    /* Those who slept are woken now. Not another team's, of which one has the number of a helper who is at it. */
    const int alone = forked || (t && t != pthread_getspecific(team_key));
    if (atomic_load(&l->next) < l->tasks)
        nnkit_parallel(alone ? 1 : l->threads, l->threads, take_all, l);
    if (t) {
        while (atomic_load(&t->busy))
            sched_yield();
        leave(t);
    }
    free(l->job);
    free(l);
}
