/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/*
 * What the order of bytes asks of a protocol, each question with one line a protocol. README.md says how to add one.
 *
 * A protocol has a step over the bytes at hand, in a program of its own a hook: the verifier sees one at a time.
 */
#ifndef SIDELIGHT_PROTOCOL_H
#define SIDELIGHT_PROTOCOL_H

#include "types.h"

/* Which program goes on with a segment or with a connection's end; a protocol's own step has the protocol's number. */
enum next {
	NEXT_NONE = 0,
	NEXT_STEP = 1,	 /* the protocol's */
	NEXT_CLOSE = 61, /* one more exchange that stays without an answer */
	NEXT_WAIT = 62,	 /* another CPU has the stream */
	NEXT_AGAIN = 63, /* the segment from its beginning */
};

#include "l7/http1.h"

/* Which protocol a connection's first byte, the client's, may begin; L7_OPAQUE for none that is followed. */
static __always_inline u8 protocol_begins(u8 first)
{
	if (first == 0x16)
		return L7_TLS;
	return http1_begins(first) ? PROTOCOL_HTTP1 : L7_OPAQUE;
}

/* A gap in the stream: true when the protocol can do without these bytes. */
static __always_inline bool protocol_pass_gap(const struct connection *c, struct stream *s, u32 gap)
{
	return http1_pass_gap(s, gap);
}

static __always_inline void protocol_lose_sync(const struct connection *c, struct l7_connection *l, struct stream *s,
					       bool request)
{
	http1_lose_sync(l, s, request);
}

/* May a stream whose framing was lost, or that is older than the programs, be picked up at this word? Then it is. */
static __always_inline bool protocol_resync(const struct connection *c, struct l7_connection *l, struct stream *s,
					    u64 word, bool request)
{
	if (!http1_resync_here(l, word, request))
		return false;
	http1_resync(s);
	return true;
}

/* A whole segment of body can be passed over without a step. */
static __always_inline void protocol_pass_body(const struct connection *c, struct stream *s)
{
	http1_skip_body(s);
}

/* Nothing of the request side's message is left unbooked or undecided but its answer. */
static __always_inline bool protocol_awaits_answer(const struct stream *s)
{
	return s->state == STREAM_START && (s->flags & HTTP1_PLACED);
}

#endif
