/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/*
 * HTTP routes: the path of a request line as an operation, opt-in (settings.routes).
 *
 * Templates of the configuration win: a table of transitions from segment to segment (map `route_steps`), which the agent has
 * made deterministic. Else segments that are numbers, UUIDs, long hexadecimal or contain '@' fold to `*`. agent/routes.py
 * gives the same answers; tests/fuzz/test_routes.py holds the two together.
 *
 * A path of `ROUTE_BYTES` or more has no operation: counted. A character costs no branch but the loop's own, see words.h.
 */
#ifndef SIDELIGHT_ROUTE_H
#define SIDELIGHT_ROUTE_H

#include "l7/http1_head.h"

#define ROUTES_FOLD 1 /* bits of settings.routes */
#define ROUTES_TEMPLATES 2
#define ROUTE_ROOT 1 /* the first state; 0 is none */
#define STEP_ANY 0   /* the transition for any segment; hashes of segments are none of these */
#define STEP_END 1   /* leads to the operation's id when the path ends here */
#define LONG_HEX 16  /* digits that are no word any more */
#define UUID_BYTES 36

/* 1 where the byte is `c`, else 0. */
static __always_inline u64 is_byte(u64 byte, u8 c)
{
	return below(byte ^ c, 1);
}

/* 1 where the segment is one that says which, not what. */
static __always_inline u64 segment_folds(const struct path_segment *g)
{
	u64 some = below(0, g->length), number = some & below(g->length, g->digits + 1);
	u64 hex = below(g->length, g->hex + 1) & below(LONG_HEX - 1, g->length) & below(0, g->digits);
	u64 uuid = is_byte(g->length, UUID_BYTES) & is_byte(g->dashes, 4) & is_byte(g->hex, UUID_BYTES - 4);

	return below(0, number + hex + uuid + g->ats);
}

/* One more character of a path; 1 where it ends it. `out`: characters of r->text so far, `segments`: of r->hashes. */
static __always_inline u64 path_character(struct route *r, struct path_segment *g, u64 *out, u64 *segments, u64 c)
{
	u64 over = is_byte(c, ' ') + is_byte(c, '?') + is_byte(c, '#') + is_byte(c, '\r') + is_byte(c, '\n');
	u64 cut = is_byte(c, '/') + over, place, digit, fold;

	/* a segment ends: where it folds, `*` takes its place */
	fold = cut & segment_folds(g);
	place = choose(fold, g->at, ROUTE_BYTES);
	BOUND_MASK(place, 255);
	r->text[place] = '*';
	*out = choose(fold, g->at + 1, *out);
	place = choose(cut, *segments, ROUTE_SEGMENTS);
	BOUND_MASK(place, 31);
	r->hashes[place] = g->hash;
	*segments += cut;
	if (over)
		return 1;
	place = *out;
	BOUND_MASK(place, 255);
	r->text[place] = c;
	*out += 1;
	digit = below((u8)(c - '0'), 10);
	g->at = choose(cut, *out, g->at);
	g->length = choose(cut, 0, g->length + 1);
	g->digits = choose(cut, 0, g->digits + digit);
	g->hex = choose(cut, 0, g->hex + digit + below((u8)((c | 0x20) - 'a'), 6));
	g->dashes = choose(cut, 0, g->dashes + is_byte(c, '-'));
	g->ats = choose(cut, 0, g->ats + is_byte(c, '@'));
	g->hash = choose(cut, HASH_SEED, hash_word(g->hash, c));
	return 0;
}

/* The path of window[path..end) into r: its text, folded, and the hash of each segment as it stands. False: too long. */
static __always_inline bool route_fold(struct stream *s, struct route *r, u64 path)
{
	struct path_segment g = {.hash = HASH_SEED};
	u64 out = 0, segments = 0;

#pragma clang loop unroll(disable)
	for (int i = 0; i < ROUTE_BYTES; i++) {
		if (path_character(r, &g, &out, &segments, s->window[at(path + i)])) {
			*(volatile u32 *)&r->length = out;
			*(volatile u32 *)&r->segments = segments;
			return true;
		}
	}
	return false;
}

/* The template's operation, 0 when none fits. The first segment is what stands before the first slash. */
static __always_inline u32 route_template(const struct route *r)
{
	volatile u32 *segments =
	    (volatile u32 *)&r->segments; /* read afresh: the compiler would make one bound of two */
	struct route_step step = {.state = ROUTE_ROOT};
	u32 *found;

#pragma clang loop unroll(disable)
	for (u32 i = 1; i < ROUTE_SEGMENTS; i++) {
		if (i >= *segments)
			break;
		step.segment = r->hashes[i];
		found = route_steps.lookup(&step);
		if (!found) {
			step.segment = STEP_ANY;
			found = route_steps.lookup(&step);
		}
		if (!found)
			return 0;
		step.state = *found;
	}
	if (*segments > ROUTE_SEGMENTS)
		return 0;
	step.segment = STEP_END;
	found = route_steps.lookup(&step);
	return found ? *found : 0;
}

/* The operation of the request line in the window, which goes to the newest exchange. */
static __always_inline void route_find(void *ctx, struct bpf_sock *sk, struct connection *c, struct l7_connection *l,
				       struct stream *s)
{
	struct settings *set = current_settings();
	struct route *r = routes.sk_storage_get(sk, 0, BPF_SK_STORAGE_GET_F_CREATE);
	volatile u16 *path = &s->line_end;
	u32 id = 0;

	COUNT(seen_operations);
	if (!r || !set) {
		COUNT(lost_operation_storage);
		return;
	}
	/* the target stands behind the method; only a path has segments, "*" and the other forms have none (RFC 9112, 3.2) */
	*path = 0;
#pragma clang loop unroll(disable)
	for (u32 i = 0; i < 24; i++)
		if (s->window[at(i)] == ' ') {
			*path = i + 1;
			break;
		}
	if (s->window[at(*path)] != '/') {
		COUNT(operation_none);
		return;
	}
	if (!route_fold(s, r, *path)) {
		COUNT(operation_too_long);
		return;
	}
	if (set->routes & ROUTES_TEMPLATES)
		id = route_template(r);
	if (id)
		COUNT(operation_named);
	else if (set->routes & ROUTES_FOLD)
		id = operation_of(ctx, c, PROTOCOL_HTTP1, r->text, *(volatile u32 *)&r->length);
	else
		COUNT(operation_none);
	l->exchanges[NEWEST(l)].operation = id;
}

#endif
