/* A closed-loop load generator: load PORT CONNECTIONS SECONDS KEY BODY
 *
 * Keep-alive, one request in flight on each connection. Prints one line of JSON: requests, errors, events (of streams),
 * and latency and time to the first event as percentiles in microseconds. A stream without [DONE] is an error.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/tcp.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#define BUFFER (1 << 18)

struct connection {
    int fd, length, scanned, streaming;
    long long began, first;
    char in[BUFFER];
};
struct samples { double *values; int count, room; };

static struct samples latency, first_event;
static long requests, errors, events_seen;
static char *request;
static int request_length;

static long long now_ns(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec * 1000000000LL + t.tv_nsec;
}

static void sample(struct samples *s, double value) {
    if (s->count == s->room) s->values = realloc(s->values, (s->room = s->room ? s->room * 2 : 4096) * sizeof *s->values);
    s->values[s->count++] = value;
}

static int ascending(const void *a, const void *b) {
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static void print_percentiles(const char *name, struct samples *s) {
    qsort(s->values, s->count, sizeof *s->values, ascending);
#define AT(share) (s->count ? s->values[(int)((s->count - 1) * share)] : 0.0)
    printf(", \"%s\": {\"p50\": %.1f, \"p99\": %.1f}", name, AT(0.5), AT(0.99));
}

static void ask(struct connection *c) {
    c->length = c->scanned = c->streaming = 0;
    c->first = 0;
    c->began = now_ns();
    for (int sent = 0; sent < request_length;) {
        ssize_t n = send(c->fd, request + sent, request_length - sent, MSG_NOSIGNAL);
        if (n < 0 && errno != EAGAIN) return;
        if (n > 0) sent += n;
    }
}

/* Counts the events since the last call; a mark that is split over two reads is counted at the second. */
static void scan(struct connection *c) {
    char *at;
    while ((at = memmem(c->in + c->scanned, c->length - c->scanned, "data: ", 6))) {
        if (!c->first) c->first = now_ns();
        events_seen++;
        c->scanned = at + 6 - c->in;
    }
    if (c->length - 5 > c->scanned) c->scanned = c->length - 5;
}

static int complete(struct connection *c) {
    char *end = memmem(c->in, c->length, "\r\n\r\n", 4), *size;
    if (!end) return 0;
    c->streaming = memmem(c->in, end - c->in, "text/event-stream", 17) != NULL;
    if (memmem(c->in, end - c->in, "chunked", 7)) return c->length >= 5 && !memcmp(c->in + c->length - 5, "0\r\n\r\n", 5);
    size = strcasestr(c->in, "content-length:");
    return size && c->length >= end + 4 - c->in + atoi(size + 15);
}

static void note(struct connection *c) {
    int good = !strncmp(c->in + 9, "200", 3) && (!c->streaming || memmem(c->in, c->length, "data: [DONE]", 12));
    requests++;
    errors += !good;
    sample(&latency, (now_ns() - c->began) / 1e3);
    if (c->first) sample(&first_event, (c->first - c->began) / 1e3);
}

int main(int count, char **words) {
    if (count != 6) return 2;
    int wanted = atoi(words[2]), poll = epoll_create1(0), one = 1;
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons(atoi(words[1])), .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    struct epoll_event events[256];
    double seconds = atof(words[3]);
    signal(SIGPIPE, SIG_IGN);
    request_length = asprintf(&request, "POST /v1/chat/completions HTTP/1.1\r\nhost: 127.0.0.1\r\nauthorization: Bearer %s\r\n"
                              "content-type: application/json\r\ncontent-length: %zu\r\n\r\n%s", words[4], strlen(words[5]), words[5]);
    for (int i = 0; i < wanted; i++) {
        struct connection *c = calloc(1, sizeof *c);
        struct epoll_event interest = {EPOLLIN, {.ptr = c}};
        c->fd = socket(AF_INET, SOCK_STREAM, 0);
        if (connect(c->fd, (void *)&address, sizeof address)) { perror("load"); return 1; }
        setsockopt(c->fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
        epoll_ctl(poll, EPOLL_CTL_ADD, c->fd, &interest);
        ask(c);
    }
    long long began = now_ns(), end = began + seconds * 1e9;
    while (now_ns() < end) {
        int n = epoll_wait(poll, events, 256, 10);
        for (int i = 0; i < n; i++) {
            struct connection *c = events[i].data.ptr;
            ssize_t got = recv(c->fd, c->in + c->length, BUFFER - 1 - c->length, MSG_DONTWAIT);
            if (got <= 0) {
                if (got < 0 && errno == EAGAIN) continue;
                errors++;
                close(c->fd);
                continue;
            }
            c->length += got;
            c->in[c->length] = 0;
            scan(c);
            if (complete(c)) { note(c); ask(c); }
        }
    }
    seconds = (now_ns() - began) / 1e9;
    printf("{\"requests\": %ld, \"errors\": %ld, \"events\": %ld, \"seconds\": %.3f", requests, errors, events_seen, seconds);
    print_percentiles("latency_us", &latency);
    print_percentiles("first_event_us", &first_event);
    printf("}\n");
    return 0;
}
