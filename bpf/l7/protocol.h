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
	NEXT_CLOSE_COMMANDS = 59, /* commands that stay without an answer */
	NEXT_CLOSE_HTTP2 = 60,	  /* exchanges in flight that do */
	NEXT_CLOSE = 61,	  /* one more exchange that stays without an answer */
	NEXT_WAIT = 62,		  /* another CPU has the stream */
	NEXT_AGAIN = 63,	  /* the segment from its beginning */
};

#include "l7/http1.h"

/* Protocols of commands (l7/commands.h). */
static __always_inline bool protocol_of_commands(u8 protocol)
{
	return protocol >= PROTOCOL_REDIS && protocol <= PROTOCOL_KAFKA;
}

/* Which protocol a connection may begin, by the client's first eight bytes, or its first; L7_OPAQUE for none that is followed. */
static __always_inline u8 protocol_begins(const u8 *first)
{
	if (first[0] == 0x16)
		return L7_TLS;
	if (load8(first) == WORD_PRI)
		return PROTOCOL_HTTP2;
	if (postgresql_begins(first))
		return PROTOCOL_POSTGRESQL;
	if (kafka_begins(first))
		return PROTOCOL_KAFKA;
	if (memcached_begins(load8(first)))
		return PROTOCOL_MEMCACHED;
	if (redis_begins(load8(first)))
		return PROTOCOL_REDIS;
	return http1_begins(first[0]) ? PROTOCOL_HTTP1 : L7_OPAQUE;
}

/* ... by the server's first bytes, when it speaks before the client. */
static __always_inline u8 protocol_server_begins(struct __sk_buff *skb, const struct packet *p)
{
	if (mysql_server_begins(skb, p->offset, p->length))
		return PROTOCOL_MYSQL;
	return http2_server_begins(skb, p->offset, p->length) ? PROTOCOL_HTTP2 : L7_OPAQUE;
}

/* A direction's stream has its first segment. */
static __always_inline void protocol_begin_stream(const struct connection *c, struct stream *s, u8 protocol,
						  bool request)
{
	if (protocol == PROTOCOL_HTTP2)
		http2_begin_stream(s, request);
}

/* A gap in the stream: true when the protocol can do without these bytes. */
static __always_inline bool protocol_pass_gap(const struct connection *c, struct stream *s, u32 gap)
{
	if (protocol_of_commands(c->l7))
		return commands_pass_gap(s, gap);
	return c->l7 == PROTOCOL_HTTP2 ? http2_pass_gap(s, gap) : http1_pass_gap(s, gap);
}

static __always_inline void protocol_lose_sync(struct bpf_sock *sk, struct connection *c, struct l7_connection *l,
					       struct stream *s, bool request)
{
	if (protocol_of_commands(c->l7))
		commands_lose(c, s, command_queues.sk_storage_get(sk, 0, 0), request);
	else if (c->l7 == PROTOCOL_HTTP2)
		http2_lose_sync(s);
	else
		http1_lose_sync(l, s, request);
}

/* Could the segment at hand, which begins with the word, begin with a message of the protocol? */
static __always_inline bool commands_resumes(struct __sk_buff *skb, const struct stream *s, u8 protocol, u64 word,
					     bool request)
{
	if (protocol == PROTOCOL_REDIS)
		return redis_resumes(word, request);
	if (protocol == PROTOCOL_MEMCACHED)
		return memcached_resumes(word, request);
	if (protocol == PROTOCOL_MYSQL)
		return mysql_resumes(word, s->left, request);
	if (protocol == PROTOCOL_KAFKA)
		return kafka_resumes(word, s->left, request);
	return postgresql_resumes(skb, s->offset, s->left, word, request);
}

/* ... of a protocol of commands; where nobody knows yet which, by a segment that begins like a command. */
static __always_inline bool commands_resume(struct __sk_buff *skb, struct bpf_sock *sk, struct connection *c,
					    struct l7_connection *l, struct stream *s, const struct packet *p,
					    bool request)
{
	struct commands *q;
	u8 protocol;
	u64 word;

	if (s->slot || s->left < 4 || (s->left >= 8 && !source_word(skb, s, &word)))
		return false;
	if (s->left < 8 && bpf_skb_load_bytes(skb, s->offset, &word, 4))
		return false;
	if (s->left < 8)
		word &= LOW(4);
	protocol = c->l7;
	if (protocol_of_commands(protocol))
		protocol = commands_resumes(skb, s, protocol, word, request) ? protocol : 0;
	else if (commands_resumes(skb, s, PROTOCOL_REDIS, word, true))
		protocol = PROTOCOL_REDIS;
	else if (commands_resumes(skb, s, PROTOCOL_MEMCACHED, word, true))
		protocol = PROTOCOL_MEMCACHED;
	else if (commands_resumes(skb, s, PROTOCOL_POSTGRESQL, word, true))
		protocol = PROTOCOL_POSTGRESQL;
	else if (commands_resumes(skb, s, PROTOCOL_MYSQL, word, true))
		protocol = PROTOCOL_MYSQL;
	else if (commands_resumes(skb, s, PROTOCOL_KAFKA, word, true))
		protocol = PROTOCOL_KAFKA;
	else
		return false;
	if (!protocol)
		return false;
	c->l7 = protocol;
	if (!request) {
		/* not an answer to what was asked before: the server had got what waits */
		q = command_queues.sk_storage_get(sk, 0, 0);
		if (!q || !command_waits(q) || (s32)(p->ack - command_next(q)->seq) <= 0)
			return false;
	}
	if (!(c->flags & CONN_ADOPTED) || l->confirmed)
		COUNT(commands_resync);
	s->flags = 0;
	s->have = 0;
	s->state = STREAM_START;
	return true;
}

/*
 * May a stream whose framing was lost, or that is older than the programs, be picked up at these bytes, a segment's first ones?
 * Then it is.
 */
static __always_inline bool protocol_resync(struct __sk_buff *skb, struct bpf_sock *sk, struct connection *c,
					    struct l7_connection *l, struct stream *s, const struct packet *p,
					    bool request)
{
	u64 word;

	if (protocol_of_commands(c->l7) || (!l->confirmed && request)) {
		if (commands_resume(skb, sk, c, l, s, p, request))
			return true;
		if (protocol_of_commands(c->l7))
			return false;
	}
	if (c->l7 != PROTOCOL_HTTP2 && s->left >= 16 && source_word(skb, s, &word) &&
	    http1_resync_here(l, word, request)) {
		http1_resync(s);
		return true;
	}
	if ((c->l7 != PROTOCOL_HTTP2 && l->confirmed) || s->slot || !http2_tiles(skb, s->offset, s->left))
		return false;
	if (c->l7 != PROTOCOL_HTTP2) {
		COUNT(seen_http2);
		c->l7 = PROTOCOL_HTTP2;
		l->confirmed = 1;
	} else {
		COUNT(http_resync);
	}
	s->flags &= HTTP2_LOST;
	s->have = 0;
	s->state = STREAM_START;
	return true;
}

/* A whole segment of body can be passed over without a step. */
static __always_inline void protocol_pass_body(const struct connection *c, struct stream *s)
{
	if (protocol_of_commands(c->l7))
		commands_skip(s);
	else
		http1_skip_body(s);
}

/* Nothing of the request side's message is left unbooked or undecided but its answer. */
static __always_inline bool protocol_awaits_answer(const struct connection *c, const struct stream *s)
{
	if (protocol_of_commands(c->l7))
		return s->state == STREAM_START && s->flags & COMMANDS_AWAITS;
	return s->state == STREAM_START && s->flags & (c->l7 == PROTOCOL_HTTP2 ? HTTP2_AWAITS : HTTP1_PLACED);
}

/* The answer goes on: its bytes are booked with its end. */
static __always_inline bool protocol_answers(const struct connection *c, const struct stream *s)
{
	return c->l7 == PROTOCOL_HTTP2 && !s->request && s->flags & HTTP2_ANSWERS;
}

/* Which program has the next step. What has turned out to be none that is followed is led to its end by HTTP/1. */
static __always_inline enum next protocol_step(const struct connection *c)
{
	return c->l7 == PROTOCOL_HTTP2 || protocol_of_commands(c->l7) ? (enum next)c->l7 : (enum next)PROTOCOL_HTTP1;
}

/* Which program books what is in flight at the connection's end. */
static __always_inline enum next protocol_close(const struct connection *c)
{
	if (protocol_of_commands(c->l7))
		return NEXT_CLOSE_COMMANDS;
	return c->l7 == PROTOCOL_HTTP2 ? NEXT_CLOSE_HTTP2 : NEXT_CLOSE;
}

#endif
