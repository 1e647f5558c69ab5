/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/* Heads of HTTP/1.0 and 1.1: start lines and the few fields that matter (RFC 9112, 3, 4 and 6; W3C Trace Context). */
#ifndef SIDELIGHT_HTTP1_HEAD_H
#define SIDELIGHT_HTTP1_HEAD_H

#include "l7/exchange.h"

#define WORD_CONTENT WORD('c', 'o', 'n', 't', 'e', 'n', 't', '-')
#define WORD_LENGTH WORD('l', 'e', 'n', 'g', 't', 'h', ':', 0)
#define WORD_TRANSFER WORD('t', 'r', 'a', 'n', 's', 'f', 'e', 'r')
#define WORD_ENCODING WORD('-', 'e', 'n', 'c', 'o', 'd', 'i', 'n')
#define WORD_TRACEPAR WORD('t', 'r', 'a', 'c', 'e', 'p', 'a', 'r')
#define WORD_ENT WORD('e', 'n', 't', ':', 0, 0, 0, 0)
#define WORD_HOST WORD('h', 'o', 's', 't', ':', 0, 0, 0)
#define WORD_UPGRADE WORD('u', 'p', 'g', 'r', 'a', 'd', 'e', ':')
#define WORD_CHUNKED WORD('c', 'h', 'u', 'n', 'k', 'e', 'd', 0)
#define WORD_HTTP_1 WORD('H', 'T', 'T', 'P', '/', '1', '.', 0)
#define WORD_PRI WORD('P', 'R', 'I', ' ', '*', ' ', 'H', 'T')

enum http1_state {
	HTTP1_START_LINE = STREAM_OWN, /* within the first line */
	HTTP1_HEADERS,
	HTTP1_CHUNK_SIZE,
	HTTP1_CHUNK_DATA, /* `remaining` bytes, the CRLF included */
	HTTP1_TRAILERS,
	HTTP1_TUNNEL, /* request side after CONNECT, until the answer says */
};

/* Of struct stream. */
enum http1_flags {
	HTTP1_SKIP_LINE = 1, /* the line's start was dealt with, its end is still to come */
	HTTP1_CHUNKED = 2,
	HTTP1_LENGTH = 4,
	HTTP1_BAD = 8,	   /* framing fields contradict each other */
	HTTP1_CODED = 16,  /* transfer-encoding whose last coding is not chunked */
	HTTP1_PLACED = 32, /* this request has its place in the queue */
	HTTP1_RESYNCING = 64,
};

static __always_inline u8 http1_method(u64 w)
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

static __always_inline bool http1_settled(const struct l7_connection *l, const struct stream *s)
{
	return !(s->flags & HTTP1_PLACED) || l->head == 0;
}

/* The first line is whole: `end` is the index of its newline; 0: it is longer than the window. */
static __always_inline bool http1_start_line(struct l7_connection *l, struct stream *s, bool request, u32 end)
{
	u64 tail;

	if (!request) {
		u8 *d = s->window + 9;

		if ((load8(s->window) & LOW(7)) != WORD_HTTP_1 || (end && end < 12))
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
	if (!l->confirmed)
		l->confirmed = 1;
	s->status = 0;
	if (http1_settled(l, s))
		return true;
	if (!(s->flags & HTTP1_SKIP_LINE)) {
		s->method = http1_method(load8(s->window));
		text_note(l, s, end + 1);
	}
	l->methods[NEWEST(l)] = s->method;
	return true;
}

/*
 * Content-Length's value, in the window at s->length_at: digits after blanks. The turns of the loops leave nothing in registers
 * that differs between them: what follows is then one state for the verifier.
 */
static __always_inline void http1_content_length(struct stream *s)
{
	volatile u16 *from = &s->length_at;
	volatile u64 *value = &s->remaining;
	u8 c = 0;

#pragma clang loop unroll(disable)
	for (int i = 0; i < 8; i++) {
		c = s->window[at(*from)];
		if (c != ' ' && c != '\t')
			break;
		*from += 1;
	}
	if (c < '0' || c > '9')
		s->flags |= HTTP1_BAD;
	*value = 0;
#pragma clang loop unroll(disable)
	for (int i = 0; i < 18; i++) {
		c = s->window[at(*from)];
		if (c < '0' || c > '9')
			break;
		*value = *value * 10 + (c - '0');
		*from += 1;
	}
	/* the line's own newline ends the digits at the latest */
	if ((c != '\r' && c != '\n' && c != ' ' && c != '\t') || ((s->flags & HTTP1_LENGTH) && s->length != *value))
		s->flags |= HTTP1_BAD;
	s->flags |= HTTP1_LENGTH;
	s->length = *value;
}

/*
 * One header line, window[line..end), the newline at `end`. Only notes where the values are: the loop over lines has to
 * stay small for the verifier; http1_values() reads them.
 */
static __always_inline void http1_header(struct stream *s, u32 line, u32 end)
{
	u64 w = load8(s->window + at(line)) | CASE_BITS;
	u64 next = load8(s->window + at(line + 8)) | CASE_BITS;

	if (w == WORD_CONTENT && (next & LOW(7)) == (WORD_LENGTH | (CASE_BITS & LOW(7)))) {
		if (s->length_at)
			s->flags |= HTTP1_BAD; /* twice in one window: not worth comparing */
		s->length_at = line + 15;
	} else if (w == WORD_TRANSFER && next == (WORD_ENCODING | CASE_BITS)) {
		s->coding_end = end;
	} else if ((w & LOW(5)) == (WORD_HOST | (CASE_BITS & LOW(5)))) {
		s->host_at = line + 5;
	} else if (w == WORD_TRACEPAR && (next & LOW(4)) == (WORD_ENT | (CASE_BITS & LOW(4)))) {
		s->trace_at = line + 12;
	} else if (w == (WORD_UPGRADE | CASE_BITS)) {
		s->upgrade_at = line + 8;
	}
}

/* The values that this step's lines had. */
static __always_inline void http1_values(struct bpf_sock *sk, struct l7_connection *l, struct stream *s)
{
	u32 from = s->trace_at;

	if (s->length_at)
		http1_content_length(s);
	if (s->coding_end > 8) {
		u64 last = load8(s->window + at(s->coding_end - 8)) | CASE_BITS;

		if ((last & LOW(7)) == WORD_CHUNKED || last >> 8 == WORD_CHUNKED)
			s->flags = (s->flags & ~HTTP1_CODED) | HTTP1_CHUNKED;
		else
			s->flags |= HTTP1_CODED;
	}
	if (s->upgrade_at && REQUEST(s) && s->flags & HTTP1_PLACED) {
		u64 word = load8(s->window + at(s->upgrade_at));

		if ((word & 0xff) == ' ')
			word >>= 8;
		if ((word & LOW(4)) == WORD('h', '2', 'c', '\r', 0, 0, 0, 0))
			l->flags[NEWEST(l)] |= EXCHANGE_H2C;
	}
	if (!REQUEST(s) || !(s->flags & HTTP1_PLACED) || (l->text_kept != l->head && s->text_number != l->head))
		return;
	if (from) {
		/* "00-", 32 and 16 hexadecimal digits, trace-flags of two: the lowest bit means sampled, an odd last digit */
		u8 last = s->window[at(from + 54 + (s->window[at(from)] == ' '))];

		if ((last & 1) ^ (last >> 6 & 1))
			l->flags[NEWEST(l)] |= EXCHANGE_SAMPLED;
	}
	if (s->text_number != l->head && (s->host_at || from)) {
		struct exchange_text *t = exchange_texts.sk_storage_get(sk, 0, 0);

		if (t)
			text_values(s, t->host, t->traceparent);
	}
}

#endif
