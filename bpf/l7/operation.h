/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/*
 * Operations: what an exchange does, by the text that names it (an HTTP route; later a gRPC method, an SQL verb, a topic).
 *
 * A text never gets into a key: its hash does, as long as there is room among the operations that count apart (map
 * `operations`, whose size is the budget). Each new one is announced to the agent in an event, and again with each
 * exchange until that got through. Beyond the budget an exchange counts under 0: folded, and counted as such.
 */
#ifndef SIDELIGHT_OPERATION_H
#define SIDELIGHT_OPERATION_H

#include "books/events.h"

#define HASH_SEED 0xcbf29ce484222325ULL
#define HASH_FACTOR 0x9e3779b97f4a7c15ULL

/* One more word of a text; agent/operations.py has the same. */
static __always_inline u64 hash_word(u64 hash, u64 word)
{
	hash = (hash ^ word) * HASH_FACTOR;
	return hash ^ hash >> 29;
}

static __always_inline bool operation_announce(void *ctx, struct connection *c, u8 protocol, u32 id)
{
	struct operation_text *text = operation_texts.lookup(&id);
	struct settings *set = current_settings();
	u64 now = bpf_ktime_get_ns();
	struct operation_event *e;

	if (!text || !set || !event_allowed(set, TOKENS_PAYLOAD, set->payload_rate, now))
		return false;
	e = events.ringbuf_reserve(sizeof(*e));
	if (!e) {
		COUNT(lost_event_ring_full);
		return false;
	}
	event_fill(&e->event, c, EVENT_OPERATION, now, bpf_get_socket_cookie(ctx));
	e->event.operation = id;
	e->event.method = protocol;
	e->event.text_length = OPERATION_BYTES;
	__builtin_memcpy(e->text, text->text, OPERATION_BYTES);
	events.ringbuf_submit(e, NO_WAKEUP);
	COUNT(sent_events);
	return true;
}

/* Counts under an operation that is known; tells the agent until that got through. 0 when it has had to make room. */
static __always_inline u32 operation_again(void *ctx, struct connection *c, u8 protocol, u32 id)
{
	struct operation_value *known = operations.lookup(&id);

	if (!known) {
		COUNT(operation_folded);
		return 0;
	}
	if (!known->announced && operation_announce(ctx, c, protocol, id))
		known->announced = 1;
	COUNT(operation_named);
	return id;
}

/* The id to count under. `text` has OPERATION_BYTES bytes, zeros behind its length; `hash` is of all of them. */
static __always_inline u32 operation_id(void *ctx, struct connection *c, u8 protocol, u64 hash, u8 *text)
{
	struct operation_value fresh = {.check = (u32)hash}, *known;
	u32 id = hash >> 32;

	id += id == 0;
	known = operations.lookup(&id);
	if (!known) {
		operation_texts.update(&id, (struct operation_text *)text);
		operations.insert(&id, &fresh);
		known = operations.lookup(&id);
	}
	if (!known || known->check != (u32)hash) {
		COUNT(operation_folded); /* no room, or another text has this id */
		return 0;
	}
	return operation_again(ctx, c, protocol, id);
}

/* The id of a text of which OPERATION_BYTES can be read and written: what is behind its length becomes zeros. */
static __always_inline u32 operation_of(void *ctx, struct connection *c, u8 protocol, u8 *text, u64 length)
{
	u64 hash = HASH_SEED;

	if (length > OPERATION_BYTES) {
		COUNT(operation_too_long);
		return 0;
	}
#pragma unroll
	for (int i = 0; i < OPERATION_BYTES; i += 8) {
		u64 word = load_within(text + i, i, length);

		*(u64 *)(text + i) = word;
		hash = hash_word(hash, word);
	}
	return operation_id(ctx, c, protocol, hash, text);
}

#endif
