/* A mock engine in vLLM's wire format: mock_engine PORT FIRST_US INTERVAL_US TOKENS
 *
 * A POST with "stream":true gets that many content events, the first after FIRST_US, the next every INTERVAL_US;
 * usage is in every chunk if the request asks for it. Any other POST gets a whole reply at once. One thread.
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

#define MOST 4096
#define BUFFER 65536

struct connection {
    int fd, length, sent, usage;
    long long due; /* microseconds; 0 while no stream is running */
    char in[BUFFER];
};

static struct connection *table[MOST];
static int first_us, interval_us, tokens;

static long long now_us(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec * 1000000LL + t.tv_nsec / 1000;
}

static void put(struct connection *c, const char *data, int n) {
    while (n > 0) { /* replies are small: wait if the socket buffer is full */
        ssize_t done = send(c->fd, data, n, MSG_NOSIGNAL);
        if (done < 0 && errno != EAGAIN) return;
        if (done > 0) { data += done; n -= done; }
    }
}

static void event(struct connection *c, const char *choices) {
    char usage[128] = "", body[1024], chunk[1100];
    if (c->usage)
        sprintf(usage, ",\"usage\":{\"prompt_tokens\":187,\"total_tokens\":%d,\"completion_tokens\":%d}", 187 + c->sent, c->sent);
    int n = sprintf(body, "data: {\"id\":\"chatcmpl-0123456789abcdef\",\"object\":\"chat.completion.chunk\",\"created\":1763680000,"
                          "\"model\":\"bench\",\"choices\":[%s]%s}\n\n", choices, usage);
    n = sprintf(chunk, "%x\r\n%s\r\n", n, body);
    put(c, chunk, n);
}

static void step(struct connection *c) {
    static const char done[] = "e\r\ndata: [DONE]\n\n\r\n0\r\n\r\n";
    if (c->sent < tokens) {
        c->sent++;
        event(c, "{\"index\":0,\"delta\":{\"content\":\" token\"},\"logprobs\":null,\"finish_reason\":null,\"token_ids\":null}");
        c->due += interval_us;
        return;
    }
    event(c, "{\"index\":0,\"delta\":{},\"logprobs\":null,\"finish_reason\":\"stop\",\"stop_reason\":null,\"token_ids\":null}");
    if (c->usage) event(c, "");
    put(c, done, sizeof done - 1);
    c->due = 0;
}

static void answer(struct connection *c, const char *body) {
    static const char head[] = "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream; charset=utf-8\r\ntransfer-encoding: chunked\r\n\r\n";
    static const char whole[] =
        "{\"id\":\"chatcmpl-0123456789abcdef\",\"object\":\"chat.completion\",\"created\":1763680000,\"model\":\"bench\","
        "\"choices\":[{\"index\":0,\"message\":{\"role\":\"assistant\",\"content\":\"A gateway that is measured here passes this "
        "sentence on, counts its tokens, and leaves it otherwise as it is. It is as long as a short answer of a small model, "
        "which makes the reply about eight hundred bytes.\",\"refusal\":null,\"annotations\":null,\"audio\":null,\"function_call\":null,"
        "\"tool_calls\":[],\"reasoning\":null},\"logprobs\":null,\"finish_reason\":\"stop\",\"stop_reason\":null,\"token_ids\":null}],"
        "\"service_tier\":null,\"system_fingerprint\":null,\"usage\":{\"prompt_tokens\":187,\"total_tokens\":251,"
        "\"completion_tokens\":64,\"prompt_tokens_details\":null},\"prompt_logprobs\":null,\"kv_transfer_params\":null}";
    char reply[2048];
    if (strstr(body, "\"stream\":true")) {
        c->usage = strstr(body, "\"continuous_usage_stats\":true") != NULL;
        c->sent = 0;
        c->due = now_us() + first_us;
        put(c, head, sizeof head - 1);
        return;
    }
    int n = sprintf(reply, "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %zu\r\n\r\n%s", sizeof whole - 1, whole);
    put(c, reply, n);
}

static int readable(struct connection *c) {
    ssize_t n = recv(c->fd, c->in + c->length, BUFFER - 1 - c->length, 0);
    if (n <= 0) return n < 0 && errno == EAGAIN;
    c->length += n;
    c->in[c->length] = 0;
    char *end = strstr(c->in, "\r\n\r\n"), *size = strcasestr(c->in, "content-length:");
    if (!end || !size || c->length < end + 4 - c->in + atoi(size + 15)) return 1;
    c->length = 0;
    answer(c, end + 4);
    return 1;
}

static void drop(struct connection *c) {
    for (int i = 0; i < MOST; i++) if (table[i] == c) table[i] = NULL;
    close(c->fd);
    free(c);
}

static void welcome(int listener, int poll) {
    int fd, one = 1, i = 0;
    while ((fd = accept4(listener, NULL, NULL, SOCK_NONBLOCK)) >= 0) {
        struct connection *c = calloc(1, sizeof *c);
        struct epoll_event interest = {EPOLLIN, {.ptr = c}};
        c->fd = fd;
        while (i < MOST && table[i]) i++;
        if (i == MOST) { close(fd); free(c); return; }
        table[i] = c;
        setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
        epoll_ctl(poll, EPOLL_CTL_ADD, fd, &interest);
    }
}

int main(int count, char **words) {
    if (count != 5) return 2;
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons(atoi(words[1])), .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    struct epoll_event events[256], interest = {EPOLLIN, {.ptr = NULL}};
    int listener = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0), poll = epoll_create1(0), one = 1;
    first_us = atoi(words[2]), interval_us = atoi(words[3]), tokens = atoi(words[4]);
    signal(SIGPIPE, SIG_IGN);
    setsockopt(listener, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
    if (bind(listener, (void *)&address, sizeof address) || listen(listener, 1024)) { perror("mock_engine"); return 1; }
    epoll_ctl(poll, EPOLL_CTL_ADD, listener, &interest);
    for (int streaming = 0;;) {
        int n = epoll_wait(poll, events, 256, streaming ? 1 : -1);
        for (int i = 0; i < n; i++) {
            if (!events[i].data.ptr) welcome(listener, poll);
            else if (!readable(events[i].data.ptr)) drop(events[i].data.ptr);
        }
        streaming = 0;
        for (int i = 0; i < MOST; i++) {
            struct connection *c = table[i];
            if (c && c->due && c->due <= now_us()) step(c);
            if (c && c->due) streaming = 1;
        }
    }
}
