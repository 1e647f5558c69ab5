/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/*
 * HTTP/1.0 and 1.1 (RFC 9112) from packets.
 *
 * Each direction is a pull parser. Its input is a contiguous window: the unfinished line kept from before, then new
 * bytes. A step deals with at most one window and ends at the latest behind a head, a chunk size or a body; the
 * programs tail-call themselves for the next step, so the verifier sees one. Bodies of known length are skipped, not
 * looked at; that also carries the parser over gaps within them.
 *
 *   START -> START_LINE -> HEADERS -> BODY | CHUNK_SIZE <-> CHUNK_DATA, TRAILERS | UNTIL_CLOSE | TUNNEL -> START
 *
 * What cannot be decided goes to RESYNC (counted), where only a segment that begins with a head is believed.
 */
#ifndef SIDELIGHT_HTTP_H
#define SIDELIGHT_HTTP_H

#include "events.h"

#define HTTP_SCAN_STEPS 48 /* pairs of words and lines looked at in a step: 32 pass over a window without a newline */
#define HTTP_SKIP_WINDOWS 8
#define HTTP_SKIP_CHUNKS 8
#define KEPT_TAIL 16 /* of a line longer than the window: enough for " HTTP/1.1\r" */
#define CASE_BITS 0x2020202020202020ULL
#define EVERY_BYTE 0x0101010101010101ULL

/* Little-endian words of eight characters, lower case. */
#define WORD(a, b, c, d, e, f, g, h)                                                                                   \
	((u64)(a) | (u64)(b) << 8 | (u64)(c) << 16 | (u64)(d) << 24 | (u64)(e) << 32 | (u64)(f) << 40 |                \
	 (u64)(g) << 48 | (u64)(h) << 56)
#define WORD_CONTENT WORD('c', 'o', 'n', 't', 'e', 'n', 't', '-')
#define WORD_LENGTH WORD('l', 'e', 'n', 'g', 't', 'h', ':', 0)
#define WORD_TRANSFER WORD('t', 'r', 'a', 'n', 's', 'f', 'e', 'r')
#define WORD_ENCODING WORD('-', 'e', 'n', 'c', 'o', 'd', 'i', 'n')
#define WORD_TRACEPAR WORD('t', 'r', 'a', 'c', 'e', 'p', 'a', 'r')
#define WORD_ENT WORD('e', 'n', 't', ':', 0, 0, 0, 0)
#define WORD_HOST WORD('h', 'o', 's', 't', ':', 0, 0, 0)
#define WORD_CHUNKED WORD('c', 'h', 'u', 'n', 'k', 'e', 'd', 0)
#define WORD_HTTP_1 WORD('H', 'T', 'T', 'P', '/', '1', '.', 0)
#define WORD_PRI WORD('P', 'R', 'I', ' ', '*', ' ', 'H', 'T')
#define LOW(n) ((1ULL << ((n)*8)) - 1) /* the first n characters */

/* Read afresh each time: values kept in registers would multiply the verifier's states by the turns of a loop. */
#define HAVE(s) (*(volatile u16 *)&(s)->have)
#define REQUEST(s) (*(volatile u8 *)&(s)->request)

enum http_stop {
	STOP_NONE = 0,
	STOP_EMPTY_LINE = 1, /* before a start line */
	STOP_BAD_START = 2,
	STOP_HEAD = 3, /* the head or the trailers are complete */
	STOP_CHUNK = 4,
};

static __always_inline u64 load8(const u8 *p)
{
	return *(const u64 *)p;
}

/* An index into the window, in a way that no compiler optimizes away before the verifier has seen it. */
static __always_inline u64 at(u64 index)
{
#ifndef SIDELIGHT_HOST
	asm volatile("%0 &= 511" : "+r"(index));
	return index;
#else
	return index & 511;
#endif
}

/* High bit set in each byte of `w` equal to `c`; bytes above the first match may be wrong. */
static __always_inline u64 match_byte(u64 w, u8 c)
{
	w ^= EVERY_BYTE * c;
	return (w - EVERY_BYTE) & ~w & (EVERY_BYTE << 7);
}

/* Index of the lowest byte set in a result of match_byte(), which is not zero. */
static __always_inline u32 lowest_byte(u64 t)
{
	return (((((t & -t) >> 7) - 1) & EVERY_BYTE) * EVERY_BYTE) >> 56;
}

static __always_inline u8 http_method(u64 w)
{
	if ((w & LOW(4)) == WORD('G', 'E', 'T', ' ', 0, 0, 0, 0))
		return METHOD_GET;
	if ((w & LOW(5)) == WORD('P', 'O', 'S', 'T', ' ', 0, 0, 0))
		return METHOD_POST;
	if ((w & LOW(5)) == WORD('H', 'E', 'A', 'D', ' ', 0, 0, 0))
		return METHOD_HEAD;
	if ((w & LOW(4)) == WORD('P', 'U', 'T', ' ', 0, 0, 0, 0))
		return METHOD_PUT;
	if ((w & LOW(7)) == WORD('D', 'E', 'L', 'E', 'T', 'E', ' ', 0))
		return METHOD_DELETE;
	if (w == WORD('C', 'O', 'N', 'N', 'E', 'C', 'T', ' '))
		return METHOD_CONNECT;
	if (w == WORD('O', 'P', 'T', 'I', 'O', 'N', 'S', ' '))
		return METHOD_OPTIONS;
	if ((w & LOW(6)) == WORD('T', 'R', 'A', 'C', 'E', ' ', 0, 0))
		return METHOD_TRACE;
	if ((w & LOW(6)) == WORD('P', 'A', 'T', 'C', 'H', ' ', 0, 0))
		return METHOD_PATCH;
	return METHOD_OTHER;
}

/* Could a connection that begins with this byte be HTTP? Methods are letters; servers skip a leading CRLF. */
static __always_inline bool http_first_byte(u8 c)
{
	return (c >= 'A' && c <= 'Z') || (c >= 'a' && c <= 'z') || c == '\r' || c == '\n';
}

static __always_inline bool http_is_request(const struct connection *c, int dir)
{
	return (c->key.role == ROLE_CLIENT) == (dir == TX);
}

/* A new request: its place in the pipeline. Beyond its depth requests are only counted, in order. */
static __always_inline void http_push(struct http_connection *h, struct http_stream *s)
{
	struct http_request *r;

	/* The other side's cache line is looked at only when it has to be. */
	if (h->head - h->tail_seen >= HTTP_PIPELINE)
		h->tail_seen = h->tail;
	if (h->untimed_head != h->untimed_seen)
		h->untimed_seen = h->untimed_tail;
	if (h->head - h->tail_seen >= HTTP_PIPELINE || h->untimed_head != h->untimed_seen) {
		h->untimed_head++;
		return;
	}
	r = &h->requests[h->head & (HTTP_PIPELINE - 1)];
	r->started_ns = s->started_ns;
	r->seq = s->started_seq;
	r->method = METHOD_OTHER;
	r->flags = 0;
	s->flags |= HTTP_PUSHED;
	h->head++;
}

/* The host and traceparent that the step at hand found in the window. */
static __always_inline void http_copy_values(const struct http_stream *s, u8 *host, u8 *traceparent)
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

/* The window holds the start of a request's head: `length` bytes of its first line, should an event ask for it. */
static __always_inline void http_note_text(struct http_connection *h, struct http_stream *s, u32 length)
{
	struct settings *set = current_settings();

	if (!set || !set->head_text)
		return;
	s->text_number = h->head;
	s->text_length = length;
}

/* The window is about to be used again within a request's head: keeps its start for a later event. */
static __always_inline void http_keep_text(struct bpf_sock *sk, struct http_connection *h, struct http_stream *s)
{
	u32 number = s->text_number;
	struct http_text *t;

	s->text_number = 0;
	/* It may still serve a request that waits for its answer: the older one keeps it. */
	if (!number || (h->text_kept && (s32)(h->text_kept - 1 - h->tail) >= 0))
		return;
	t = http_texts.sk_storage_get(sk, 0, BPF_SK_STORAGE_GET_F_CREATE);
	if (!t) {
		COUNT(lost_http_text);
		return;
	}
	h->text_kept = number;
	t->truncated = s->text_length > TEXT_BYTES;
	t->length = s->text_length < TEXT_BYTES ? s->text_length : TEXT_BYTES;
	t->host[0] = 0;
	t->traceparent[0] = 0;
#pragma unroll
	for (int i = 0; i < TEXT_BYTES; i += 8)
		*(u64 *)(t->text + i) = *(u64 *)(s->window + i);
	http_copy_values(s, t->host, t->traceparent);
}

static __always_inline bool http_request_settled(const struct http_connection *h, const struct http_stream *s)
{
	return !(s->flags & HTTP_PUSHED) || h->head == 0;
}

/* The request's first line is whole: `end` is the index of its newline. */
static __always_inline bool http_start_line(struct connection *c, struct http_connection *h, struct http_stream *s,
					    bool request, u32 end)
{
	u64 tail;

	if (!request) {
		u8 *d = s->window + 9;

		if ((load8(s->window) & LOW(7)) != WORD_HTTP_1)
			return false;
		if ((u8)(d[0] - '0') > 9 || (u8)(d[1] - '0') > 9 || (u8)(d[2] - '0') > 9)
			return false;
		s->status = (d[0] - '0') * 100 + (d[1] - '0') * 10 + (d[2] - '0');
		return true;
	}
	if (end < 9)
		return false;
	/* "HTTP/1.x" before CRLF or a bare LF */
	tail = load8(s->window + at(end - 9));
	if ((tail & LOW(7)) != WORD_HTTP_1 && (tail >> 8) != WORD_HTTP_1)
		return false;
	if (!h->confirmed)
		h->confirmed = 1;
	s->status = 0;
	if (http_request_settled(h, s))
		return true;
	if (!(s->flags & HTTP_SKIP_LINE)) {
		s->method = http_method(load8(s->window));
		http_note_text(h, s, end + 1);
	}
	h->requests[(h->head - 1) & (HTTP_PIPELINE - 1)].method = s->method;
	return true;
}

/* Content-Length's value, in the window at `from`: digits after blanks. */
static __always_inline void http_content_length(struct http_stream *s, u32 from)
{
	u64 value = 0;
	u8 c = 0;
	u32 i;

	for (i = 0; i < 8; i++) {
		c = s->window[at(from)];
		if (c != ' ' && c != '\t')
			break;
		from++;
	}
	for (i = 0; i < 18; i++) {
		c = s->window[at(from + i)];
		if (c < '0' || c > '9')
			break;
		value = value * 10 + (c - '0');
	}
	/* the line's own newline ends the digits at the latest */
	if (i == 0 || (c != '\r' && c != '\n' && c != ' ' && c != '\t') ||
	    ((s->flags & HTTP_LENGTH) && s->length != value))
		s->flags |= HTTP_BAD;
	s->flags |= HTTP_LENGTH;
	s->length = value;
}

/*
 * One header line, window[line..end), the newline at `end`. Only notes where the values are: the loop over lines has to
 * stay small for the verifier; http_values() reads them.
 */
static __always_inline void http_header(struct http_stream *s, u32 line, u32 end)
{
	u64 w = load8(s->window + at(line)) | CASE_BITS;
	u64 next = load8(s->window + at(line + 8)) | CASE_BITS;

	if (w == WORD_CONTENT && (next & LOW(7)) == (WORD_LENGTH | (CASE_BITS & LOW(7)))) {
		if (s->length_at)
			s->flags |= HTTP_BAD; /* twice in one window: not worth comparing */
		s->length_at = line + 15;
	} else if (w == WORD_TRANSFER && next == (WORD_ENCODING | CASE_BITS)) {
		s->coding_end = end;
	} else if ((w & LOW(5)) == (WORD_HOST | (CASE_BITS & LOW(5)))) {
		s->host_at = line + 5;
	} else if (w == WORD_TRACEPAR && (next & LOW(4)) == (WORD_ENT | (CASE_BITS & LOW(4)))) {
		s->trace_at = line + 12;
	}
}

/* The values that this step's lines had. */
static __always_inline void http_values(struct bpf_sock *sk, struct http_connection *h, struct http_stream *s)
{
	u32 from = s->trace_at;

	if (s->length_at)
		http_content_length(s, s->length_at);
	if (s->coding_end > 8) {
		u64 last = load8(s->window + at(s->coding_end - 8)) | CASE_BITS;

		if ((last & LOW(7)) == WORD_CHUNKED || last >> 8 == WORD_CHUNKED)
			s->flags = (s->flags & ~HTTP_CODED) | HTTP_CHUNKED;
		else
			s->flags |= HTTP_CODED;
	}
	if (!REQUEST(s) || !(s->flags & HTTP_PUSHED) || (h->text_kept != h->head && s->text_number != h->head))
		return;
	if (from) {
		/* "00-", 32 and 16 hexadecimal digits, trace-flags of two: the lowest bit means sampled, an odd last digit */
		u8 last = s->window[at(from + 54 + (s->window[at(from)] == ' '))];

		if ((last & 1) ^ (last >> 6 & 1))
			h->requests[(h->head - 1) & (HTTP_PIPELINE - 1)].flags |= REQUEST_TRACE_SAMPLED;
	}
	if (s->text_number != h->head && (s->host_at || from)) {
		struct http_text *t = http_texts.sk_storage_get(sk, 0, 0);

		if (t)
			http_copy_values(s, t->host, t->traceparent);
	}
}

/* What is known of the request's head: still in its stream's window, or kept. */
static __always_inline void http_event_text(struct bpf_sock *sk, struct request_event *e, struct http_connection *h,
					    struct http_stream *s, u32 number)
{
	struct http_text *t;

	e->text[0] = 0;
	e->host[0] = 0;
	e->traceparent[0] = 0;
	if (*(volatile u32 *)&s->text_number == number) {
		if (s->text_length > TEXT_BYTES)
			e->event.flags |= EVENT_TEXT_TRUNCATED;
		e->event.text_length = s->text_length < TEXT_BYTES ? s->text_length : TEXT_BYTES;
		__builtin_memcpy(e->text, s->window, TEXT_BYTES);
		http_copy_values(s, e->host, e->traceparent);
		if (*(volatile u32 *)&s->text_number == number)
			return;
		/* the client did not wait for the answer: its next request took the window meanwhile */
		e->event.text_length = 0;
		e->text[0] = 0;
		e->host[0] = 0;
		e->traceparent[0] = 0;
	} else if (h->text_kept == number && (t = http_texts.sk_storage_get(sk, 0, 0))) {
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

static __always_inline void http_event(void *ctx, struct bpf_sock *sk, struct connection *c, struct http_connection *h,
				       struct http_request *r, u32 number, u16 status, u64 now, u64 duration_ns,
				       u32 response_seq, u8 reason)
{
	struct settings *set = current_settings();
	struct request_event *e;
	u8 flags = 0;

	if (!set)
		return;
	if (r->flags & REQUEST_TRACE_SAMPLED)
		flags |= EVENT_TRACE_SAMPLED;
	if (set->slow_ns && duration_ns >= set->slow_ns)
		flags |= EVENT_SLOW;
	if (status == 0)
		flags |= EVENT_UNANSWERED;
	if (flags || status >= 500) {
		if (!event_allowed(set, TOKENS_PRIORITY, set->priority_rate, now))
			return;
	} else {
		if (set->sample_period != 1 &&
		    (set->sample_period == 0 || bpf_get_prandom_u32() % set->sample_period)) {
			COUNT(seen_events);
			COUNT(lost_event_sampled_out);
			return;
		}
		if (!event_allowed(set, TOKENS_ORDINARY, set->ordinary_rate, now))
			return;
	}
	e = events.ringbuf_reserve(sizeof(*e));
	if (!e) {
		COUNT(lost_event_ring_full);
		return;
	}
	event_fill(&e->event, c, EVENT_REQUEST, now, bpf_get_socket_cookie(ctx));
	e->event.flags |= flags;
	e->event.reason = reason;
	e->event.method = r->method;
	e->event.status = status;
	e->event.duration_ns = duration_ns;
	e->event.request_seq = r->seq;
	e->event.response_seq = response_seq;
	http_event_text(sk, e, h, &h->streams[http_is_request(c, TX)], number);
	events.ringbuf_submit(e, NO_WAKEUP);
	COUNT(sent_events);
}

/* Takes what one direction has not booked yet of its bytes, and of its bodies' bytes. */
static __always_inline u64 direction_take(struct connection *c, int dir)
{
	struct direction *d = &c->dir[dir];
	u64 n = d->bytes - d->carried - d->flushed;

	d->flushed += n;
	return n;
}

static __always_inline u64 body_take(struct http_stream *s)
{
	u64 n = s->body_bytes - s->body_flushed;

	s->body_flushed += n;
	return n;
}

/* What the requests' runs have left to the responses'. */
static __always_inline u64 carried_take(struct connection *c, struct http_connection *h, int request_dir)
{
	u64 n = *(volatile u64 *)&c->dir[request_dir].carried - h->carried;

	h->carried += n;
	return n;
}

/*
 * Adds what a direction has not booked yet: its bytes, its bodies', and, in the direction of responses, what the requests' runs
 * have left to it, which are the `other` direction's bytes.
 */
static __always_inline void direction_book(u64 *bytes, u64 *body_bytes, u64 *other_bytes, struct connection *c,
					   struct http_connection *h, int dir)
{
	u64 n = direction_take(c, dir);

	if (n)
		__sync_fetch_and_add(bytes, n);
	if (!h)
		return;
	n = body_take(&h->streams[dir]);
	if (n)
		__sync_fetch_and_add(body_bytes, n);
	n = http_is_request(c, dir) ? 0 : carried_take(c, h, !dir);
	if (n)
		__sync_fetch_and_add(other_bytes, n);
}

/* Puts a response's bytes, and its request's, where its latency is. */
static __always_inline void http_carry(struct latency_value *value, struct connection *c, struct http_connection *h)
{
	if (!value || c->flags & CONN_OPEN_PENDING)
		return;
	if (c->key.role == ROLE_CLIENT)
		direction_book(&value->rx_bytes, &value->rx_body_bytes, &value->tx_bytes, c, h, RX);
	else
		direction_book(&value->tx_bytes, &value->tx_body_bytes, &value->rx_bytes, c, h, TX);
}

/* Books one request: answered with `status`, or 0 when its connection ended first. The value it was added to. */
static __always_inline struct latency_value *http_book(void *ctx, struct bpf_sock *sk, struct connection *c,
						       struct http_connection *h, u32 index, u16 status, u64 now,
						       u64 answered_ns, u32 response_seq, u8 reason)
{
	struct http_request *r = &h->requests[index & (HTTP_PIPELINE - 1)];
	struct latency_key key = {.edge = c->key, .protocol = PROTOCOL_HTTP1};
	u64 duration = answered_ns > r->started_ns ? answered_ns - r->started_ns : 0;
	struct latency_value *value;

	key.method = r->method;
	key.status = status;
	value = latency_record(&key, duration, true);
	http_event(ctx, sk, c, h, r, index + 1, status, now, duration, response_seq, reason);
	return value;
}

static __always_inline void http_lose_sync(struct http_connection *h, struct http_stream *s, bool request)
{
	COUNT(lost_http_sync);
	if (!request) {
		u32 waiting = h->head - h->tail;

		if (waiting && waiting <= HTTP_PIPELINE)
			count_many(COUNTER_lost_http_sync_requests, waiting);
		h->tail = h->head;
		h->untimed_tail = h->untimed_head;
	}
	s->state = HTTP_RESYNC;
	s->have = 0;
	s->left = 0;
}

/* RFC 9112, 6.3: what follows the head that has just ended. */
static __always_inline void http_request_head(struct http_connection *h, struct http_stream *s)
{
	if (s->flags & HTTP_PUSHED) {
		struct http_request *r = &h->requests[(h->head - 1) & (HTTP_PIPELINE - 1)];

		if (!(r->flags & REQUEST_HEAD_COMPLETE)) {
			r->flags |= REQUEST_HEAD_COMPLETE;
			COUNT(seen_requests);
		}
	} else {
		COUNT(seen_requests);
	}
	if (s->flags & HTTP_CHUNKED) {
		s->state = HTTP_CHUNK_SIZE;
	} else if (s->flags & (HTTP_CODED | HTTP_BAD)) {
		COUNT(http_bad_framing);
		s->state = HTTP_RESYNC;
		s->left = 0;
	} else if (s->method == METHOD_CONNECT && (s->flags & HTTP_PUSHED)) {
		h->tunnel_refused = 0;
		s->state = HTTP_TUNNEL;
	} else if (s->flags & HTTP_LENGTH && s->length) {
		s->remaining = s->length;
		s->state = HTTP_BODY;
	} else {
		s->state = HTTP_START;
	}
}

/*
 * Passes over body bytes. Body bytes proper are booked, chunk framing is not.
 */
static __always_inline void http_skip_body(struct http_stream *s)
{
	u32 n = s->left;

	if (s->state == HTTP_UNTIL_CLOSE) {
		s->body_bytes += n;
	} else {
		u64 body = s->remaining;

		if (n > s->remaining)
			n = s->remaining;
		if (s->state == HTTP_CHUNK_DATA) {
			/* the last two bytes are CRLF */
			u64 before = body > 2 ? body - 2 : 0, after = body - n > 2 ? body - n - 2 : 0;

			s->body_bytes += before - after;
		} else {
			s->body_bytes += n;
		}
		s->remaining -= n;
		if (s->remaining == 0)
			s->state = s->state == HTTP_BODY ? HTTP_START : HTTP_CHUNK_SIZE;
	}
	s->offset += n;
	s->left -= n;
}

static __always_inline bool http_in_body(const struct http_stream *s)
{
	return s->state == HTTP_BODY || s->state == HTTP_CHUNK_DATA || s->state == HTTP_UNTIL_CLOSE;
}

/* RFC 9112, 6.3: where the body of the response ends, and what of it is at hand. */
static __always_inline void http_response_body(struct http_connection *h, struct http_stream *s, u8 method, u16 status)
{
	if (status == 101 || (method == METHOD_CONNECT && status >= 200 && status < 300)) {
		h->opaque = 1;
		s->state = HTTP_DEAD;
		return;
	}
	if (method == METHOD_CONNECT)
		h->tunnel_refused = 1;
	if (method == METHOD_HEAD || status == 204 || status == 304) {
		s->state = HTTP_START;
	} else if (s->flags & HTTP_CHUNKED) {
		s->state = HTTP_CHUNK_SIZE;
	} else if (s->flags & HTTP_BAD) {
		COUNT(http_bad_framing);
		s->state = HTTP_RESYNC;
		s->left = 0;
	} else if ((s->flags & HTTP_LENGTH) && !(s->flags & HTTP_CODED)) {
		s->remaining = s->length;
		s->state = s->length ? HTTP_BODY : HTTP_START;
	} else {
		s->state = HTTP_UNTIL_CLOSE;
	}
	if (http_in_body(s))
		http_skip_body(s);
}

static __always_inline void http_response_head(void *ctx, struct bpf_sock *sk, struct connection *c,
					       struct http_connection *h, struct http_stream *s)
{
	struct latency_value *value = 0;
	u8 method = METHOD_OTHER;
	u16 status = s->status;

	if (status < 200 && status != 101) { /* interim: the final response is still to come */
		s->state = HTTP_START;
		return;
	}
	if (!h->confirmed)
		h->confirmed = 1;
	if (h->tail != h->head) {
		struct http_request *r = &h->requests[h->tail & (HTTP_PIPELINE - 1)];

		method = r->method;
		if (!(r->flags & REQUEST_HEAD_COMPLETE)) {
			r->flags |= REQUEST_HEAD_COMPLETE;
			COUNT(seen_requests);
		}
		COUNT(seen_responses);
		value = http_book(ctx, sk, c, h, h->tail, status, s->started_ns, s->started_ns, s->started_seq, 0);
		h->tail++;
	} else if (h->untimed_tail != h->untimed_head) {
		struct latency_key key = {.edge = c->key, .protocol = PROTOCOL_HTTP1, .status = status};

		h->untimed_tail++;
		COUNT(seen_responses);
		COUNT(http_untimed);
		value = latency_record(&key, 0, false);
	} else {
		COUNT(http_unmatched_response);
	}
	http_response_body(h, s, method, status);
	http_carry(value, c, h);
}

/* A chunk-size line (RFC 9112, 7.1) of window[0..end); false when it is none. */
static __always_inline bool http_chunk_size(struct http_stream *s, u32 end)
{
	u64 size = 0;
	u32 digits = 0;

	for (u32 i = 0; i < 17; i++) {
		u8 c;

		if (i >= end)
			break;
		c = s->window[at(i)];
		if (c >= '0' && c <= '9')
			c -= '0';
		else if ((c | 0x20) >= 'a' && (c | 0x20) <= 'f')
			c = (c | 0x20) - 'a' + 10;
		else
			break;
		size = size << 4 | c;
		digits++;
	}
	if (!digits || digits > 15)
		return false;
	if (size == 0) {
		s->state = HTTP_TRAILERS;
		return true;
	}
	s->remaining = size + 2;
	s->state = HTTP_CHUNK_DATA;
	return true;
}

/* Fills the window from the skb (slot 0) or from a kept segment. Returns the bytes added, 0 on failure. */
static __always_inline u32 http_fill(struct __sk_buff *skb, struct http_stream *s, struct reorder *kept)
{
	u64 have = at(s->have);
	u64 n = HEAD_WINDOW - have;

	if (n > s->left)
		n = s->left;
	if (s->slot == 0) {
		if (!skb)
			return 0;
		/* at most HEAD_WINDOW - have, really; twice that stays within the connection's value */
		BOUND_SIZE(n, 1023);
		if (bpf_skb_load_bytes(skb, s->offset, s->window + have, n)) {
			COUNT(lost_payload_read);
			return 0;
		}
	} else {
		struct reorder_slot *slot;
		u32 from;

		if (!kept)
			return 0;
		slot = &kept->slots[(s->slot - 1) & (REORDER_SLOTS - 1)];
		if (s->offset + n > slot->kept) {
			if (s->offset >= slot->kept)
				return 0;
			n = slot->kept - s->offset;
		}
		from = (u32)slot->offset + s->offset;
		if (from > REORDER_BYTES)
			return 0;
		/* reads up to seven bytes too many, all within `data`; never writes past the window's slack */
		for (u32 i = 0; i < HEAD_WINDOW; i += 8) {
			if (i >= n)
				break;
			*(u64 *)(s->window + ((have + i) & (2 * HEAD_WINDOW - 1))) = load8(kept->data + from + i);
		}
	}
	s->have += n;
	s->offset += n;
	s->left -= n;
	return n;
}

/* Passes over windows without a newline, several in one step: a line of 8 KB would take too many tail calls. */
static __always_inline void http_skip_line(struct __sk_buff *skb, struct http_stream *s)
{
	u64 kept_low = load8(s->window), kept_high = load8(s->window + 8);
	u32 left = s->left;

#pragma clang loop unroll(disable)
	for (int k = 0; k < HTTP_SKIP_WINDOWS; k++) {
		u64 found = 0;

		if (s->left <= HEAD_WINDOW)
			break;
		if (bpf_skb_load_bytes(skb, s->offset, s->window, HEAD_WINDOW)) {
			COUNT(lost_payload_read);
			break;
		}
#pragma clang loop unroll(disable)
		for (int i = 0; i < HEAD_WINDOW; i += 8)
			found |= match_byte(load8(s->window + at(i)), '\n');
		if (found)
			break;
		s->offset += HEAD_WINDOW;
		s->left -= HEAD_WINDOW;
	}
	if (s->left == left) {
		*(u64 *)s->window = kept_low;
		*(u64 *)(s->window + 8) = kept_high;
		return;
	}
	/* Back to the tail that the end of a request line needs: what is read again has no newline. */
	s->have = 0;
	s->offset -= KEPT_TAIL;
	s->left += KEPT_TAIL;
}

/*
 * Passes over whole chunks whose size lines are at hand, several in one step: small chunks would take a tail call each.
 * What it cannot deal with (a split line, an extension, trailers) is left to the general way.
 */
static __always_inline void http_skip_chunks(struct __sk_buff *skb, struct http_stream *s)
{
#pragma clang loop unroll(disable)
	for (int k = 0; k < HTTP_SKIP_CHUNKS; k++) {
		u64 size = 0, word;
		u32 digits = 0;

		if (s->state != HTTP_CHUNK_SIZE || s->have || s->left < 8)
			break;
		if (bpf_skb_load_bytes(skb, s->offset, &word, 8)) {
			COUNT(lost_payload_read);
			break;
		}
		if ((word & LOW(5)) == WORD('0', '\r', '\n', '\r', '\n', 0, 0, 0)) {
			s->offset += 5;
			s->left -= 5;
			s->state = HTTP_START;
			break;
		}
#pragma unroll
		for (int i = 0; i < 6; i++) {
			u8 c = (word >> (i * 8)) & 0xff, low = c | 0x20;

			if (digits != i)
				continue;
			if (c >= '0' && c <= '9') {
				size = size << 4 | (c - '0');
				digits++;
			} else if (low >= 'a' && low <= 'f') {
				size = size << 4 | (low - 'a' + 10);
				digits++;
			}
		}
		if (!size || digits > 5 || ((word >> (digits * 8)) & 0xffff) != ('\r' | '\n' << 8))
			break;
		s->offset += digits + 2;
		s->left -= digits + 2;
		s->remaining = size + 2;
		s->state = HTTP_CHUNK_DATA;
		http_skip_body(s);
	}
}

/* Begins a message with the byte at hand. */
static __always_inline void http_begin(struct http_connection *h, struct http_stream *s, bool request)
{
	s->started_ns = bpf_ktime_get_ns();
	s->started_seq = s->next - s->left;
	s->flags &= HTTP_RESYNCING;
	s->length = 0;
	s->method = METHOD_OTHER;
	s->have = 0;
	s->text_number = 0;
	s->state = HTTP_START_LINE;
	if (request)
		http_push(h, s);
}

/* The first line is none of HTTP/1. */
static __always_inline void http_bad_start(struct connection *c, struct http_connection *h, struct http_stream *s,
					   bool request)
{
	s->have = 0;
	s->left = 0;
	if (s->flags & HTTP_RESYNCING) {
		s->state = HTTP_RESYNC;
		if (request && (s->flags & HTTP_PUSHED) && h->head != h->tail)
			h->head--;
		return;
	}
	if (h->confirmed) {
		/* A server answers 400 to such a line: the request stands, of unknown method. */
		if (request) {
			if (s->flags & HTTP_PUSHED) {
				h->requests[(h->head - 1) & (HTTP_PIPELINE - 1)].flags |= REQUEST_HEAD_COMPLETE;
				COUNT(seen_requests);
			}
			COUNT(http_bad_framing);
			s->state = HTTP_RESYNC;
		} else {
			http_lose_sync(h, s, false);
		}
		return;
	}
	if (request) {
		/* not known until the other side has spoken: "HTTP/1.1 400" would make it HTTP */
		if ((load8(s->window)) == WORD_PRI) {
			COUNT(seen_http2);
			h->opaque = 1;
			c->l7 = L7_OPAQUE;
		}
		s->state = HTTP_DEAD;
		return;
	}
	COUNT(http_not_http);
	h->opaque = 1;
	s->state = HTTP_DEAD;
	c->l7 = L7_OPAQUE;
}

/*
 * Index of the window's first newline; HEAD_WINDOW without one. It goes through memory: as a register's range it would
 * multiply the states of all that follows by the turns of this loop.
 */
static __always_inline u32 http_first_newline(struct http_stream *s)
{
	*(volatile u16 *)&s->line_end = HEAD_WINDOW;
#pragma clang loop unroll(disable)
	for (u32 i = 0; i < HEAD_WINDOW; i += 8) {
		u64 newline;

		if (i >= HAVE(s))
			break;
		newline = match_byte(load8(s->window + at(i)), '\n');
		if (newline) {
			*(volatile u16 *)&s->line_end = i + lowest_byte(newline);
			break;
		}
	}
	if (*(volatile u16 *)&s->line_end >= HAVE(s))
		return HEAD_WINDOW;
	return *(volatile u16 *)&s->line_end;
}

/* The line of window[0..end) is a start line or a chunk's size. */
static __always_inline u32 http_first_line(struct connection *c, struct http_connection *h, struct http_stream *s,
					   u32 end)
{
	if (s->state == HTTP_CHUNK_SIZE)
		return STOP_CHUNK;
	if (end == 0 || (end == 1 && s->window[0] == '\r'))
		return STOP_EMPTY_LINE;
	if (!http_start_line(c, h, s, REQUEST(s), end))
		return STOP_BAD_START;
	if (s->flags & HTTP_RESYNCING)
		COUNT(http_resync);
	s->flags &= ~(HTTP_SKIP_LINE | HTTP_RESYNCING);
	s->state = HTTP_HEADERS;
	return STOP_NONE;
}

/*
 * One step over the bytes at hand (s->offset, s->left). True when another step is wanted for them.
 */
static __always_inline bool http_step(void *ctx, struct __sk_buff *skb, struct bpf_sock *sk, struct connection *c,
				      struct http_connection *h, struct http_stream *s, struct reorder *kept)
{
	u32 line = 0, position = 0, stop = STOP_NONE, end = 0;

	if (h->opaque)
		s->state = HTTP_DEAD;
	if (s->state == HTTP_TUNNEL && h->tunnel_refused)
		s->state = HTTP_START;
	if (s->state == HTTP_DEAD || s->state == HTTP_TUNNEL) {
		s->left = 0;
		return false;
	}
	if (http_in_body(s))
		http_skip_body(s);
	if (s->state == HTTP_CHUNK_SIZE && s->slot == 0 && skb)
		http_skip_chunks(skb, s);
	if (s->left == 0)
		return false;
	if (s->state == HTTP_START)
		http_begin(h, s, REQUEST(s));
	if ((s->flags & HTTP_SKIP_LINE) && s->left > HEAD_WINDOW && s->slot == 0 && skb)
		http_skip_line(skb, s);
	if (!http_fill(skb, s, kept)) {
		http_lose_sync(h, s, REQUEST(s));
		return false;
	}
	s->length_at = s->host_at = s->trace_at = s->coding_end = 0;
	if (s->state == HTTP_START_LINE || s->state == HTTP_CHUNK_SIZE) {
		end = http_first_newline(s);
		if (end < HEAD_WINDOW) {
			stop = http_first_line(c, h, s, end);
			line = position = at(end) + 1;
		} else {
			position = HEAD_WINDOW;
		}
	}
#pragma clang loop unroll(disable)
	for (int i = 0; i < HTTP_SCAN_STEPS; i++) {
		u64 newline;

		if (stop != STOP_NONE || position >= HAVE(s) || position >= HEAD_WINDOW)
			break;
		position = at(position); /* one range for every turn: the verifier can compare them */
		newline = match_byte(load8(s->window + at(position)), '\n');
		if (!newline) {
			position += 8;
			newline = match_byte(load8(s->window + at(position)), '\n');
			if (!newline) {
				position += 8;
				continue;
			}
		}
		end = position + lowest_byte(newline);
		if (end >= HAVE(s) || end >= HEAD_WINDOW) {
			position = HEAD_WINDOW;
			break;
		}
		position = end + 1;
		if (s->flags & HTTP_SKIP_LINE) {
			s->flags &= ~HTTP_SKIP_LINE;
		} else if (end == line || (end == line + 1 && s->window[at(line)] == '\r')) {
			stop = STOP_HEAD;
			break;
		} else if (s->state == HTTP_HEADERS) {
			http_header(s, line, end);
		}
		line = at(end) + 1;
	}
	if (stop == STOP_BAD_START) {
		http_bad_start(c, h, s, REQUEST(s));
		return false;
	}
	http_values(sk, h, s);
	/* What comes next, of this head or behind it, will take the window. */
	if (s->text_number && REQUEST(s) &&
	    (stop == STOP_NONE || s->flags & HTTP_CHUNKED || s->left || position < HAVE(s)))
		http_keep_text(sk, h, s);
	if (stop != STOP_NONE) {
		/* What follows the newline was read too early: it belongs to what comes next. */
		u32 early = HAVE(s) - position;

		s->offset -= early;
		s->left += early;
		s->have = 0;
		if (stop == STOP_HEAD) {
			if (s->state == HTTP_TRAILERS)
				s->state = HTTP_START;
			else if (REQUEST(s))
				http_request_head(h, s);
			else
				http_response_head(ctx, sk, c, h, s);
		} else if (stop == STOP_CHUNK) {
			if (!http_chunk_size(s, end)) {
				http_lose_sync(h, s, REQUEST(s));
				return false;
			}
		} else if (REQUEST(s) && (s->flags & HTTP_PUSHED)) {
			/* the empty line was no request */
			s->state = HTTP_START;
			if (h->head != h->tail)
				h->head--;
		} else {
			s->state = HTTP_START;
		}
		return s->left > 0;
	}
	if (line > 0) {
		/* Whole lines are done with; the unfinished one is read again, to the window's start. */
		u32 rest = HAVE(s) - line;

		s->offset -= rest;
		s->left += rest;
		s->have = 0;
		if (rest == 0)
			return s->left > 0;
		if (s->left > rest || s->slot != 0)
			return true;
		http_fill(skb, s, 0);
		return false;
	}
	if (position < HAVE(s))
		return true; /* out of scan steps with a newline-free window: cannot happen, but is bounded */
	if (HAVE(s) >= HEAD_WINDOW) {
		/* A line longer than the window: its start decides, its last bytes stay. */
		if (s->state == HTTP_START_LINE && !REQUEST(s)) {
			if (!http_start_line(c, h, s, false, 0)) {
				http_bad_start(c, h, s, false);
				return false;
			}
			s->state = HTTP_HEADERS; /* the rest is the reason phrase */
		} else if (s->state == HTTP_START_LINE && !(s->flags & HTTP_SKIP_LINE)) {
			s->method = http_method(load8(s->window));
			if (s->flags & HTTP_PUSHED)
				http_note_text(h, s, HEAD_WINDOW);
		}
		if (s->state == HTTP_CHUNK_SIZE) {
			http_lose_sync(h, s, REQUEST(s)); /* no sane chunk extension is this long */
			return false;
		}
		if (s->state == HTTP_HEADERS && !(s->flags & HTTP_SKIP_LINE) &&
		    (load8(s->window) | CASE_BITS) == WORD_TRANSFER)
			s->flags |= HTTP_BAD;
		s->flags |= HTTP_SKIP_LINE;
		*(u64 *)s->window = load8(s->window + HEAD_WINDOW - 16);
		*(u64 *)(s->window + 8) = load8(s->window + HEAD_WINDOW - 8);
		s->have = KEPT_TAIL;
	}
	return s->left > 0;
}

/*
 * The connection is over: what was asked and not answered is a failed request. Books one of them; true when there are
 * more, for the next program in the chain.
 */
static __always_inline bool http_close_one(void *ctx, struct bpf_sock *sk, struct connection *c,
					   struct http_connection *h, u64 now)
{
	u32 index = h->tail;

	if (!h->confirmed)
		return false;
	if (index != h->head) {
		struct http_request *r = &h->requests[index & (HTTP_PIPELINE - 1)];

		h->tail = index + 1;
		if (r->flags & REQUEST_HEAD_COMPLETE) {
			COUNT(seen_unanswered);
			http_book(ctx, sk, c, h, index, 0, now, now, 0, 0);
		} else {
			COUNT(http_incomplete_head);
		}
		return h->tail != h->head || h->untimed_tail != h->untimed_head;
	}
	if (h->untimed_tail != h->untimed_head) {
		struct latency_key key = {.edge = c->key, .protocol = PROTOCOL_HTTP1};
		u32 rest = h->untimed_head - h->untimed_tail;
		struct latency_value *value = latency_get(&key);

		h->untimed_tail = h->untimed_head;
		count_many(COUNTER_seen_unanswered, rest);
		count_many(COUNTER_http_untimed, rest);
		if (value)
			__sync_fetch_and_add(&value->untimed, rest);
	}
	return false;
}

#endif
