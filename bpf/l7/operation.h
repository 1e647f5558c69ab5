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

static __always_inline bool operation_announce(void *ctx, struct connection *c, u8 protocol, u32 id, const u8 *text,
					       u32 length)
{
	struct settings *set = current_settings();
	u64 now = bpf_ktime_get_ns();
	struct operation_event *e;

	if (!set || !event_allowed(set, TOKENS_PAYLOAD, set->payload_rate, now))
		return false;
	e = events.ringbuf_reserve(sizeof(*e));
	if (!e) {
		COUNT(lost_event_ring_full);
		return false;
	}
	event_fill(&e->event, c, EVENT_OPERATION, now, bpf_get_socket_cookie(ctx));
	e->event.operation = id;
	e->event.method = protocol;
	e->event.text_length = length;
#pragma unroll
	for (int i = 0; i < OPERATION_BYTES; i += 8)
		*(u64 *)(e->text + i) = load8(text + i);
	events.ringbuf_submit(e, NO_WAKEUP);
	COUNT(sent_events);
	return true;
}

/* The id to count under. `text` has OPERATION_BYTES bytes, zeros behind its length; `hash` is of all of them. */
static __always_inline u32 operation_id(void *ctx, struct connection *c, u8 protocol, u64 hash, const u8 *text,
					u32 length)
{
	struct operation_value fresh = {.check = (u32)hash}, *known;
	u32 id = hash >> 32;

	id += id == 0;
	known = operations.lookup(&id);
	if (!known) {
		operations.insert(&id, &fresh);
		known = operations.lookup(&id);
		if (!known) {
			COUNT(operation_folded);
			return 0;
		}
	}
	if (known->check != (u32)hash) {
		COUNT(operation_folded); /* another text has this id */
		return 0;
	}
	if (!known->announced && operation_announce(ctx, c, protocol, id, text, length))
		known->announced = 1;
	COUNT(operation_named);
	return id;
}

#endif
