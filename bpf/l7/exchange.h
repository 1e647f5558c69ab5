/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/*
 * Exchanges in flight, first in, first out, whatever the protocol: a request begins one, an answer or the connection's end ends
 * it. Here they are booked, and here their events are made.
 *
 *   exchange_begin    the request side met a message's first byte
 *   exchange_whole    ... and its end, as far as it says what is asked
 *   exchange_answer   the response side: the oldest one has its answer
 *   exchange_close    the connection is over: one more without an answer
 *   exchange_lose     the response side lost its place: what waits cannot be told apart any more
 */
#ifndef SIDELIGHT_EXCHANGE_H
#define SIDELIGHT_EXCHANGE_H

#include "books/events.h"
#include "l7/operation.h"
#include "order/source.h"

#define SLOT(index) ((index) & (EXCHANGES - 1))
#define NEWEST(l) SLOT((l)->head - 1)

static __always_inline bool is_request(const struct connection *c, int dir)
{
	return (c->key.role == ROLE_CLIENT) == (dir == TX);
}

/* A new exchange takes its place. Beyond the depth they are only counted, in order: false. */
static __always_inline bool exchange_begin(struct l7_connection *l, struct stream *s)
{
	struct exchange *e;

	/* The other side's cache line is looked at only when it has to be. */
	if (l->head - l->tail_seen >= EXCHANGES)
		l->tail_seen = l->tail;
	if (l->untimed_head != l->untimed_seen)
		l->untimed_seen = l->untimed_tail;
	if (l->head - l->tail_seen >= EXCHANGES || l->untimed_head != l->untimed_seen) {
		l->untimed_head++;
		return false;
	}
	e = &l->exchanges[SLOT(l->head)];
	e->started_ns = s->started_ns;
	e->seq = s->started_seq;
	e->operation = 0;
	l->methods[SLOT(l->head)] = METHOD_OTHER;
	l->flags[SLOT(l->head)] = 0;
	l->head++;
	return true;
}

/* The newest one was none after all. */
static __always_inline void exchange_withdraw(struct l7_connection *l)
{
	if (l->head != l->tail)
		l->head--;
}

/* The newest one's request is whole; `placed`: it has a place in the queue. */
static __always_inline void exchange_whole(struct l7_connection *l, bool placed)
{
	if (placed) {
		u8 *flags = &l->flags[NEWEST(l)];

		if (*flags & EXCHANGE_WHOLE)
			return;
		*flags |= EXCHANGE_WHOLE;
	}
	COUNT(seen_requests);
}

/* The window holds the start of the newest one's text: `length` bytes of its first line, should an event ask for it. */
static __always_inline void text_note(struct l7_connection *l, struct stream *s, u32 length)
{
	struct settings *set = current_settings();

	if (!set || !set->head_text)
		return;
	s->text_number = l->head;
	s->text_length = length;
}

/* The host and traceparent that the step at hand found in the window. */
static __always_inline void text_values(const struct stream *s, u8 *host, u8 *traceparent)
{
	u32 from = s->trace_at;

	if (s->host_at) {
		for (int i = 0; i < HOST_BYTES; i += 8) /* ends at the line's CR, for the reader */
			*(u64 *)(host + i) = load8(s->window + at(s->host_at) + i);
	}
	if (from) {
		if (s->window[at(from)] == ' ')
			from++;
		for (int i = 0; i < TRACEPARENT_BYTES; i += 8)
			*(u64 *)(traceparent + i) = load8(s->window + at(from) + i);
		traceparent[TRACEPARENT_BYTES - 1] = 0;
	}
}

/* The window is about to be used again within a request's text: keeps its start for a later event. */
static __always_inline void text_keep(struct bpf_sock *sk, struct l7_connection *l, struct stream *s)
{
	u32 number = s->text_number;
	struct exchange_text *t;

	s->text_number = 0;
	/* It may still serve an exchange that waits for its answer: the older one keeps it. */
	if (!number || (l->text_kept && (s32)(l->text_kept - 1 - l->tail) >= 0))
		return;
	t = exchange_texts.sk_storage_get(sk, 0, BPF_SK_STORAGE_GET_F_CREATE);
	if (!t) {
		COUNT(lost_exchange_text);
		return;
	}
	l->text_kept = number;
	t->truncated = s->text_length > TEXT_BYTES;
	t->length = s->text_length < TEXT_BYTES ? s->text_length : TEXT_BYTES;
	t->host[0] = 0;
	t->traceparent[0] = 0;
#pragma unroll
	for (int i = 0; i < TEXT_BYTES; i += 8)
		*(u64 *)(t->text + i) = *(u64 *)(s->window + i);
	text_values(s, t->host, t->traceparent);
}

/* What is known of the request's text: still in its stream's window, or kept. */
static __always_inline void text_of(struct bpf_sock *sk, struct request_event *e, struct l7_connection *l,
				    struct stream *s, u32 number)
{
	struct exchange_text *t;

	e->text[0] = 0;
	e->host[0] = 0;
	e->traceparent[0] = 0;
	if (*(volatile u32 *)&s->text_number == number) {
		if (s->text_length > TEXT_BYTES)
			e->event.flags |= EVENT_TEXT_TRUNCATED;
		e->event.text_length = s->text_length < TEXT_BYTES ? s->text_length : TEXT_BYTES;
		__builtin_memcpy(e->text, s->window, TEXT_BYTES);
		text_values(s, e->host, e->traceparent);
		if (*(volatile u32 *)&s->text_number == number)
			return;
		/* the client did not wait for the answer: its next request took the window meanwhile */
		e->event.text_length = 0;
		e->text[0] = 0;
		e->host[0] = 0;
		e->traceparent[0] = 0;
	} else if (l->text_kept == number && (t = exchange_texts.sk_storage_get(sk, 0, 0))) {
		if (t->truncated)
			e->event.flags |= EVENT_TEXT_TRUNCATED;
		e->event.text_length = t->length;
		__builtin_memcpy(e->text, t->text, TEXT_BYTES);
		__builtin_memcpy(e->host, t->host, HOST_BYTES);
		__builtin_memcpy(e->traceparent, t->traceparent, TRACEPARENT_BYTES);
		return;
	}
	e->event.flags |= EVENT_TEXT_TRUNCATED;
}

/* An exchange that has ended, as its event shows it. */
struct exchange_end {
	u64 now, duration_ns;
	u32 request_seq, response_seq;
	u32 operation;
	u16 status; /* 0: no answer */
	u8 protocol, method;
	bool error;   /* it counts as failed */
	bool sampled; /* by its traceparent */
};

/* Its event, to be given its text and submitted; null when it is not wanted, or counted as lost. */
static __always_inline struct request_event *exchange_event(void *ctx, struct connection *c,
							    const struct exchange_end *end)
{
	struct settings *set = current_settings();
	struct request_event *e;
	u8 flags = 0;

	if (!set)
		return 0;
	if (end->sampled)
		flags |= EVENT_TRACE_SAMPLED;
	if (set->slow_ns && end->duration_ns >= set->slow_ns)
		flags |= EVENT_SLOW;
	if (end->status == 0)
		flags |= EVENT_UNANSWERED;
	if (flags || end->error) {
		if (!event_allowed(set, TOKENS_PRIORITY, set->priority_rate, end->now))
			return 0;
	} else {
		if (set->sample_period != 1 &&
		    (set->sample_period == 0 || bpf_get_prandom_u32() % set->sample_period)) {
			COUNT(seen_events);
			COUNT(lost_event_sampled_out);
			return 0;
		}
		if (!event_allowed(set, TOKENS_ORDINARY, set->ordinary_rate, end->now))
			return 0;
	}
	e = events.ringbuf_reserve(sizeof(*e));
	if (!e) {
		COUNT(lost_event_ring_full);
		return 0;
	}
	event_fill(&e->event, c, EVENT_REQUEST, end->now, bpf_get_socket_cookie(ctx));
	e->event.flags |= flags;
	e->event.reason = end->protocol;
	e->event.method = end->method;
	e->event.status = end->status;
	e->event.duration_ns = end->duration_ns;
	e->event.request_seq = end->request_seq;
	e->event.operation = end->operation;
	e->event.response_seq = end->response_seq;
	return e;
}

/* Takes what one direction has not booked yet of its bytes, and of its bodies' bytes. */
static __always_inline u64 direction_take(struct connection *c, int dir)
{
	struct direction *d = &c->dir[dir];
	u64 n = d->bytes - d->carried - d->flushed;

	d->flushed += n;
	return n;
}

static __always_inline u64 body_take(struct stream *s)
{
	u64 n = s->body_bytes - s->body_carried - s->body_flushed;

	s->body_flushed += n;
	return n;
}

/* What the requests' runs have left to the responses'. */
static __always_inline u64 carried_take(struct connection *c, struct l7_connection *l, int request_dir)
{
	u64 n = *(volatile u64 *)&c->dir[request_dir].carried - l->carried;

	l->carried += n;
	return n;
}

static __always_inline u64 body_carried_take(struct l7_connection *l, int request_dir)
{
	u64 n = *(volatile u64 *)&l->streams[request_dir].body_carried - l->body_carried;

	l->body_carried += n;
	return n;
}

/*
 * Adds what a direction has not booked yet: its bytes, its bodies', and, in the direction of responses, what the requests' runs
 * have left to it, which are the `other` direction's bytes.
 */
static __always_inline void direction_book(u64 *bytes, u64 *body_bytes, u64 *other_bytes, u64 *other_body_bytes,
					   struct connection *c, struct l7_connection *l, int dir)
{
	u64 n = direction_take(c, dir);

	if (n)
		__sync_fetch_and_add(bytes, n);
	if (!l)
		return;
	n = body_take(&l->streams[dir]);
	if (n)
		__sync_fetch_and_add(body_bytes, n);
	if (is_request(c, dir))
		return;
	n = carried_take(c, l, !dir);
	if (n)
		__sync_fetch_and_add(other_bytes, n);
	n = body_carried_take(l, !dir);
	if (n)
		__sync_fetch_and_add(other_body_bytes, n);
}

/* Puts an answer's bytes, and its request's, where its latency is: one look-up a response, not two. */
static __always_inline void exchange_carry(struct latency_value *value, struct connection *c, struct l7_connection *l)
{
	if (!value || c->flags & CONN_OPEN_PENDING)
		return;
	if (c->key.role == ROLE_CLIENT)
		direction_book(&value->rx_bytes, &value->rx_body_bytes, &value->tx_bytes, &value->tx_body_bytes, c, l,
			       RX);
	else
		direction_book(&value->tx_bytes, &value->tx_body_bytes, &value->rx_bytes, &value->rx_body_bytes, c, l,
			       TX);
}

/* Books exchange `index`: answered with `status`, or 0 when its connection ended first. The value it was added to. */
static __always_inline struct latency_value *exchange_book(void *ctx, struct bpf_sock *sk, struct connection *c,
							   struct l7_connection *l, u32 index, u16 status, bool error,
							   u64 now, u32 response_seq)
{
	struct latency_key key = {.edge = c->key, .protocol = c->l7};
	struct exchange *e = &l->exchanges[SLOT(index)];
	u64 duration = now > e->started_ns ? now - e->started_ns : 0;
	struct exchange_end end = {
	    .now = now,
	    .duration_ns = duration,
	    .request_seq = e->seq,
	    .response_seq = response_seq,
	    .operation = e->operation,
	    .status = status,
	    .protocol = c->l7,
	    .method = l->methods[SLOT(index)],
	    .error = error,
	    .sampled = l->flags[SLOT(index)] & EXCHANGE_SAMPLED,
	};
	struct latency_value *value;
	struct request_event *event;

	key.method = l->methods[SLOT(index)];
	key.status = status;
	key.operation = e->operation;
	value = latency_record(&key, duration, true);
	event = exchange_event(ctx, c, &end);
	if (event) {
		text_of(sk, event, l, &l->streams[is_request(c, TX)], index + 1);
		events.ringbuf_submit(event, NO_WAKEUP);
		COUNT(sent_events);
	}
	return value;
}

/*
 * The answer that `s` began with belongs to the oldest exchange. Its method by *method, and the value it was added to; null when
 * nobody asked, or when there was no room.
 */
static __always_inline struct latency_value *exchange_answer(void *ctx, struct bpf_sock *sk, struct connection *c,
							     struct l7_connection *l, const struct stream *s,
							     u16 status, bool error, u8 *method)
{
	struct latency_value *value = 0;

	if (l->tail != l->head) {
		u8 *flags = &l->flags[SLOT(l->tail)];

		*method = l->methods[SLOT(l->tail)];
		if (!(*flags & EXCHANGE_WHOLE)) {
			*flags |= EXCHANGE_WHOLE;
			COUNT(seen_requests);
		}
		COUNT(seen_responses);
		value = exchange_book(ctx, sk, c, l, l->tail, status, error, s->started_ns, s->started_seq);
		l->tail++;
	} else if (l->untimed_tail != l->untimed_head) {
		struct latency_key key = {.edge = c->key, .protocol = c->l7, .status = status};

		l->untimed_tail++;
		COUNT(seen_responses);
		COUNT(exchange_untimed);
		value = latency_record(&key, 0, false);
	} else {
		COUNT(exchange_unmatched);
	}
	return value;
}

/* The response side does not know any more which answer comes next: what waits is given up, counted. */
static __always_inline void exchange_lose(struct l7_connection *l)
{
	u32 waiting = l->head - l->tail;

	if (waiting && waiting <= EXCHANGES)
		count_many(COUNTER_lost_exchanges, waiting);
	l->tail = l->head;
	l->untimed_tail = l->untimed_head;
}

static __always_inline bool exchange_waiting(const struct l7_connection *l)
{
	return l->tail != l->head || l->untimed_tail != l->untimed_head;
}

/* ... `count` of them at once, which had no place in the queue. */
static __always_inline void untimed_unanswered(struct connection *c, u32 count)
{
	struct latency_key key = {.edge = c->key, .protocol = c->l7};
	struct latency_value *value;

	if (!count)
		return;
	value = latency_get(&key);
	count_many(COUNTER_seen_unanswered, count);
	count_many(COUNTER_exchange_untimed, count);
	if (value)
		__sync_fetch_and_add(&value->untimed, count);
}

/*
 * The connection is over: what was asked and not answered has failed. Books one of them; true when there are more, for the
 * next program in the chain.
 */
static __always_inline bool exchange_close(void *ctx, struct bpf_sock *sk, struct connection *c,
					   struct l7_connection *l, u64 now)
{
	u32 index = l->tail;

	if (!l->confirmed)
		return false;
	if (index != l->head) {
		l->tail = index + 1;
		if (l->flags[SLOT(index)] & EXCHANGE_WHOLE) {
			COUNT(seen_unanswered);
			exchange_book(ctx, sk, c, l, index, 0, true, now, 0);
		} else {
			COUNT(exchange_incomplete);
		}
		return exchange_waiting(l);
	}
	untimed_unanswered(c, l->untimed_head - l->untimed_tail);
	l->untimed_tail = l->untimed_head;
	return false;
}

#endif
