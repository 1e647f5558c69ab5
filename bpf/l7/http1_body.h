/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/* Bodies of HTTP/1.0 and 1.1: how long they are, and passing over them (RFC 9112, 6 and 7). */
#ifndef SIDELIGHT_HTTP1_BODY_H
#define SIDELIGHT_HTTP1_BODY_H

#include "l7/http2.h"

#define HTTP1_SKIP_CHUNKS 8

/* Passes over body bytes. Body bytes proper are booked, chunk framing is not. */
static __always_inline void http1_skip_body(struct stream *s)
{
	u32 n = s->left;

	if (s->state == STREAM_PASS) {
		s->body_bytes += n;
	} else {
		u64 body = s->remaining;

		if (n > s->remaining)
			n = s->remaining;
		if (s->state == HTTP1_CHUNK_DATA) {
			/* the last two bytes are CRLF */
			u64 before = body > 2 ? body - 2 : 0, after = body - n > 2 ? body - n - 2 : 0;

			s->body_bytes += before - after;
		} else {
			s->body_bytes += n;
		}
		s->remaining -= n;
		if (s->remaining == 0)
			s->state = s->state == STREAM_BODY ? STREAM_START : HTTP1_CHUNK_SIZE;
	}
	source_skip(s, n);
}

static __always_inline bool http1_in_body(const struct stream *s)
{
	return s->state == STREAM_BODY || s->state == HTTP1_CHUNK_DATA || s->state == STREAM_PASS;
}

static __always_inline void http1_bad_framing(struct stream *s)
{
	COUNT(http_bad_framing);
	s->state = STREAM_RESYNC;
	s->left = 0;
}

/* RFC 9112, 6.3: what follows the request's head that has just ended. */
static __always_inline void http1_request_head(struct l7_connection *l, struct stream *s)
{
	exchange_whole(l, s->flags & HTTP1_PLACED);
	if (s->flags & HTTP1_CHUNKED) {
		s->state = HTTP1_CHUNK_SIZE;
	} else if (s->flags & (HTTP1_CODED | HTTP1_BAD)) {
		http1_bad_framing(s);
	} else if (s->method == METHOD_CONNECT && (s->flags & HTTP1_PLACED)) {
		l->tunnel_refused = 0;
		s->state = HTTP1_TUNNEL;
	} else if (s->flags & HTTP1_LENGTH && s->length) {
		s->remaining = s->length;
		s->state = STREAM_BODY;
	} else {
		s->state = STREAM_START;
	}
}

/* RFC 9112, 6.3: where the body of the response ends, and what of it is at hand. */
static __always_inline void http1_response_body(struct l7_connection *l, struct stream *s, u8 method, u16 status)
{
	if (status == 101 || (method == METHOD_CONNECT && status >= 200 && status < 300)) {
		l->opaque = 1;
		s->state = STREAM_DEAD;
		return;
	}
	if (method == METHOD_CONNECT)
		l->tunnel_refused = 1;
	if (method == METHOD_HEAD || status == 204 || status == 304) {
		s->state = STREAM_START;
	} else if (s->flags & HTTP1_CHUNKED) {
		s->state = HTTP1_CHUNK_SIZE;
	} else if (s->flags & HTTP1_BAD) {
		http1_bad_framing(s);
	} else if ((s->flags & HTTP1_LENGTH) && !(s->flags & HTTP1_CODED)) {
		s->remaining = s->length;
		s->state = s->length ? STREAM_BODY : STREAM_START;
	} else {
		s->state = STREAM_PASS; /* until the connection's end */
	}
	if (http1_in_body(s))
		http1_skip_body(s);
}

/*
 * The answer to a request that asks to go on as HTTP/2 says yes (RFC 7540, 3.2): it is the connection's first stream from now on.
 * False where that cannot be followed.
 */
static __always_inline bool http1_upgrade(void *ctx, struct bpf_sock *sk, struct connection *c, struct l7_connection *l,
					  struct stream *s)
{
	struct http2_stream_key key = {.cookie = bpf_get_socket_cookie(ctx), .id = 1};
	struct stream *asking = &l->streams[is_request(c, TX)];
	struct exchange *e = &l->exchanges[SLOT(l->tail)];
	struct http2_connection *h;

	if (l->tail == l->head || !(l->flags[SLOT(l->tail)] & EXCHANGE_H2C) || asking->state != STREAM_START)
		return false;
	h = http2_connections.sk_storage_get(sk, 0, BPF_SK_STORAGE_GET_F_CREATE);
	if (!h) {
		COUNT(lost_l7_storage);
		return false;
	}
	h->fresh.edge = c->key;
	h->fresh.started_ns = e->started_ns;
	h->fresh.seq = e->seq;
	h->fresh.operation = e->operation;
	h->fresh.method = l->methods[SLOT(l->tail)];
	h->fresh.flags = STREAM_NAMED | STREAM_HOST_STALE;
	if (l->flags[SLOT(l->tail)] & EXCHANGE_SAMPLED)
		h->fresh.flags |= STREAM_SAMPLED;
	h->lowest = 1;
	h->highest = 1;
	if (http2_streams.update(&key, &h->fresh))
		h->untimed_begun = 1;
	else
		h->begun = 1;
	l->tail++;
	c->l7 = PROTOCOL_HTTP2;
	http2_begin_stream(s, false);
	http2_begin_stream(asking, true);
	return true;
}

static __always_inline void http1_response_head(void *ctx, struct bpf_sock *sk, struct connection *c,
						struct l7_connection *l, struct stream *s)
{
	struct latency_value *value;
	u8 method = METHOD_OTHER;
	u16 status = s->status;

	if (status < 200 && status != 101) { /* interim: the final response is still to come */
		s->state = STREAM_START;
		return;
	}
	if (!l->confirmed)
		l->confirmed = 1;
	if (status == 101 && http1_upgrade(ctx, sk, c, l, s))
		return;
	value = exchange_answer(ctx, sk, c, l, s, status, status >= 500, &method);
	http1_response_body(l, s, method, status);
	exchange_carry(value, c, l);
}

/* A size goes on to be read: its bytes, and the CRLF behind them. */
static __always_inline void http1_chunk(struct stream *s, u64 size)
{
	s->remaining = size + 2;
	s->state = HTTP1_CHUNK_DATA;
}

/* A chunk-size line (RFC 9112, 7.1) of window[0..end); false when it is none. */
static __always_inline bool http1_chunk_size(struct stream *s, u32 end)
{
	volatile u64 *size = &s->remaining;

	if (end == 0 || hex_digit(s->window[0]) > 15)
		return false;
	*size = 0;
#pragma clang loop unroll(disable)
	for (u32 i = 0; i < 16; i++) {
		u64 digit = hex_digit(s->window[at(i)]);

		if (i >= end || digit > 15)
			break;
		if (i == 15)
			return false; /* no body is this large */
		*size = *size << 4 | digit;
	}
	if (*size == 0)
		s->state = HTTP1_TRAILERS;
	else
		http1_chunk(s, *size);
	return true;
}

/*
 * Passes over whole chunks whose size lines are at hand, several in one step: small chunks would take a tail call each.
 * What it cannot deal with (a split line, an extension, trailers) is left to the general way.
 */
static __always_inline void http1_skip_chunks(struct __sk_buff *skb, struct stream *s)
{
#pragma clang loop unroll(disable)
	for (int k = 0; k < HTTP1_SKIP_CHUNKS; k++) {
		volatile u64 *size = &s->remaining;
		volatile u16 *digits = &s->line_end;
		u64 word;

		if (s->state != HTTP1_CHUNK_SIZE || s->have || !source_word(skb, s, &word))
			break;
		if ((word & LOW(5)) == WORD('0', '\r', '\n', '\r', '\n', 0, 0, 0)) {
			source_skip(s, 5);
			s->state = STREAM_START;
			break;
		}
		*size = 0;
		*digits = 0;
#pragma clang loop unroll(disable)
		for (int i = 0; i < 6; i++) {
			u64 digit = hex_digit(word);

			if (digit > 15)
				break;
			*size = *size << 4 | digit;
			*digits += 1;
			word >>= 8;
		}
		/* at most five digits, so that the CRLF was in the word too */
		if (!*size || *digits > 5 || (word & 0xffff) != ('\r' | '\n' << 8))
			break;
		source_skip(s, *digits + 2);
		http1_chunk(s, *size);
		http1_skip_body(s);
	}
}

#endif
