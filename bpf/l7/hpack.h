/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/*
 * HPACK (RFC 7541): header blocks, one bounded turn over the bytes at hand after the other.
 *
 * Kept of a dynamic table is what its entries mean to us, not their text. References are relative to the newest entry, so that
 * whoever joins late knows all that is inserted from then on; what is older is unknown, and said to be.
 */
#ifndef SIDELIGHT_HPACK_H
#define SIDELIGHT_HPACK_H

#include "books/edge.h"
#include "l7/http1_head.h"

#define HPACK_FIXED 61	  /* entries of the static table */
#define HPACK_OVERHEAD 32 /* bytes that an entry counts beside its strings (4.1) */
#define HPACK_TABLE 4096  /* until a size update says otherwise (RFC 9113, 6.5.2) */
#define HPACK_ANY_SIZE 0x700000
#define HUFFMAN_STEPS 16 /* octets of a turn */
#define COPY_BYTES 32	 /* of a plain string in a turn */

enum header {
	HEADER_OTHER = 0,
	HEADER_METHOD = 1,
	HEADER_PATH = 2,
	HEADER_STATUS = 3,
	HEADER_GRPC_STATUS = 4,
	HEADER_CONTENT_TYPE = 5,
	HEADER_AUTHORITY = 6,
	HEADER_TRACEPARENT = 7,
	HEADER_GRPC_TIMEOUT = 8,
	HEADER_UNKNOWN = 9, /* its name is in an entry that is not known */
};

#define HEADER_RPC 0x80U /* with HEADER_PATH in an entry: its operation is a gRPC method, not a route */

enum hpack_phase {
	HPACK_FIELD = 0, /* between fields */
	HPACK_NUMBER = 1,
	HPACK_LENGTH = 2, /* of a string */
	HPACK_STRING = 3,
};

enum hpack_how { HPACK_INDEXED = 0, HPACK_INSERT = 1, HPACK_SIZE = 2, HPACK_LITERAL = 3 };

/* Why an exchange has no name. */
enum unnamed {
	UNNAMED_BEFORE = 1, /* its fields refer to what was said before the programs were there */
	UNNAMED_SYNC = 2,   /* ... or in a segment that was lost */
	UNNAMED_LONG = 4,
};

static __always_inline struct hpack_tables *hpack_fixed(void)
{
	u32 zero = 0;

	return hpack_tables.lookup(&zero);
}

static __always_inline void hpack_begin(struct http2_direction *d, bool from_the_start)
{
	d->table_size = from_the_start ? HPACK_TABLE : HPACK_ANY_SIZE;
	d->why = from_the_start ? UNNAMED_SYNC : UNNAMED_BEFORE;
	if (!d->frame_most)
		d->frame_most = 1 << 14; /* until the other side's SETTINGS, which may have come first */
}

/* What has been inserted is not known any more; what follows is. */
static __always_inline void hpack_forget(struct http2_direction *d)
{
	d->base = d->inserted;
	d->why = UNNAMED_SYNC;
	d->in_block = 0;
	d->phase = HPACK_FIELD;
}

static __always_inline void hpack_evict(struct http2_direction *d)
{
	u32 low = d->total - d->table_size;

	if ((s32)(low - d->low) > 0)
		d->low = low;
}

static __always_inline void hpack_insert(struct http2_direction *d, u32 kind, u32 value, u32 size)
{
	struct hpack_entry *e = &d->entries[d->inserted & (HPACK_ENTRIES - 1)];

	if (size > d->table_size) {
		d->low = d->total; /* empties the table (4.4) */
		return;
	}
	e->value = value;
	e->start = kind << 24 | (d->total & 0xffffff);
	d->inserted++;
	d->total += size;
	hpack_evict(d);
}

/* The number of the entry that an index above the static table means, if it is known. Else false, and why in d->unknown. */
static __always_inline bool hpack_entry(struct http2_direction *d, u32 index, u32 *number)
{
	u32 back = index - HPACK_FIXED - 1;
	u32 start;

	if (back >= d->inserted - d->base) {
		d->unknown |= d->why;
		if (!d->base && d->why == UNNAMED_SYNC)
			COUNT(http2_bad_index); /* nothing has been lost, and it was never said */
		return false;
	}
	if (back >= HPACK_ENTRIES) {
		d->unknown |= UNNAMED_LONG;
		return false;
	}
	*number = d->inserted - 1 - back;
	start = d->entries[*number & (HPACK_ENTRIES - 1)].start;
	if (((start - d->low) & 0xffffff) >= 0x800000) {
		/* nobody refers to what has been evicted: we are out of step */
		COUNT(http2_bad_index);
		d->base = d->inserted;
		d->why = UNNAMED_SYNC;
		d->unknown |= UNNAMED_SYNC;
		return false;
	}
	return true;
}

/* 1 where the word begins with the `n` characters of `name`. */
#define NAMED(word, name, n) (((word) ^ (name)) << (64 - 8 * (n)) == 0)

static __always_inline u32 hpack_name(const u8 *text, u32 length)
{
	u64 w = load8(text), v = load8(text + 8);

	if (length == 5 && NAMED(w, WORD(':', 'p', 'a', 't', 'h', 0, 0, 0), 5))
		return HEADER_PATH;
	if (length == 7 && NAMED(w, WORD(':', 'm', 'e', 't', 'h', 'o', 'd', 0), 7))
		return HEADER_METHOD;
	if (length == 7 && NAMED(w, WORD(':', 's', 't', 'a', 't', 'u', 's', 0), 7))
		return HEADER_STATUS;
	if (length == 10 && w == WORD(':', 'a', 'u', 't', 'h', 'o', 'r', 'i') &&
	    NAMED(v, WORD('t', 'y', 0, 0, 0, 0, 0, 0), 2))
		return HEADER_AUTHORITY;
	if (length == 11 && w == WORD('g', 'r', 'p', 'c', '-', 's', 't', 'a') &&
	    NAMED(v, WORD('t', 'u', 's', 0, 0, 0, 0, 0), 3))
		return HEADER_GRPC_STATUS;
	if (length == 11 && w == WORD_TRACEPAR && NAMED(v, WORD('e', 'n', 't', 0, 0, 0, 0, 0), 3))
		return HEADER_TRACEPARENT;
	if (length == 12 && w == WORD_CONTENT && NAMED(v, WORD('t', 'y', 'p', 'e', 0, 0, 0, 0), 4))
		return HEADER_CONTENT_TYPE;
	if (length == 12 && w == WORD('g', 'r', 'p', 'c', '-', 't', 'i', 'm') &&
	    NAMED(v, WORD('e', 'o', 'u', 't', 0, 0, 0, 0), 4))
		return HEADER_GRPC_TIMEOUT;
	return HEADER_OTHER;
}

/* The leading digits of a text, eight at most; *end is where they end. */
static __always_inline u64 hpack_digits(const u8 *text, u64 length, u64 *end)
{
	u64 value = 0, digits = 0, going = 1;

#pragma unroll
	for (int i = 0; i < 8; i++) {
		u64 digit = (u8)(text[i] - '0');

		going &= below(i, length) & below(digit, 10);
		value = choose(going, value * 10 + digit, value);
		digits += going;
	}
	*end = digits;
	return value;
}

/* One octet's number of the field has come whole: what its phase goes on with. */
static __always_inline void hpack_string_begins(struct http2_direction *d)
{
	d->string_left = d->number;
	d->length = 0;
	d->huffman_state = 0;
	/* decoded is what says something to us, and what is inserted: its size counts */
	d->skipped = !d->naming && (d->kind == HEADER_OTHER || d->kind == HEADER_UNKNOWN) &&
		     (!d->huffman || d->how == HPACK_LITERAL);
	if (d->skipped)
		d->length = d->number;
	d->phase = HPACK_STRING;
}

/* Passes over, copies or decodes what the window has of the string, a bounded piece of it. */
static __always_inline void hpack_string(struct stream *s, struct http2_direction *d)
{
	u32 n = HAVE(s) - d->at;

	if (n > d->string_left)
		n = d->string_left;
	if (d->skipped) {
		/* nothing to do */
	} else if (!d->huffman) {
		u64 to = d->length < HPACK_TEXT ? d->length : HPACK_TEXT;

		if (n > COPY_BYTES)
			n = COPY_BYTES;
		BOUND_INDEX(to, 256);
#pragma unroll
		for (int i = 0; i < COPY_BYTES; i += 8)
			*(u64 *)(d->text + to + i) = load8(s->window + at(d->at) + i);
		d->length += n;
	} else {
		struct hpack_tables *tables = hpack_fixed();
		volatile u8 *state = &d->huffman_state;
		volatile u32 *length = &d->length;
		volatile u16 *octets = &d->octets; /* read afresh: the compiler would make one bound of two */

		if (n > HUFFMAN_STEPS)
			n = HUFFMAN_STEPS;
		if (!tables)
			n = 0;
		*octets = n;
#pragma clang loop unroll(disable)
		for (u32 i = 0; i < HUFFMAN_STEPS; i++) {
			u64 octet, to, step;

			if (i >= *octets || !tables)
				break;
			octet = s->window[at(d->at + i)];
#pragma unroll
			for (int half = 4; half >= 0; half -= 4) {
				u64 entry = (u64)*state << 4 | (octet >> half & 15);

				BOUND_MASK(entry, 4095);
				step = tables->huffman[entry];
				to = *length;
				to = choose(below(to, HPACK_TEXT), to, HPACK_TEXT);
				BOUND_MASK(to, 511);
				d->text[to] = step >> 8;
				*length += step >> 16 & 1;
				*state = step;
			}
		}
		if (!tables)
			n = d->string_left;
	}
	d->at += n;
	d->string_left -= n;
}

#endif
