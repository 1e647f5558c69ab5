/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/* Events: written to the ring buffer at a bounded rate; what is not written is counted. */
#ifndef SIDELIGHT_EVENTS_H
#define SIDELIGHT_EVENTS_H

#include "books/edge.h"

#define NS_PER_SECOND 1000000000ULL

/* The agent polls; a wake-up an event would cost more than the event. */
#define NO_WAKEUP BPF_RB_NO_WAKEUP

/*
 * Takes a token of the class. Per CPU and not atomic: an interrupted run can give away a token too many, never lose
 * the count of an event. A full bucket holds one second's worth.
 */
static __always_inline bool event_allowed(struct settings *set, u32 class, u32 rate, u64 now)
{
	struct token_buckets *all;
	struct token_bucket *bucket;
	u64 cost, credit;
	u32 zero = 0;

	COUNT(seen_events);
	if (!set->events) {
		COUNT(lost_event_shed);
		return false;
	}
	all = buckets.lookup(&zero);
	if (!all || rate == 0) {
		COUNT(lost_event_suppressed);
		return false;
	}
	bucket = &all->of[class & 3];
	credit = bucket->tokens_ns + (now - bucket->filled_ns);
	if (credit > NS_PER_SECOND)
		credit = NS_PER_SECOND;
	bucket->filled_ns = now;
	cost = NS_PER_SECOND / rate;
	if (credit < cost) {
		bucket->tokens_ns = credit;
		COUNT(lost_event_suppressed);
		return false;
	}
	bucket->tokens_ns = credit - cost;
	return true;
}

static __always_inline void event_fill(struct event *e, struct connection *c, u8 type, u64 now, u64 cookie)
{
	e->time_ns = now;
	e->cookie = cookie;
	e->key = c->key;
	__builtin_memcpy(e->local, c->local, sizeof(e->local));
	e->local_port = c->local_port;
	e->remote_port = c->remote_port;
	e->status = 0;
	e->type = type;
	e->reason = 0;
	e->method = 0;
	e->flags =
	    (c->flags & CONN_ADOPTED ? EVENT_ADOPTED : 0) | (c->flags & CONN_ROLE_GUESSED ? EVENT_ROLE_GUESSED : 0);
	e->text_length = 0;
	e->srtt_us = 0;
	e->duration_ns = 0;
	e->tx_bytes = c->dir[TX].bytes;
	e->rx_bytes = c->dir[RX].bytes;
	e->segments = ((u64)c->tx_segments_flushed << 32) | c->rx_segments_flushed;
	e->retransmits = c->retransmits_flushed;
	e->request_seq = 0;
	e->response_seq = 0;
	e->operation = 0;
}

/* Opens, closes, failures. */
static __always_inline void event_connection(void *ctx, struct connection *c, u8 type, u8 reason, u64 now,
					     u64 duration_ns, u32 srtt_us)
{
	struct settings *set = current_settings();
	struct event *e;

	if (!set || !event_allowed(set, TOKENS_CONNECTION, set->connection_rate, now))
		return;
	e = events.ringbuf_reserve(sizeof(*e));
	if (!e) {
		COUNT(lost_event_ring_full);
		return;
	}
	event_fill(e, c, type, now, bpf_get_socket_cookie(ctx));
	e->reason = reason;
	e->duration_ns = duration_ns;
	e->srtt_us = srtt_us;
	events.ringbuf_submit(e, NO_WAKEUP);
	COUNT(sent_events);
}

/* A DNS message or a piece of a ClientHello: `length` bytes of the skb at `offset`. */
static __always_inline void event_payload(struct __sk_buff *skb, struct connection *c, u8 type, u8 flags, u32 offset,
					  u32 length, u64 duration_ns, u32 sequence)
{
	struct settings *set = current_settings();
	u64 now = bpf_ktime_get_ns(), size = length;
	struct payload_event *e;

	if (!set || !event_allowed(set, TOKENS_PAYLOAD, set->payload_rate, now))
		return;
	e = events.ringbuf_reserve(sizeof(*e));
	if (!e) {
		COUNT(lost_event_ring_full);
		return;
	}
	event_fill(&e->event, c, type, now, bpf_get_socket_cookie(skb));
	e->event.flags |= flags;
	e->event.duration_ns = duration_ns;
	e->event.request_seq = sequence;
	if (size > PAYLOAD_BYTES - 1) {
		size = PAYLOAD_BYTES - 1;
		e->event.flags |= EVENT_TEXT_TRUNCATED;
	}
	BOUND_SIZE(size, 1023);
	if (length == 0 || bpf_skb_load_bytes(skb, offset, e->payload, size)) {
		COUNT(lost_payload_read);
		events.ringbuf_discard(e, NO_WAKEUP);
		return;
	}
	e->event.text_length = size;
	events.ringbuf_submit(e, NO_WAKEUP);
	COUNT(sent_events);
}

#endif
