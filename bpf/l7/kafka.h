/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/*
 * Kafka's protocol (kafka.apache.org/protocol): requests by api key and version, answered in their order, told by their correlation id.
 * A request's topic is its operation, where it is the first one named; an answer's status is its first error.
 */
#ifndef SIDELIGHT_KAFKA_H
#define SIDELIGHT_KAFKA_H

#include "l7/commands.h"

enum kafka_state {
	KAFKA_LOOK = STREAM_OWN, /* the start of a message that says something */
	KAFKA_SEEK,		 /* which request an answer belongs to */
};

#define KAFKA_HEADER 14 /* of a request: length, key, version, correlation id, length of the client's name */
#define KAFKA_ANSWER 8	/* of an answer: length, correlation id */
#define KAFKA_WANT 384	/* bytes looked at of a request's rest */
#define KAFKA_WANT_ANSWER 320
#define KAFKA_MOST (1 << 28)
#define KAFKA_KEYS 100
#define KAFKA_VERSIONS 24
#define KAFKA_PRODUCE 0
#define KAFKA_FETCH 1
#define KAFKA_METADATA 3
#define KAFKA_JOIN_GROUP 11
#define KAFKA_SASL 17
#define KAFKA_API_VERSIONS 18
#define KAFKA_INIT_PRODUCER 22 /* from here on every version has throttle times */

/* Flags of an api key in the words' map: from which version on it is flexible, and << 5 where its answer has an error. */
#define KAFKA_FLEXIBLE 31
enum kafka_error {
	KAFKA_ERROR_NONE = 0,
	KAFKA_ERROR_FIRST = 1,
	KAFKA_ERROR_THROTTLED = 2,
	KAFKA_ERROR_PRODUCE = 3,
	KAFKA_ERROR_FETCH = 4
};

static __always_inline bool kafka_header(u32 length, u16 key, u16 version)
{
	return length >= 10 && length < KAFKA_MOST && key < KAFKA_KEYS && version < KAFKA_VERSIONS;
}

/* What a client begins with: it asks for versions, for how to log in, or for metadata. */
static __always_inline bool kafka_begins(const u8 *first)
{
	u16 key = be16(first + 4), version = be16(first + 6);

	return be32(first) < 1 << 16 && kafka_header(be32(first), key, version) &&
	       (key == KAFKA_API_VERSIONS || (key == KAFKA_SASL && version < 2) || (key == KAFKA_METADATA && version));
}

/* A segment of `left` bytes that is a request, or begins like an answer. */
static __always_inline bool kafka_resumes(u64 first, u32 left, bool request)
{
	u32 length = __builtin_bswap32((u32)first);

	if (!request)
		return length >= 4 && length < KAFKA_MOST;
	return length + 4 == left &&
	       kafka_header(length, __builtin_bswap16((u16)(first >> 32)), __builtin_bswap16((u16)(first >> 48)));
}

/* -- fields ------------------------------------------------------------------------------------------------------------- */

/* Passes over a string, or reads its length: of flexible versions in one byte. False where it is longer than we look. */
static __always_inline bool kafka_text(const struct stream *s, u64 *at_, bool flexible, u64 *length)
{
	u64 from = at(*at_), n;

	if (flexible) {
		n = s->window[from];
		*at_ = from + 1;
		n -= n != 0;
	} else {
		n = be16(s->window + from);
		n = n == 0xffff ? 0 : n;
		*at_ = from + 2;
	}
	*length = n;
	return n < 128;
}

/* Passes over a number of elements; whether there is any. */
static __always_inline bool kafka_some(const struct stream *s, u64 *at_, bool flexible)
{
	u64 from = at(*at_);

	*at_ = from + (flexible ? 1 : 4);
	if (flexible)
		return s->window[from] > 1;
	return be32(s->window + from) && !(s->window[from] >> 7);
}

/* -- what is asked ------------------------------------------------------------------------------------------------------ */

/* The topic that a request to produce or to fetch names first: its operation. */
static __always_inline u32 kafka_topic(struct command_turn *t, struct stream *s, u64 from, bool flexible, u16 version)
{
	u64 length, have = s->length;

	COUNT(seen_operations);
	if (!kafka_some(s, &from, flexible) || version >= 13 || !kafka_text(s, &from, flexible, &length) || !length ||
	    from + length > have) {
		COUNT(operation_none); /* an incremental fetch names none, newer versions name an id */
		return 0;
	}
	BOUND_INDEX(from, 384);
	return operation_of(t->ctx, t->c, PROTOCOL_KAFKA, s->window + from, length);
}

/* The client's name and the body's start are in the window. */
static __always_inline void kafka_request(struct command_turn *t, struct commands *p, struct stream *s)
{
	u8 key = p->parts, version = p->part;
	bool flexible = p->fresh.more & 1, produce = key == KAFKA_PRODUCE, silent = false;
	u64 from = p->asked_words.word, length;

	if (flexible)
		from++; /* tagged fields: none */
	if ((produce || key == KAFKA_FETCH) && from < 256) {
		if (produce) {
			if (version >= 3 && kafka_text(s, &from, flexible, &length))
				from += length;
			silent = be16(s->window + at(from)) == 0;
			from += 6;
		} else {
			from += version >= 15 ? 8 : 12;
			from += (version >= 3 ? 4 : 0) + (version >= 4 ? 1 : 0) + (version >= 7 ? 8 : 0);
		}
		p->fresh.operation = kafka_topic(t, s, from, flexible, version);
	}
	if (silent)
		command_silent(t->c, p);
	else
		command_wait(p, s);
}

/* A request's header is in the window. */
static __always_inline void kafka_request_header(struct command_turn *t, struct commands *p, struct stream *s)
{
	struct word_key word = {.text = {1 + be16(s->window + 4)}, .protocol = PROTOCOL_KAFKA, .kind = WORDS_CODES};
	u32 length = be32(s->window), *known;
	u16 key = be16(s->window + 4), version = be16(s->window + 6), name = be16(s->window + 12);
	u32 flags;

	s->have = 0;
	if (!kafka_header(length, key, version)) {
		commands_lose(t->c, s, p, true);
		return;
	}
	known = words.lookup(&word);
	flags = known ? *known >> 8 : KAFKA_FLEXIBLE;
	command_asks(p, s, flags >> 5, known ? *known : 0);
	p->fresh.more = (flags & 31) != KAFKA_FLEXIBLE && version >= (flags & 31);
	p->fresh.id = be32(s->window + 8);
	p->parts = key;
	p->part = version;
	p->asked_words.word = name == 0xffff ? 0 : name; /* bytes of it before the body */
	/* what the answer's reader needs of it */
	p->fresh.more |= (u16)(version << 1) | (u16)(key << 8);
	s->remaining = length - 10;
	s->state = s->remaining ? KAFKA_LOOK : STREAM_START;
	if (!s->remaining)
		command_wait(p, s);
}

/* -- what is answered --------------------------------------------------------------------------------------------------- */

/* The first error in the answer's start, as a status. */
static __always_inline u16 kafka_status(const struct stream *s, const struct command *e)
{
	u8 kind = e->flags & COMMAND_KIND, version = e->more >> 1 & 127, key = e->more >> 8;
	bool flexible = e->more & 1;
	u64 from = flexible && key != KAFKA_API_VERSIONS, length, have = s->length;
	u16 error = 0;

	if (kind == KAFKA_ERROR_THROTTLED)
		from += version >= (key == KAFKA_JOIN_GROUP ? 2 : key < KAFKA_INIT_PRODUCER ? 1 : 0) ? 4 : 0;
	if (kind == KAFKA_ERROR_FETCH && version >= 1)
		from += 4;
	if (kind == KAFKA_ERROR_FIRST || kind == KAFKA_ERROR_THROTTLED || (kind == KAFKA_ERROR_FETCH && version >= 7)) {
		if (from + 2 <= have)
			error = be16(s->window + at(from));
		from += 6;
	}
	if (!error && (kind == KAFKA_ERROR_PRODUCE || kind == KAFKA_ERROR_FETCH) && kafka_some(s, &from, flexible)) {
		if (version >= 13)
			length = 16;
		else if (!kafka_text(s, &from, flexible, &length))
			return STATUS_OK;
		from += length;
		if (kafka_some(s, &from, flexible) && from + 6 <= have)
			error = be16(s->window + at(from + 4));
	}
	if (!error)
		return STATUS_OK;
	return error == 0xffff ? STATUS_OTHER : STATUS_OTHER + error; /* -1: the server does not know either */
}

/* What the answer says, for its end. */
static __always_inline void kafka_answer(struct commands *p, u16 status)
{
	p->status = status;
	p->first = 1;
}

/* Whose answer is it? Requests that are older have none. */
static __always_inline void kafka_seek(struct command_turn *t, struct commands *p, struct stream *s)
{
	s32 behind = (s32)(p->more - command_next(p)->id);

	if (command_waits(p) && behind > 0) {
		command_answered(p, DUE_NEXT, STATUS_SILENT, false);
		return;
	}
	p->begun = 1;
	p->first_ns = t->now;
	if (!command_waits(p) && p->untimed_tail != *(volatile u32 *)&p->untimed_head)
		command_answered(p, DUE_NEXT, STATUS_UNREAD, false);
	else if (!command_waits(p) || behind)
		COUNT(exchange_unmatched);
	else if (s->remaining) {
		s->state = KAFKA_LOOK;
		return;
	} else
		command_answered(p, DUE_NEXT, STATUS_OK, false);
	s->state = s->remaining ? STREAM_BODY : STREAM_START;
}

/* -- turns -------------------------------------------------------------------------------------------------------------- */

/* One turn, as a callback. 1 when the bytes at hand, and the kept ones behind them, are used up. */
int kafka_turn(struct command_turn *t)
{
	struct commands *p;
	struct stream *s;
	u64 want;

	if (commands_lack(t))
		return 1;
	s = t->s;
	p = t->p;
	if (s->state != KAFKA_SEEK && !(s->state == STREAM_BODY && !s->remaining) && !commands_bytes(t, s))
		return 1;
	switch (s->state) {
	case KAFKA_SEEK:
		kafka_seek(t, p, s);
		break;
	case STREAM_START:
		if (!HAVE(s)) {
			s->started_ns = t->now;
			s->started_seq = s->next - s->left;
		}
		if (REQUEST(s)) {
			if (commands_fill(t, s, KAFKA_HEADER))
				kafka_request_header(t, p, s);
		} else if (commands_fill(t, s, KAFKA_ANSWER)) {
			u32 length = be32(s->window);

			p->more = be32(s->window + 4);
			s->have = 0;
			s->remaining = length - 4;
			s->state = KAFKA_SEEK;
			if (length < 4 || length > KAFKA_MOST)
				commands_lose(t->c, s, p, false);
			t->l->confirmed = 1;
		}
		break;
	case KAFKA_LOOK:
		want = REQUEST(s) ? KAFKA_WANT : KAFKA_WANT_ANSWER;
		if (s->remaining < want)
			want = s->remaining;
		if (!commands_fill(t, s, want))
			break;
		s->length = HAVE(s);
		s->remaining -= HAVE(s);
		s->have = 0;
		s->state = STREAM_BODY;
		if (REQUEST(s))
			kafka_request(t, p, s);
		else
			kafka_answer(p, kafka_status(s, command_next(p)));
		break;
	case STREAM_BODY:
		if (s->remaining && !commands_skip(s))
			break;
		s->state = STREAM_START;
		if (!REQUEST(s) && p->begun && p->first)
			command_answered(p, DUE_NEXT, p->status, p->status != STATUS_OK);
		if (!REQUEST(s)) {
			p->begun = 0;
			p->first = 0;
		}
		break;
	default:
		commands_lose(t->c, s, p, REQUEST(s));
	}
	return command_due(t, p, s);
}

static __always_inline void kafka_run(struct command_turn *t)
{
	STEPS(COMMAND_TURNS, 16, kafka_turn, t);
}

#endif
