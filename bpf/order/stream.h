/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/*
 * From segments to a stream: duplicates are dropped, gaps in bodies are passed over, and segments that came too early
 * are kept until the bytes in front of them arrive.
 *
 * Two CPUs may receive segments of one socket at the same time, wherever both ends are on one machine. The stream is taken by
 * adding one and finding oneself alone: kernels before 5.12 have no atomic operation that returns anything.
 */
#ifndef SIDELIGHT_STREAM_H
#define SIDELIGHT_STREAM_H

#include "l7/protocol.h"

#define WINDOW_LIMIT (1 << 26) /* no receive window is larger than this in practice */
#define BUSY_SPINS 64	       /* looks at a stream that another run has, before the program gives its turn away */
#define WAIT_SPINS 4000	       /* ... and in each run of that program: some hundred microseconds */
#define WAIT_ROUNDS 20	       /* of such runs, of the 33 that the kernel allows; counted in skb->cb[0] */

static __always_inline bool stream_take(struct stream *s)
{
#pragma clang loop unroll(disable)
	for (int i = 0; i < BUSY_SPINS; i++) {
		if (*(volatile u32 *)&s->busy)
			continue;
		__sync_fetch_and_add(&s->busy, 1);
		if (*(volatile u32 *)&s->busy == 1)
			return true;
		__sync_fetch_and_add(&s->busy, -1);
	}
	return false;
}

static __always_inline void stream_release(struct stream *s)
{
	__sync_fetch_and_add(&s->busy, -1);
}

/* Looks on, for a bounded time, until nobody has the stream: true. */
static __always_inline bool stream_wait(struct stream *s)
{
#pragma clang loop unroll(disable)
	for (int i = 0; i < WAIT_SPINS; i++) {
		if (!*(volatile u32 *)&s->busy)
			return true;
		/* time passes: the other CPU may have been taken away for milliseconds, where it is a virtual one */
		bpf_ktime_get_ns();
		bpf_ktime_get_ns();
	}
	return false;
}

/* Is the segment the next one of the stream, and body to its last byte? Most of a bulk transfer is: no parser needed. */
static __always_inline bool stream_within_body(const struct stream *s, const struct packet *p)
{
	return (s->state == STREAM_BODY || s->state == STREAM_PASS) && s->next == p->seq && !s->stashed &&
	       (s->state == STREAM_PASS || s->remaining > p->length);
}

static __always_inline void stream_pass_body(const struct connection *c, struct stream *s, const struct packet *p)
{
	s->next += p->length;
	s->left = p->length;
	protocol_pass_body(c, s);
}

/* Accepts a segment into the stream. True when there are bytes to parse. */
static __always_inline bool stream_accept(struct __sk_buff *skb, struct bpf_sock *sk, struct connection *c,
					  struct l7_connection *l, struct stream *s, const struct packet *p, int dir,
					  bool request)
{
	s32 gap = (s32)(p->seq - s->next);
	u32 skip = 0;

	if (gap < 0) {
		skip = -gap;
		if (skip >= p->length)
			return false;
	} else if (gap > 0) {
		if (gap > WINDOW_LIMIT) {
			COUNT(lost_out_of_window);
			return false;
		}
		if (!protocol_pass_gap(c, s, gap)) {
			struct reorder *kept = reorder_of(sk, dir, BPF_SK_STORAGE_GET_F_CREATE);

			if (!kept)
				COUNT(lost_reorder_storage);
			else if (reorder_keep(skb, kept, s, p))
				return false;
			protocol_lose_sync(sk, c, l, s, request);
			s->stashed = 0;
		}
	}
	s->slot = 0;
	s->offset = p->offset + skip;
	s->left = p->length - skip;
	s->next = p->seq + p->length;
	if (s->state == STREAM_RESYNC) {
		if (!protocol_resync(skb, sk, c, l, s, p, request)) {
			s->left = 0;
			return false;
		}
	}
	return true;
}

#endif
