/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/*
 * HTTP/1.0 and 1.1 (RFC 9112).
 *
 * Each direction is a pull parser. Its input is a contiguous window: the unfinished line kept from before, then new
 * bytes. A step deals with at most one window and ends at the latest behind a head, a chunk size or a body; the
 * programs tail-call themselves for the next step, so the verifier sees one. Bodies of known length are skipped, not
 * looked at; that also carries the parser over gaps within them.
 *
 *   START -> START_LINE -> HEADERS -> BODY | CHUNK_SIZE <-> CHUNK_DATA, TRAILERS | PASS | TUNNEL -> START
 *
 * What cannot be decided goes to RESYNC (counted), where only a segment that begins with a head is believed.
 */
#ifndef SIDELIGHT_HTTP1_H
#define SIDELIGHT_HTTP1_H

#include "l7/http1_body.h"
#include "l7/kafka.h"
#include "l7/memcached.h"
#include "l7/mysql.h"
#include "l7/postgresql.h"
#include "l7/redis.h"

#define HTTP1_SCAN_STEPS 48 /* pairs of words and lines looked at in a step: 32 pass over a window without a newline */
#define HTTP1_SKIP_WINDOWS 8
#define KEPT_TAIL 16 /* of a line longer than the window: enough for " HTTP/1.1\r" */

enum http1_stop {
	STOP_NONE = 0,
	STOP_EMPTY_LINE = 1, /* before a start line */
	STOP_BAD_START = 2,
	STOP_HEAD = 3, /* the head or the trailers are complete */
	STOP_CHUNK = 4,
};

/* Could a connection that begins with this byte be HTTP? Methods are letters; servers skip a leading CRLF. */
static __always_inline bool http1_begins(u8 c)
{
	return (c >= 'A' && c <= 'Z') || (c >= 'a' && c <= 'z') || c == '\r' || c == '\n';
}

/* The framing is lost: nothing is believed but a segment that begins with a head. */
static __always_inline void http1_lose_sync(struct l7_connection *l, struct stream *s, bool request)
{
	COUNT(lost_http_sync);
	if (!request)
		exchange_lose(l);
	s->state = STREAM_RESYNC;
	s->have = 0;
	s->left = 0;
}

/* Is a segment that begins with this word a place to pick up a stream whose framing was lost? */
static __always_inline bool http1_resync_here(const struct l7_connection *l, u64 word, bool request)
{
	if (request)
		return l->head == l->tail && http1_method(word) != METHOD_OTHER;
	return l->head != l->tail && (word & LOW(7)) == WORD_HTTP_1;
}

static __always_inline void http1_resync(struct stream *s)
{
	s->flags = HTTP1_RESYNCING;
	s->have = 0;
	s->state = STREAM_START;
}

/* The gap before a segment, if the parser can do without it. */
static __always_inline bool http1_pass_gap(struct stream *s, u32 gap)
{
	if (s->state == STREAM_PASS || s->state == STREAM_DEAD || s->state == HTTP1_TUNNEL)
		return true;
	if (s->state == STREAM_RESYNC) {
		s->have = 0;
		return true;
	}
	if ((s->state == STREAM_BODY || s->state == HTTP1_CHUNK_DATA) && s->remaining >= gap) {
		s->left = gap;
		http1_skip_body(s);
		return true;
	}
	return false;
}

/* Passes over windows without a newline, several in one step: a line of 8 KB would take too many tail calls. */
static __always_inline void http1_skip_line(struct __sk_buff *skb, struct stream *s)
{
	u64 kept_low = load8(s->window), kept_high = load8(s->window + 8);
	u32 left = s->left;

#pragma clang loop unroll(disable)
	for (int k = 0; k < HTTP1_SKIP_WINDOWS; k++) {
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

/* Begins a message with the byte at hand. */
static __always_inline void http1_begin_message(struct l7_connection *l, struct stream *s, bool request)
{
	s->started_ns = bpf_ktime_get_ns();
	s->started_seq = s->next - s->left;
	s->flags &= HTTP1_RESYNCING;
	s->length = 0;
	s->method = METHOD_OTHER;
	s->have = 0;
	s->text_number = 0;
	s->state = HTTP1_START_LINE;
	if (request && exchange_begin(l, s))
		s->flags |= HTTP1_PLACED;
}

/* The first line is none of HTTP/1. `end`: of the line, where the window has it. True: goes on as another protocol. */
static __always_inline bool http1_bad_start(struct connection *c, struct l7_connection *l, struct stream *s,
					    bool request, u32 end)
{
	u8 commands = 0;

	if (request && !l->confirmed && end == 15 && load8(s->window) == WORD_PRI && load8(s->window + 8) == WORD_2_0 &&
	    !(s->flags & HTTP1_RESYNCING)) {
		u32 early = HAVE(s) - (at(end) + 1);

		if (s->flags & HTTP1_PLACED)
			exchange_withdraw(l);
		http2_begin_stream(s, true);
		s->remaining = 8;
		s->offset -= early;
		s->left += early;
		c->l7 = PROTOCOL_HTTP2;
		return s->left > 0;
	}
	if (request && !l->confirmed && end < COMMAND_LINE && HAVE(s) > end && !(s->flags & HTTP1_RESYNCING))
		commands = memcached_begins(load8(s->window)) ? PROTOCOL_MEMCACHED
			   : redis_begins(load8(s->window))   ? PROTOCOL_REDIS
							      : 0;
	if (commands) {
		/* its first segment came late, or in pieces */
		u32 early = HAVE(s) - (at(end) + 1);

		if (s->flags & HTTP1_PLACED)
			exchange_withdraw(l);
		c->l7 = commands;
		s->state = STREAM_START;
		s->flags = COMMANDS_READ;
		s->have -= early;
		s->offset -= early;
		s->left += early;
		return true;
	}
	s->have = 0;
	s->left = 0;
	if (s->flags & HTTP1_RESYNCING) {
		s->state = STREAM_RESYNC;
		if (request && (s->flags & HTTP1_PLACED))
			exchange_withdraw(l);
		return false;
	}
	if (l->confirmed) {
		/* A server answers 400 to such a line: the request stands, of unknown method. */
		if (request) {
			if (s->flags & HTTP1_PLACED) {
				l->flags[NEWEST(l)] |= EXCHANGE_WHOLE;
				COUNT(seen_requests);
			}
			COUNT(http_bad_framing);
			s->state = STREAM_RESYNC;
		} else {
			http1_lose_sync(l, s, false);
		}
		return false;
	}
	if (request) {
		/* not known until the other side has spoken: "HTTP/1.1 400" would make it HTTP */
		s->state = STREAM_DEAD;
		return false;
	}
	COUNT(http_not_http);
	l->opaque = 1;
	s->state = STREAM_DEAD;
	c->l7 = L7_OPAQUE;
	return false;
}

/* A request's first line is at hand, and its operation is wanted. */
static __always_inline bool http1_wants_route(const struct stream *s)
{
	struct settings *set;

	if (!REQUEST(s) || s->state != HTTP1_START_LINE ||
	    (s->flags & (HTTP1_PLACED | HTTP1_SKIP_LINE)) != HTTP1_PLACED)
		return false;
	set = current_settings();
	return set && set->routes;
}

/*
 * Index of the window's first newline; HEAD_WINDOW without one. It goes through memory: as a register's range it would
 * multiply the states of all that follows by the turns of this loop.
 */
static __always_inline u32 http1_first_newline(struct stream *s)
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
static __always_inline u32 http1_first_line(struct l7_connection *l, struct stream *s, u32 end)
{
	if (s->state == HTTP1_CHUNK_SIZE)
		return STOP_CHUNK;
	if (end == 0 || (end == 1 && s->window[0] == '\r'))
		return STOP_EMPTY_LINE;
	if (!http1_start_line(l, s, REQUEST(s), end))
		return STOP_BAD_START;
	if (s->flags & HTTP1_RESYNCING)
		COUNT(http_resync);
	s->flags &= ~(HTTP1_SKIP_LINE | HTTP1_RESYNCING);
	s->state = HTTP1_HEADERS;
	return STOP_NONE;
}

/* One step over the bytes at hand (s->offset, s->left). True when another step is wanted for them. */
static __always_inline bool http1_step(void *ctx, struct __sk_buff *skb, struct bpf_sock *sk, struct connection *c,
				       struct l7_connection *l, struct stream *s, struct reorder *kept)
{
	u32 line = 0, position = 0, stop = STOP_NONE, end = 0;

	if (l->opaque)
		s->state = STREAM_DEAD;
	if (s->state == HTTP1_TUNNEL && l->tunnel_refused)
		s->state = STREAM_START;
	if (s->state == STREAM_DEAD || s->state == HTTP1_TUNNEL) {
		s->left = 0;
		return false;
	}
	if (http1_in_body(s))
		http1_skip_body(s);
	if (s->state == HTTP1_CHUNK_SIZE && s->slot == 0 && skb)
		http1_skip_chunks(skb, s);
	if (s->left == 0)
		return false;
	if (s->state == STREAM_START)
		http1_begin_message(l, s, REQUEST(s));
	if ((s->flags & HTTP1_SKIP_LINE) && s->left > HEAD_WINDOW && s->slot == 0 && skb)
		http1_skip_line(skb, s);
	if (!source_fill(skb, s, kept)) {
		http1_lose_sync(l, s, REQUEST(s));
		return false;
	}
	s->length_at = s->host_at = s->trace_at = s->coding_end = s->upgrade_at = 0;
	if (s->state == HTTP1_START_LINE || s->state == HTTP1_CHUNK_SIZE) {
		end = http1_first_newline(s);
		if (end < HEAD_WINDOW) {
			if (http1_wants_route(s))
				route_find(ctx, sk, c, l, s);
			stop = http1_first_line(l, s, end);
			line = position = at(end) + 1;
		} else {
			position = HEAD_WINDOW;
		}
	}
#pragma clang loop unroll(disable)
	for (int i = 0; i < HTTP1_SCAN_STEPS; i++) {
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
		if (s->flags & HTTP1_SKIP_LINE) {
			s->flags &= ~HTTP1_SKIP_LINE;
		} else if (end == line || (end == line + 1 && s->window[at(line)] == '\r')) {
			stop = STOP_HEAD;
			break;
		} else if (s->state == HTTP1_HEADERS) {
			http1_header(s, line, end);
		}
		line = at(end) + 1;
	}
	if (stop == STOP_BAD_START)
		return http1_bad_start(c, l, s, REQUEST(s), end);
	http1_values(sk, l, s);
	/* What comes next, of this head or behind it, will take the window. */
	if (s->text_number && REQUEST(s) &&
	    (stop == STOP_NONE || s->flags & HTTP1_CHUNKED || s->left || position < HAVE(s)))
		text_keep(sk, l, s);
	if (stop != STOP_NONE) {
		/* What follows the newline was read too early: it belongs to what comes next. */
		u32 early = HAVE(s) - position;

		s->offset -= early;
		s->left += early;
		s->have = 0;
		if (stop == STOP_HEAD) {
			if (s->state == HTTP1_TRAILERS)
				s->state = STREAM_START;
			else if (REQUEST(s))
				http1_request_head(l, s);
			else
				http1_response_head(ctx, sk, c, l, s);
		} else if (stop == STOP_CHUNK) {
			if (!http1_chunk_size(s, end)) {
				http1_lose_sync(l, s, REQUEST(s));
				return false;
			}
		} else if (REQUEST(s) && (s->flags & HTTP1_PLACED)) {
			/* the empty line was no request */
			s->state = STREAM_START;
			exchange_withdraw(l);
		} else {
			s->state = STREAM_START;
		}
		return s->left > 0;
	}
	if (line > 0) {
		/* Whole lines are done with; the unfinished one is read again, to the window's start. */
		u32 before = HAVE(s), rest = before - line;

		s->offset -= rest;
		s->left += rest;
		s->have = 0;
		if (rest == 0)
			return s->left > 0;
		if (s->left > rest || s->slot != 0 || position < before)
			return true; /* more bytes, or lines that this step had no scan left for */
		source_fill(skb, s, 0);
		return false;
	}
	if (position < HAVE(s))
		return true; /* out of scan steps with a newline-free window: cannot happen, but is bounded */
	if (HAVE(s) >= HEAD_WINDOW) {
		/* A line longer than the window: its start decides, its last bytes stay. */
		if (s->state == HTTP1_START_LINE && !REQUEST(s)) {
			if (!http1_start_line(l, s, false, 0)) {
				return http1_bad_start(c, l, s, false, 0);
			}
			s->state = HTTP1_HEADERS; /* the rest is the reason phrase */
		} else if (s->state == HTTP1_START_LINE && !(s->flags & HTTP1_SKIP_LINE)) {
			s->method = http1_method(load8(s->window));
			if (s->flags & HTTP1_PLACED)
				text_note(l, s, HEAD_WINDOW);
		}
		if (s->state == HTTP1_CHUNK_SIZE) {
			http1_lose_sync(l, s, REQUEST(s)); /* no sane chunk extension is this long */
			return false;
		}
		if (s->state == HTTP1_HEADERS && !(s->flags & HTTP1_SKIP_LINE) &&
		    (load8(s->window) | CASE_BITS) == WORD_TRANSFER)
			s->flags |= HTTP1_BAD;
		s->flags |= HTTP1_SKIP_LINE;
		*(u64 *)s->window = load8(s->window + HEAD_WINDOW - 16);
		*(u64 *)(s->window + 8) = load8(s->window + HEAD_WINDOW - 8);
		s->have = KEPT_TAIL;
	}
	return s->left > 0;
}

#endif
