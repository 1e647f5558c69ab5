/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/*
 * Exchanges of HTTP/2: one a stream. Begins with the client's header block; ends with the server's END_STREAM, a reset by either
 * side, or the connection's end, whichever comes first: who deletes the stream from the map books it.
 */
#ifndef SIDELIGHT_HTTP2_STREAM_H
#define SIDELIGHT_HTTP2_STREAM_H

#include "l7/exchange.h"
#include "l7/grpc.h"
#include "l7/route.h"
#include "turns.h"

enum http2_stream_flags {
	STREAM_GRPC = 1,
	STREAM_SAMPLED = 2,
	STREAM_PATH = 4,	/* its path's text was in the block */
	STREAM_NAMED = 8,	/* `operation` is decided */
	STREAM_NO_TYPE = 16,	/* its content-type was not to be had: what it carries may tell */
	STREAM_HOST_STALE = 32, /* `host` is another one's */
	STREAM_WAS_RPC = 64,	/* the operation that its path's entry had is a gRPC method */
};

/* What a request's block has said: struct http2_connection.said. */
enum http2_said { SAID_PATH = 1, SAID_METHOD = 2 };

enum http2_state {
	HTTP2_PREFACE = STREAM_OWN, /* `remaining` bytes of it */
	HTTP2_PREFIX,
	HTTP2_BLOCK,
	HTTP2_MESSAGES,	  /* `remaining` bytes of DATA whose messages are counted */
	HTTP2_SETTINGS,	  /* `remaining` bytes of settings, six each */
	HTTP2_RESET,	  /* four bytes of why */
	HTTP2_PASS,	  /* `remaining` bytes that are nobody's body */
	HTTP2_BEGINS,	  /* no bytes: an exchange begins */
	HTTP2_NAMES,	  /* ... turned out to be gRPC */
	HTTP2_ENDS,	  /* ... ends */
	HTTP2_RESET_ENDS, /* ... by a reset */
};

/* What a run works with; in its callbacks too, by the verifier's leave: it keeps what it knows of pointers on the stack. */
struct turn {
	void *ctx;
	struct __sk_buff *skb;
	struct bpf_sock *sk;
	struct connection *c;
	struct l7_connection *l;
	struct stream *s;
	struct http2_connection *h;
	struct http2_direction *d;
	u64 now;
	u64 cookie;
	u64 dir;
};

static __always_inline struct http2_stream *http2_stream(const struct turn *t, u32 id)
{
	struct http2_stream_key key = {.cookie = t->cookie, .id = id};

	return http2_streams.lookup(&key);
}

/* A path, and where it is folded: in memory, so that a turn of the loop leaves nothing behind that the verifier would follow. */
struct path_state {
	u8 *text;
	struct route *r;
};

/* One character of a path, as a callback. */
int path_turn(struct path_state *p)
{
	struct route *r = p->r;

	if (!p->text || !r)
		return 1;
	r->ended = path_character(r, &r->segment, &r->out, &r->found, p->text[at(r->next) & 255]);
	r->next++;
	return *(volatile u64 *)&r->ended != 0;
}

/* The route of a path of `length` bytes in `text`, of which HPACK_TEXT can be read; 0 for none, counted. */
static __always_inline u32 http2_route(void *ctx, struct bpf_sock *sk, struct connection *c, u8 *text, u64 length)
{
	struct settings *set = current_settings();
	struct path_state state = {.text = text};
	struct path_segment begin = {.hash = HASH_SEED};
	struct route *r;
	u32 id;

	if (!set || !set->routes)
		return 0;
	COUNT(seen_operations);
	r = routes.sk_storage_get(sk, 0, BPF_SK_STORAGE_GET_F_CREATE);
	if (!r) {
		COUNT(lost_operation_storage);
		return 0;
	}
	if (text[0] != '/') {
		COUNT(operation_none);
		return 0;
	}
	if (length >= ROUTE_BYTES) {
		COUNT(operation_too_long);
		return 0;
	}
	BOUND_MASK(length, 255);
	text[length] = ' '; /* ends the path, as in a request line */
	r->segment = begin;
	r->next = 0;
	r->out = 0;
	r->found = 0;
	state.r = r;
	TURNS(ROUTE_BYTES, path_turn, &state);
	r->length = r->out;
	r->segments = r->found;
	id = set->routes & ROUTES_TEMPLATES ? route_template(r) : 0;
	if (id)
		COUNT(operation_named);
	else if (set->routes & ROUTES_FOLD)
		id = operation_of(ctx, c, PROTOCOL_HTTP2, r->text, *(volatile u32 *)&r->length);
	else
		COUNT(operation_none);
	return id;
}

/*
 * Decides what a stream counts under, once it is known whether it is gRPC: by its path, which is in this direction's text, or by
 * what that was before.
 */
static __always_inline void http2_name(struct turn *t, struct http2_stream *st)
{
	u8 *text = t->d->text;

	if (st->flags & (STREAM_NAMED | STREAM_NO_TYPE))
		return;
	st->flags |= STREAM_NAMED;
	if (!(st->flags & STREAM_PATH)) {
		if (!(st->flags & STREAM_WAS_RPC) != !(st->flags & STREAM_GRPC)) {
			/* the same path, otherwise asked for: its text is gone */
			if (st->flags & STREAM_GRPC && !st->unnamed)
				st->unnamed = UNNAMED_LONG;
			st->operation = 0;
		} else if (st->operation) {
			COUNT(seen_operations);
			st->operation = operation_again(t->ctx, t->c, PROTOCOL_HTTP2, st->operation);
		}
	} else if (st->flags & STREAM_GRPC) {
		u64 length = st->text_length;

		COUNT(seen_operations);
		if (length > OPERATION_BYTES || length < 2) {
			COUNT(operation_too_long);
			st->unnamed |= UNNAMED_LONG;
			return;
		}
		/* "/package.Service/Method", without its slash */
#pragma unroll
		for (int i = 0; i < OPERATION_BYTES; i += 8)
			*(u64 *)(text + i) = load8(text + 1 + i);
		st->operation = operation_of(t->ctx, t->c, PROTOCOL_GRPC, text, length - 1);
	} else {
		st->operation = http2_route(t->ctx, t->sk, t->c, text, st->text_length);
	}
}

static __always_inline void http2_count_named(u8 protocol, u8 unnamed)
{
	u32 counter = COUNTER_http2_named;

	if (unnamed & UNNAMED_SYNC)
		counter = COUNTER_http2_unnamed_sync;
	else if (unnamed & UNNAMED_BEFORE)
		counter = COUNTER_http2_unnamed_before;
	else if (unnamed & UNNAMED_LONG)
		counter = COUNTER_http2_unnamed_long;
	if (protocol == PROTOCOL_GRPC)
		counter += COUNTER_grpc_named - COUNTER_http2_named;
	count(counter);
}

/* What is booked of a stream, read before it is deleted: another stream may take its memory. */
struct stream_end {
	struct exchange_end end;
	u64 first_ns, received, sent;
	u16 length;
	u8 flags, unnamed;
};

/* Another request is about to say its own words: those of the last one are kept where it is still in flight. */
static __always_inline void http2_keep_words(struct turn *t)
{
	struct http2_stream_key key = {.cookie = t->cookie, .id = t->h->words_of};
	struct settings *set = current_settings();

	*(volatile u32 *)&t->h->words_of = 0;
	if (key.id && t->h->begun != *(volatile u32 *)&t->h->ended && set && set->head_text)
		http2_texts.update(&key, &t->h->words);
}

/* A stream's words, where they still are. */
static __always_inline struct http2_text *http2_words(struct http2_connection *h, struct http2_stream_key *id)
{
	if (*(volatile u32 *)&h->words_of == id->id)
		return &h->words;
	return http2_texts.lookup(id);
}

/* The text of its event, unless another stream has its place by now. */
static __always_inline void http2_text(struct request_event *e, struct http2_connection *h, struct http2_stream_key *id,
				       u8 flags, u16 length)
{
	struct http2_text *words = http2_words(h, id);
	struct settings *set = current_settings();

	e->text[0] = 0;
	e->host[0] = 0;
	e->traceparent[0] = 0;
	if (!words || !set || !set->head_text)
		return;
	e->event.text_length = flags & STREAM_PATH ? length : 0;
	if (e->event.text_length > TEXT_BYTES) {
		e->event.text_length = TEXT_BYTES;
		e->event.flags |= EVENT_TEXT_TRUNCATED;
	}
	__builtin_memcpy(e->text, words->text, TEXT_BYTES);
	__builtin_memcpy(e->host, words->host, HOST_BYTES);
	__builtin_memcpy(e->traceparent, words->traceparent, TRACEPARENT_BYTES);
	if (flags & STREAM_HOST_STALE)
		e->host[0] = 0;
	if (words == &h->words && *(volatile u32 *)&h->words_of != id->id) {
		e->event.text_length = 0;
		e->text[0] = 0;
		e->host[0] = 0;
		e->traceparent[0] = 0;
	}
}

/*
 * The stream has ended with `status` (by protocol; 0: none came): books it, unless the other side has done so. `carry`: the run
 * is one of the responses', which may book the connection's bytes with it.
 */
static __always_inline void http2_book(void *ctx, struct connection *c, struct l7_connection *l,
				       struct http2_connection *h, struct http2_stream *st, struct http2_stream_key *id,
				       u16 status, u64 now, u32 response_seq, bool carry)
{
	struct latency_key key = {.edge = c->key};
	struct stream_end known = {
	    .end = {.now = now, .request_seq = st->seq, .response_seq = response_seq, .operation = st->operation},
	    .length = st->text_length,
	    .flags = st->flags,
	    .unnamed = st->unnamed,
	};
	struct latency_value *value;
	struct request_event *e;

	known.end.status = status;
	known.end.protocol = st->flags & STREAM_GRPC ? PROTOCOL_GRPC : PROTOCOL_HTTP2;
	known.end.method = known.end.protocol == PROTOCOL_GRPC ? METHOD_OTHER : st->method;
	known.end.sampled = st->flags & STREAM_SAMPLED;
	known.end.error = known.end.protocol == PROTOCOL_GRPC ? grpc_failed(status) : status >= 500;
	if (st->first_ns)
		known.first_ns = st->first_ns > st->started_ns ? st->first_ns - st->started_ns : 1;
	known.end.duration_ns = now > st->started_ns ? now - st->started_ns : 0;
	if (known.end.protocol == PROTOCOL_HTTP2 && known.first_ns)
		known.end.duration_ns = known.first_ns; /* to the answer's first byte, as HTTP/1 */
	known.received = st->messages[RX].count;
	known.sent = st->messages[TX].count;
	if (http2_streams.delete(id))
		return;
	__sync_fetch_and_add(&h->ended, 1);
	if (status)
		COUNT(seen_responses);
	else
		COUNT(seen_unanswered);
	http2_count_named(known.end.protocol, known.unnamed);
	if (status == STATUS_UNREAD)
		count(known.end.protocol == PROTOCOL_GRPC ? COUNTER_grpc_status_unread : COUNTER_http2_status_unread);
	key.protocol = known.end.protocol;
	key.method = known.end.method;
	key.status = status;
	key.operation = known.end.operation;
	value = latency_record(&key, known.end.duration_ns, true);
	if (value && known.end.protocol == PROTOCOL_GRPC) {
		if (known.first_ns) {
			__sync_fetch_and_add(&value->first_ns, known.first_ns);
			__sync_fetch_and_add(&value->first_count, 1);
		}
		if (known.received)
			__sync_fetch_and_add(&value->rx_messages, known.received);
		if (known.sent)
			__sync_fetch_and_add(&value->tx_messages, known.sent);
	}
	if (carry)
		exchange_carry(value, c, l);
	e = exchange_event(ctx, c, &known.end);
	if (!e)
		return;
	http2_text(e, h, id, known.flags, known.length);
	events.ringbuf_submit(e, NO_WAKEUP);
	COUNT(sent_events);
}

/* The status a stream ended with, without being reset. */
static __always_inline u16 http2_status(const struct http2_stream *st)
{
	if (!(st->flags & STREAM_GRPC))
		return st->status;
	if (st->grpc_status)
		return st->grpc_status;
	if (st->status == STATUS_UNREAD)
		return STATUS_UNREAD;
	return st->status == 200 ? GRPC_UNKNOWN : grpc_of_http(st->status);
}

/* The client's header block is whole: what is to be said of the exchange before it is named. */
static __always_inline void http2_prepare(struct turn *t)
{
	struct http2_stream *fresh = &t->h->fresh;
	struct http2_direction *d = t->d;

	COUNT(seen_requests);
	t->h->highest = d->block_id;
	if (!t->h->lowest)
		t->h->lowest = d->block_id;
	fresh->edge = t->c->key;
	fresh->seq = t->s->started_seq;
	fresh->started_ns = t->s->started_ns;
	if (!(fresh->flags & STREAM_GRPC) && d->unknown)
		fresh->flags |= STREAM_NO_TYPE; /* its content-type may be one of the fields we cannot read */
	if (fresh->flags & (STREAM_GRPC | STREAM_NO_TYPE))
		t->h->rpc = 1;
	if (t->h->said != (SAID_METHOD | SAID_PATH))
		fresh->unnamed |= d->unknown ? d->unknown : UNNAMED_SYNC;
}

/* What a path's entry will mean when only its index comes. */
static __always_inline void http2_note_path(struct hpack_entry *e, const struct http2_stream *st)
{
	if (!(st->flags & STREAM_PATH))
		return;
	e->value = st->operation;
	e->start |= st->flags & STREAM_GRPC ? HEADER_RPC << 24 : 0;
}

/* It is named; so is the entry that its path became. */
static __always_inline void http2_named_path(struct http2_direction *d, const struct http2_stream *st)
{
	if (d->path_entry && st->flags & STREAM_NAMED && d->inserted - (d->path_entry - 1) <= HPACK_ENTRIES)
		http2_note_path(&d->entries[(d->path_entry - 1) & (HPACK_ENTRIES - 1)], st);
}

/* It takes its place in the map. */
static __always_inline void http2_begin_exchange(struct turn *t)
{
	struct http2_stream_key key = {.cookie = t->cookie, .id = t->d->block_id};
	struct http2_stream *fresh = &t->h->fresh;

	if (t->h->memo && (fresh->flags & (STREAM_PATH | STREAM_GRPC)) == (STREAM_PATH | STREAM_GRPC))
		t->h->memos[(t->h->memo - 1) & (MEMOS - 1)].operation = fresh->operation;
	if (http2_streams.update(&key, fresh))
		t->h->untimed_begun++;
	else
		t->h->begun++;
	*(volatile u32 *)&t->h->words_of = key.id;
}

/* An answer to a stream that has no place in the map. */
static __always_inline void http2_answer_unplaced(struct turn *t, u32 id, u16 status)
{
	struct latency_key key = {.edge = t->c->key, .protocol = PROTOCOL_HTTP2, .status = status};

	if (t->h->untimed_ended == t->h->untimed_begun) {
		/* ended before, by a reset; or begun before the programs */
		if (id & 1 && (id > t->h->highest || !t->h->lowest || id < t->h->lowest))
			COUNT(exchange_unmatched);
		return;
	}
	t->h->untimed_ended++;
	if (!status)
		key.status = STATUS_UNREAD;
	COUNT(seen_responses);
	COUNT(exchange_untimed);
	COUNT(http2_unnamed_long);
	latency_record(&key, 0, false);
}

/* A stream has ended, by the server, or by either side's reset; its name is decided. */
static __always_inline void http2_end_exchange(struct turn *t, struct http2_stream *st, u32 id)
{
	struct http2_stream_key key = {.cookie = t->cookie, .id = id};
	struct http2_direction *d = t->d;
	u16 status;

	if (t->s->state != HTTP2_RESET_ENDS)
		status = http2_status(st);
	else if (st->flags & STREAM_GRPC)
		status = grpc_of_reset(d->reset, t->now - st->started_ns, st->timeout_ns);
	else
		status = st->status;
	http2_book(t->ctx, t->c, t->l, t->h, st, &key, status, t->now, t->s->next - t->s->left, !t->s->request);
}

/* Is the path's text wanted for its name? */
static __always_inline bool http2_wants_name(const struct http2_stream *st)
{
	struct settings *set = current_settings();

	return st->flags & STREAM_PATH && !(st->flags & (STREAM_NAMED | STREAM_NO_TYPE)) &&
	       (st->flags & STREAM_GRPC || (set && set->routes));
}

/*
 * An exchange begins or ends: named here, in one place, for the verifier walks each anew. The text of its path is put into this
 * direction's own, which is free between fields.
 */
static __always_inline void http2_exchange(struct turn *t)
{
	bool begins = t->s->state == HTTP2_BEGINS;
	struct http2_stream *st = &t->h->fresh;
	struct http2_direction *d = t->d;

	if (begins) {
		http2_prepare(t);
	} else {
		st = http2_stream(t, d->id);
		if (!st) {
			if (t->s->state == HTTP2_ENDS)
				http2_answer_unplaced(t, d->id, d->status);
			return;
		}
		st->flags &= ~STREAM_NO_TYPE;
	}
	if (http2_wants_name(st)) {
		struct http2_stream_key key = {.cookie = t->cookie, .id = d->id};
		struct http2_text *words = begins ? &t->h->words : http2_words(t->h, &key);

		if (!words)
			st->flags &= ~STREAM_PATH; /* gone by now */
#pragma unroll
		for (int i = 0; words && i < TEXT_BYTES; i += 8)
			*(u64 *)(d->text + i) = load8(words->text + i);
	}
	http2_name(t, st);
	if (t->s->state <= HTTP2_NAMES)
		http2_named_path(d, st);
	if (begins)
		http2_begin_exchange(t);
	else if (t->s->state != HTTP2_NAMES)
		http2_end_exchange(t, st, d->id);
}

/* The server's header block is whole. True when it is the stream's end. */
static __always_inline bool http2_answer(struct turn *t)
{
	struct http2_direction *d = t->d;
	struct http2_stream *st = http2_stream(t, d->block_id);
	bool last = d->block_flags & 1;

	if (st) {
		if (d->grpc) {
			st->flags |= STREAM_GRPC;
			t->h->rpc = 1;
		}
		if (d->status >= 100 && d->status < 200 && !last)
			return false; /* interim */
		if (!(st->flags & STREAM_GRPC) && !st->first_ns)
			st->first_ns = t->now;
		if (d->status)
			st->status = d->status;
		else if (!st->status && d->unknown)
			st->status = STATUS_UNREAD;
		if (d->grpc_status)
			st->grpc_status = d->grpc_status;
		else if (last && d->unknown && st->flags & STREAM_GRPC)
			st->status = STATUS_UNREAD;
	}
	return last;
}

/* At the connection's end: streams in flight, from both ends of their ids, where they mostly are. */
struct closing {
	void *ctx;
	struct connection *c;
	struct l7_connection *l;
	struct http2_connection *h;
	u64 now, cookie, left, high_next;
};

int http2_close_turn(struct closing *t)
{
	struct http2_stream_key key = {};
	struct http2_connection *h;
	struct http2_stream *st;

	if (!t->c || !t->l || !t->h)
		return 1;
	h = t->h;
	if (!t->left || h->close_low > h->close_high || !h->close_low)
		return 1;
	key.cookie = t->cookie;
	if (t->high_next) {
		key.id = h->close_high;
		h->close_high -= 2;
	} else {
		key.id = h->close_low;
		h->close_low += 2;
	}
	t->high_next = !t->high_next;
	st = http2_streams.lookup(&key);
	if (!st)
		return 0;
	t->left--;
	if (key.id <= h->doubtful) {
		/* its answer may have been among the bytes that were lost */
		if (!http2_streams.delete(&key)) {
			__sync_fetch_and_add(&h->ended, 1);
			COUNT(lost_exchanges);
		}
		return 0;
	}
	http2_book(t->ctx, t->c, t->l, h, st, &key,
		   st->flags & STREAM_GRPC	 ? st->grpc_status
		   : st->status == STATUS_UNREAD ? 0
						 : st->status,
		   t->now, 0, false);
	return 0;
}

#endif
