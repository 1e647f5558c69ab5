/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/*
 * HTTP load at a fixed rate: request k is due at start + k / rate, whatever became of the earlier ones, and its latency
 * counts from when it was due. So a server that stalls is charged for every request that had to wait (no coordinated omission).
 *
 *   openloop ADDRESS PORT PATH RATE SECONDS CONNECTIONS ADDRESSES
 *
 * Connection i goes to ADDRESS + i % ADDRESSES and is kept alive; a rate of 0 means as fast as the answers come. Answers
 * must be of one length. Says {"requests", "failed", "seconds", "p50_us", "p99_us", "p999_us", "max_us"}.
 */
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/tcp.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#define BUCKETS 4096 /* of latency: 64 a power of two of ns */
#define EVENTS 256

struct connection {
	int fd;
	int busy;
	uint64_t due_ns;
	size_t got; /* bytes of the answer */
};

static uint64_t counts[BUCKETS], done, failed;

static uint64_t now_ns(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return t.tv_sec * 1000000000ull + t.tv_nsec;
}

static unsigned bucket_of(uint64_t ns)
{
	unsigned power;

	if (ns < 64)
		return ns;
	power = 63 - __builtin_clzll(ns);
	power = (power - 5) * 64 + ((ns >> (power - 6)) & 63);
	return power < BUCKETS ? power : BUCKETS - 1;
}

static double bucket_us(unsigned bucket)
{
	if (bucket < 64)
		return bucket / 1000.0;
	return (double)((64ull + bucket % 64) << (bucket / 64 - 1)) / 1000.0;
}

static double percentile(double share)
{
	uint64_t seen = 0, wanted = share * done;

	for (unsigned i = 0; i < BUCKETS; i++) {
		seen += counts[i];
		if (counts[i] && seen >= wanted)
			return bucket_us(i);
	}
	return 0;
}

static void die(const char *what)
{
	perror(what);
	exit(1);
}

int main(int argc, char **argv)
{
	struct epoll_event events[EVENTS];
	struct connection *all, **idle;
	char request[512], buffer[65536];
	int connections, addresses, free_count = 0, epoll, length;
	double rate, seconds, interval;
	uint64_t start, end, issued = 0, answer = 0;

	if (argc != 8) {
		fprintf(stderr, "usage: openloop ADDRESS PORT PATH RATE SECONDS CONNECTIONS ADDRESSES\n");
		return 2;
	}
	rate = atof(argv[4]);
	seconds = atof(argv[5]);
	connections = atoi(argv[6]);
	addresses = atoi(argv[7]);
	length = snprintf(request, sizeof(request), "GET %s HTTP/1.1\r\nHost: bench.example\r\n\r\n", argv[3]);
	all = calloc(connections, sizeof(*all));
	idle = calloc(connections, sizeof(*idle));
	epoll = epoll_create1(0);
	for (int i = 0; i < connections; i++) {
		struct sockaddr_in to = {.sin_family = AF_INET, .sin_port = htons(atoi(argv[2]))};
		struct epoll_event event = {.events = EPOLLIN, .data.ptr = &all[i]};
		int one = 1;

		to.sin_addr.s_addr = htonl(ntohl(inet_addr(argv[1])) + i % addresses);
		all[i].fd = socket(AF_INET, SOCK_STREAM, 0);
		if (all[i].fd < 0 || connect(all[i].fd, (struct sockaddr *)&to, sizeof(to)))
			die("connect");
		setsockopt(all[i].fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one));
		fcntl(all[i].fd, F_SETFL, O_NONBLOCK);
		epoll_ctl(epoll, EPOLL_CTL_ADD, all[i].fd, &event);
		idle[free_count++] = &all[i];
	}
	/* the length of an answer, from the first one */
	if (write(all[0].fd, request, length) != length)
		die("write");
	for (;;) {
		ssize_t n;

		usleep(20000);
		n = read(all[0].fd, buffer, sizeof(buffer));
		if (n <= 0)
			break;
		answer += n;
	}
	if (!answer)
		die("no answer");
	interval = rate > 0 ? 1e9 / rate : 0;
	start = now_ns();
	end = start + (uint64_t)(seconds * 1e9);
	for (;;) {
		uint64_t now = now_ns();
		int ready, wait = 0;

		/* the oldest free connection first: each of them gets its turn */
		while (free_count && now < end) {
			uint64_t due = rate > 0 ? start + (uint64_t)(issued * interval) : now;
			struct connection *c;

			if (due > now)
				break;
			c = idle[0];
			memmove(idle, idle + 1, --free_count * sizeof(*idle));
			issued++;
			c->busy = 1;
			c->due_ns = due;
			c->got = 0;
			if (write(c->fd, request, length) != length) {
				failed++;
				c->busy = 0;
				close(c->fd);
			}
		}
		if (now >= end && (done + failed >= issued || now > end + 2000000000ull))
			break;
		if (rate > 0 && rate < 20000)
			wait = 1; /* leaves the core; late by a millisecond at most, which is charged */
		ready = epoll_wait(epoll, events, EVENTS, wait);
		for (int i = 0; i < ready; i++) {
			struct connection *c = events[i].data.ptr;
			ssize_t n = read(c->fd, buffer, sizeof(buffer));

			if (n <= 0) {
				if (n < 0 && errno == EAGAIN)
					continue;
				failed += c->busy;
				c->busy = 0;
				close(c->fd);
				continue;
			}
			c->got += n;
			if (c->busy && c->got >= answer) {
				counts[bucket_of(now_ns() - c->due_ns)]++;
				done++;
				c->busy = 0;
				idle[free_count++] = c;
			}
		}
	}
	failed += issued - done - failed;
	printf("{\"requests\": %llu, \"failed\": %llu, \"seconds\": %.3f, \"p50_us\": %.1f, \"p99_us\": %.1f, \"p999_us\": %.1f, \"max_us\": %.1f}\n",
	       (unsigned long long)done, (unsigned long long)failed, (now_ns() - start) / 1e9, percentile(0.5),
	       percentile(0.99), percentile(0.999), percentile(1));
	return 0;
}
