/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/*
 * HTTP/2 (RFC 9113), clear text: with prior knowledge, upgraded to (h2c), or met in the middle.
 *
 *   PREFACE -> START (a frame's header) -> PREFIX -> BLOCK | BODY | MESSAGES -> START
 *                                       -> SETTINGS | RESET | PASS           -> START
 *
 * A turn deals with one of these, or with a bounded piece of it; a run makes turns until the bytes at hand are used up. Frames,
 * header blocks and strings may be cut anywhere. A direction that missed bytes goes to RESYNC: only frames that tile a segment
 * are believed again, and what had been inserted into its table is unknown from then on.
 */
#ifndef SIDELIGHT_HTTP2_H
#define SIDELIGHT_HTTP2_H

#include "l7/http2_stream.h"

#define FRAME_HEADER 9
#define PREFACE 24
#define PREFACE_REST 8						/* behind what looks like a request line of HTTP/1 */
#define WORD_2_0 WORD('T', 'P', '/', '2', '.', '0', '\r', '\n') /* behind WORD_PRI */
#define TILES 6							/* frames looked at to believe a segment */
#define HTTP2_TURNS (1 << 17)
#define FIELD_STEPS 8
#define CLOSE_TURNS (1 << 14) /* of a run at the connection's end */
#define CLOSE_RUNS 30	      /* of the 33 tail calls that the kernel allows */
#define SETTING_MAX_FRAME_SIZE 5

enum frame_type {
	FRAME_DATA = 0,
	FRAME_HEADERS = 1,
	FRAME_PRIORITY = 2,
	FRAME_RST_STREAM = 3,
	FRAME_SETTINGS = 4,
	FRAME_PUSH_PROMISE = 5,
	FRAME_PING = 6,
	FRAME_GOAWAY = 7,
	FRAME_WINDOW_UPDATE = 8,
	FRAME_CONTINUATION = 9,
};

enum frame_flags {
	FRAME_END_STREAM = 1,
	FRAME_ACK = 1,
	FRAME_END_HEADERS = 4,
	FRAME_PADDED = 8,
	FRAME_PRIORITIZED = 0x20
};

/* Of struct stream, with this protocol. */
enum http2_flags {
	HTTP2_LOST = 1,	       /* its framing has been lost: to be taken notice of */
	HTTP2_ENDED = 2,       /* the frame at hand ends its stream */
	HTTP2_AWAITS = 4,      /* the last frame ended a request: its bytes can wait for the answer */
	HTTP2_COUNTED = 8,     /* the frame's messages go back to its stream */
	HTTP2_ANSWERS = 32,    /* an answer has begun: its bytes can wait for its end */
	HTTP2_NAMED_LATE = 16, /* the frame said that its stream is gRPC */
};

static __always_inline bool http2_frame_plausible(u32 length, u8 type, u8 flags, u32 id)
{
	u32 on_stream = 1 << FRAME_DATA | 1 << FRAME_HEADERS | 1 << FRAME_PRIORITY | 1 << FRAME_RST_STREAM |
			1 << FRAME_PUSH_PROMISE | 1 << FRAME_CONTINUATION;
	u32 on_connection = 1 << FRAME_SETTINGS | 1 << FRAME_PING | 1 << FRAME_GOAWAY;

	if (type > FRAME_CONTINUATION || length > 1 << 20 || id >> 31)
		return false;
	if ((on_stream >> type & 1 && !id) || (on_connection >> type & 1 && id))
		return false;
	switch (type) {
	case FRAME_DATA:
		return !(flags & ~(FRAME_END_STREAM | FRAME_PADDED));
	case FRAME_HEADERS:
		return !(flags & ~(FRAME_END_STREAM | FRAME_END_HEADERS | FRAME_PADDED | FRAME_PRIORITIZED));
	case FRAME_SETTINGS:
		return !(flags & ~FRAME_ACK) && length % 6 == 0 && (!flags || !length);
	case FRAME_PING:
		return !(flags & ~FRAME_ACK) && length == 8;
	case FRAME_RST_STREAM:
	case FRAME_WINDOW_UPDATE:
		return !flags && length == 4;
	case FRAME_PRIORITY:
		return !flags && length == 5;
	case FRAME_GOAWAY:
		return !flags && length >= 8;
	}
	return true;
}

/*
 * Do frames tile the segment's `left` bytes at `offset`: to its very end, or two of them at least? Not from the middle of a
 * header block on, which nobody could read.
 */
static __always_inline bool http2_tiles(struct __sk_buff *skb, u32 offset, u32 left)
{
	u8 header[FRAME_HEADER];

#pragma clang loop unroll(disable)
	for (u32 i = 0; i < TILES; i++) {
		u32 length;

		if (left < FRAME_HEADER)
			return i > 1;
		if (bpf_skb_load_bytes(skb, offset, header, FRAME_HEADER))
			return false;
		length = be32(header) >> 8;
		if ((!i && header[3] == FRAME_CONTINUATION) ||
		    !http2_frame_plausible(length, header[3], header[4], be32(header + 5)))
			return false;
		length += FRAME_HEADER;
		if (length == left)
			return true;
		if (length > left)
			return i > 0;
		left -= length;
		offset += length;
	}
	return true;
}

/* Could a server's first bytes be the frame of SETTINGS that HTTP/2 begins with? */
static __always_inline bool http2_server_begins(struct __sk_buff *skb, u32 offset, u32 left)
{
	u8 header[FRAME_HEADER];

	if (left < FRAME_HEADER || bpf_skb_load_bytes(skb, offset, header, FRAME_HEADER))
		return false;
	return header[0] == 0 && header[1] == 0 && header[2] % 6 == 0 && header[3] == FRAME_SETTINGS && !header[4] &&
	       !be32(header + 5);
}

static __always_inline void http2_begin_stream(struct stream *s, bool request)
{
	s->flags = 0;
	s->have = 0;
	s->state = request ? HTTP2_PREFACE : STREAM_START;
	s->remaining = PREFACE;
}

static __always_inline void http2_lose_sync(struct stream *s)
{
	COUNT(lost_http_sync);
	s->state = STREAM_RESYNC;
	s->flags |= HTTP2_LOST;
	s->have = 0;
	s->left = 0;
}

/* The gap before a segment, if it is all of a body that nobody looks at. */
static __always_inline bool http2_pass_gap(struct stream *s, u32 gap)
{
	if (s->state == STREAM_DEAD || s->state == STREAM_RESYNC) {
		s->have = 0;
		return true;
	}
	if (s->state != STREAM_BODY || s->remaining <= gap)
		return false;
	s->remaining -= gap;
	s->body_bytes += gap;
	return true;
}

/* -- what a header says ------------------------------------------------------------------------------------------------- */

static __always_inline u32 http2_host_hash(const u8 *text)
{
	u64 hash = HASH_SEED;

#pragma unroll
	for (int i = 0; i < HOST_BYTES; i += 8)
		hash = hash_word(hash, load8(text + i));
	return hash >> 32;
}

/* Zeros behind a string, where the whole of it is to be compared or shown. */
static __always_inline void http2_end_text(struct http2_direction *d, u32 limit)
{
	u64 end = d->length < limit ? d->length : limit;

	BOUND_INDEX(end, 256);
#pragma unroll
	for (int i = 0; i < 32; i += 8)
		*(u64 *)(d->text + end + i) = 0;
}

/* The path in d->text belongs to the exchange at hand. */
static __always_inline void http2_take_path(struct turn *t, u32 length)
{
	struct http2_stream *fresh = &t->h->fresh;

#pragma unroll
	for (int i = 0; i < TEXT_BYTES; i += 8)
		*(u64 *)(t->h->words.text + i) = load8(t->d->text + i);
	fresh->text_length = length < 0xffff ? length : 0xffff;
	fresh->flags |= STREAM_PATH;
	t->h->said |= SAID_PATH;
}

/* A value in d->text: what it is to us, as a number; the texts that an exchange shows are put there. */
static __always_inline u32 http2_value(struct turn *t, u8 kind)
{
	struct http2_stream *fresh = &t->h->fresh;
	struct http2_direction *d = t->d;
	u64 end, digits;
	u32 length = d->length;

	if (!t->s->request && kind != HEADER_STATUS && kind != HEADER_GRPC_STATUS && kind != HEADER_CONTENT_TYPE)
		return 0; /* of a promised request */
	http2_end_text(d, HPACK_TEXT);
	digits = 0;
	end = 0;
	if (kind == HEADER_STATUS || kind == HEADER_GRPC_STATUS || kind == HEADER_GRPC_TIMEOUT)
		digits = hpack_digits(d->text, length, &end);
	switch (kind) {
	case HEADER_METHOD:
		end = choose(below(length, 8), length, 8); /* no branch: 6.1 would follow one that is none */
		BOUND_MASK(end, 15);
		d->text[end] = ' ';
		return http1_method(load8(d->text));
	case HEADER_STATUS:
		return digits;
	case HEADER_GRPC_STATUS:
		return digits <= 16 ? 1 + digits : GRPC_UNKNOWN;
	case HEADER_CONTENT_TYPE:
		return grpc_content_type(d->text, length);
	case HEADER_GRPC_TIMEOUT:
		fresh->timeout_ns = grpc_timeout(digits, d->text[end & 15]);
		return 0;
	case HEADER_PATH:
		http2_take_path(t, length);
		return 0;
	case HEADER_AUTHORITY:
		/* the hash tells one from another when only its index comes again */
#pragma unroll
		for (int i = 0; i < HOST_BYTES; i += 8) {
			u64 word = load_within(d->text + i, i, length);

			*(u64 *)(d->text + i) = word;
			*(u64 *)(t->h->words.host + i) = word;
		}
		t->h->host_hash = http2_host_hash(d->text);
		fresh->flags &= ~STREAM_HOST_STALE;
		return t->h->host_hash;
	case HEADER_TRACEPARENT:
#pragma unroll
		for (int i = 0; i < TRACEPARENT_BYTES; i += 8)
			*(u64 *)(t->h->words.traceparent + i) = load8(d->text + i);
		t->h->words.traceparent[TRACEPARENT_BYTES - 1] = 0;
		/* "00-", 32 and 16 hexadecimal digits, flags of two: the lowest bit means sampled, an odd last digit */
		if (length == TRACEPARENT_BYTES - 1 && ((d->text[54] ^ d->text[54] >> 6) & 1))
			fresh->flags |= STREAM_SAMPLED;
		return 0;
	}
	return 0;
}

/* What a field says of the exchange at hand. */
static __always_inline void http2_apply(struct turn *t, u8 kind, u32 value)
{
	struct http2_direction *d = t->d;

	switch (kind) {
	case HEADER_METHOD:
		if (t->s->request) {
			t->h->fresh.method = value;
			t->h->said |= SAID_METHOD;
		}
		break;
	case HEADER_STATUS:
		d->status = value;
		break;
	case HEADER_GRPC_STATUS:
		d->grpc_status = value;
		break;
	case HEADER_CONTENT_TYPE:
		d->grpc = value;
		break;
	case HEADER_UNKNOWN: /* it may have been any */
		d->unknown |= d->why;
		break;
	}
}

/* A field that is only an index. */
static __always_inline void http2_indexed(struct turn *t)
{
	struct hpack_tables *tables = hpack_fixed();
	struct http2_direction *d = t->d;
	u32 index = d->number, number = 0, value;
	u8 kind;

	if (index <= HPACK_FIXED) {
		u32 fixed = tables ? tables->fixed[index & 63] : 0;

		kind = fixed;
		value = fixed >> 16;
		if (kind == HEADER_PATH && t->s->request) {
			*(u64 *)d->text = value == 1 ? '/' : WORD('/', 'i', 'n', 'd', 'e', 'x', '.', 'h');
			*(u64 *)(d->text + 8) = value == 1 ? 0 : WORD('t', 'm', 'l', 0, 0, 0, 0, 0);
			http2_take_path(t, value);
		}
		http2_apply(t, kind, value);
		return;
	}
	if (!hpack_entry(d, index, &number))
		return;
	kind = d->entries[number & (HPACK_ENTRIES - 1)].start >> 24;
	value = d->entries[number & (HPACK_ENTRIES - 1)].value;
	if (kind & HEADER_RPC && t->s->request)
		t->h->fresh.flags |= STREAM_WAS_RPC;
	kind &= ~HEADER_RPC;
	if ((kind == HEADER_PATH || kind == HEADER_AUTHORITY) && !t->s->request)
		return;
	if (kind == HEADER_PATH) {
		t->h->fresh.flags &= ~STREAM_PATH;
		t->h->fresh.operation = value;
		t->h->said |= SAID_PATH;
	} else if (kind == HEADER_AUTHORITY) {
		if (value == t->h->host_hash)
			t->h->fresh.flags &= ~STREAM_HOST_STALE;
	} else {
		http2_apply(t, kind, value);
	}
}

/* A field's name is an index. */
static __always_inline void http2_named(struct turn *t)
{
	struct hpack_tables *tables = hpack_fixed();
	struct http2_direction *d = t->d;
	u32 index = d->number, number = 0;

	if (index <= HPACK_FIXED) {
		u32 fixed = tables ? tables->fixed[index & 63] : 0;

		d->kind = fixed;
		d->name_length = fixed >> 8 & 0xff;
	} else if (hpack_entry(d, index, &number)) {
		struct hpack_entry *e = &d->entries[number & (HPACK_ENTRIES - 1)];
		/* lengths of the names of enum header, a byte each from HEADER_METHOD on */
		u64 lengths =
		    7 | 5 << 8 | 7 << 16 | 11ULL << 24 | 12ULL << 32 | 10ULL << 40 | 11ULL << 48 | 12ULL << 56;

		d->kind = e->start >> 24 & ~HEADER_RPC;
		d->name_length = d->kind == HEADER_OTHER || d->kind > HEADER_GRPC_TIMEOUT
				     ? e->value
				     : lengths >> ((d->kind - 1) * 8 & 63) & 0xff;
	} else {
		d->kind = HEADER_UNKNOWN;
		d->name_length = 0;
	}
}

/*
 * A path that is sent as a literal: is it a gRPC method that was sent before, in these very bytes? Then it is passed over. Else its
 * bytes are kept until it has its operation.
 */
static __always_inline bool http2_same_path(struct turn *t)
{
	struct http2_direction *d = t->d;
	u64 length = d->string_left, differs = 0, which;
	struct path_memo *memo;

	t->h->memo = 0;
	if (d->kind != HEADER_PATH || d->naming || d->how != HPACK_LITERAL || !t->s->request || length > MEMO_BYTES ||
	    d->at + length > HAVE(t->s))
		return false;
	which = length + t->s->window[at(d->at + length - 1)];
	BOUND_MASK(which, 3);
	memo = &t->h->memos[which];
	differs = memo->length ^ (length | d->huffman << 7);
#pragma unroll
	for (int i = 0; i < MEMO_BYTES; i += 8) {
		u64 word = load_within(t->s->window + at(d->at) + i, i, length);

		differs |= word ^ load8(memo->raw + i);
		*(u64 *)(memo->raw + i) = word;
	}
	if (differs || !memo->operation) {
		memo->length = length | d->huffman << 7;
		memo->operation = 0;
		t->h->memo = 1 + which;
		return false;
	}
	t->h->fresh.operation = memo->operation;
	t->h->fresh.flags = (t->h->fresh.flags & ~STREAM_PATH) | STREAM_WAS_RPC;
	t->h->said |= SAID_PATH;
	d->at += length;
	d->string_left = 0;
	d->phase = HPACK_FIELD;
	return true;
}

/* The string has come whole. */
static __always_inline void http2_string_ends(struct turn *t)
{
	struct http2_direction *d = t->d;
	u32 value;

	if (d->naming) {
		d->kind = hpack_name(d->text, d->length);
		d->name_length = d->length;
		d->naming = 0;
		d->phase = HPACK_LENGTH;
		return;
	}
	d->phase = HPACK_FIELD;
	value = d->skipped || d->kind == HEADER_OTHER ? d->name_length : http2_value(t, d->kind);
	if (d->how == HPACK_INSERT) {
		if (d->kind == HEADER_PATH)
			d->path_entry = 1 + d->inserted;
		hpack_insert(d, d->kind, value, d->name_length + d->length + HPACK_OVERHEAD);
	}
	http2_apply(t, d->kind, value);
}

/* The number that began the field has come whole. */
static __always_inline void http2_field(struct turn *t)
{
	struct http2_direction *d = t->d;

	d->phase = HPACK_FIELD;
	if (d->how == HPACK_INDEXED) {
		http2_indexed(t);
	} else if (d->how == HPACK_SIZE) {
		d->table_size = d->number;
		hpack_evict(d);
	} else {
		d->phase = HPACK_LENGTH;
		d->naming = d->number == 0;
		if (!d->naming)
			http2_named(t);
	}
}

/* One turn over the field at hand, of which the window has a byte at least. False: that is no header block. */
static __always_inline bool http2_field_turn(struct turn *t)
{
	struct http2_direction *d = t->d;
	struct stream *s = t->s;
	u32 most;
	u8 octet;

	if (d->phase == HPACK_STRING) {
		if (d->string_left)
			hpack_string(s, d);
		if (!d->string_left)
			http2_string_ends(t);
		return true;
	}
	octet = s->window[at(d->at)];
	d->at++;
	if (d->phase == HPACK_NUMBER) {
		if (d->shift > 28)
			return false;
		d->number += (u32)(octet & 0x7f) << d->shift;
		d->shift += 7;
		if (octet & 0x80)
			return true;
	} else {
		if (d->phase == HPACK_LENGTH) {
			d->huffman = octet >> 7;
			most = 0x7f;
		} else if (octet & 0x80) {
			d->how = HPACK_INDEXED;
			most = 0x7f;
		} else if (octet & 0x40) {
			d->how = HPACK_INSERT;
			most = 0x3f;
		} else if (octet & 0x20) {
			d->how = HPACK_SIZE;
			most = 0x1f;
		} else {
			d->how = HPACK_LITERAL;
			most = 0x0f;
		}
		d->number = octet & most;
		d->after = d->phase;
		if (d->number == most) {
			d->phase = HPACK_NUMBER;
			d->shift = 0;
			return true;
		}
	}
	if (d->after == HPACK_LENGTH) {
		hpack_string_begins(d);
		if (d->string_left && http2_same_path(t))
			return true;
		if (!d->string_left)
			http2_string_ends(t);
	} else {
		http2_field(t);
	}
	return true;
}

/* Several of them: a turn has its price. */
static __always_inline bool http2_fields(struct turn *t)
{
	struct http2_direction *d = t->d;

#pragma clang loop unroll(disable)
	for (int i = 0; i < FIELD_STEPS; i++) {
		if (*(volatile u16 *)&d->at >= HAVE(t->s))
			return true;
		if (!http2_field_turn(t))
			return false;
	}
	return true;
}

/* -- frames ------------------------------------------------------------------------------------------------------------- */

static __always_inline struct reorder *http2_kept(struct turn *t)
{
	return t->s->slot || t->s->stashed ? reorder_of(t->sk, t->dir, 0) : 0;
}

/* How many bytes of the window the state at hand wants before it can go on. */
static __always_inline u32 http2_wants(const struct stream *s, const struct http2_direction *d)
{
	switch (s->state) {
	case STREAM_START:
		return FRAME_HEADER;
	case HTTP2_PREFACE:
		return s->remaining == PREFACE ? PREFACE : PREFACE_REST;
	case HTTP2_PREFIX:
		return d->prefix;
	case HTTP2_SETTINGS:
		return 6;
	case HTTP2_RESET:
		return 4;
	case HTTP2_MESSAGES:
		return d->message_left ? 0 : 1;
	case HTTP2_BLOCK:
		return d->at < HAVE(s) ? 0 : d->block_left < HEAD_WINDOW ? d->block_left : HEAD_WINDOW;
	}
	return 0;
}

static __always_inline void http2_block_begins(struct turn *t, u32 length)
{
	struct http2_direction *d = t->d;
	struct stream *s = t->s;

	d->block_left = length;
	s->state = HTTP2_BLOCK;
	s->have = 0;
	d->at = 0;
	if (d->type == FRAME_CONTINUATION)
		return;
	d->in_block = 1;
	d->block_type = d->type;
	d->block_flags = d->frame_flags;
	d->block_id = d->id;
	d->phase = HPACK_FIELD;
	d->status = 0;
	d->grpc_status = 0;
	d->grpc = 0;
	d->unknown = 0;
	d->path_entry = 0;
	if (s->request) {
		struct http2_stream *fresh = &t->h->fresh;

		s->started_ns = t->now;
		s->started_seq = s->next - s->left - FRAME_HEADER;
		t->h->said = 0;
		t->h->memo = 0;
		fresh->first_ns = 0;
		fresh->timeout_ns = 0;
		fresh->operation = 0;
		fresh->status = 0;
		fresh->text_length = 0;
		fresh->grpc_status = 0;
		fresh->method = METHOD_OTHER;
		fresh->flags = STREAM_HOST_STALE;
		fresh->unnamed = 0;
		http2_keep_words(t);
		t->h->words.traceparent[0] = 0;
	}
}

/* Behind a frame's payload proper, and behind what that led to. */
static __always_inline void http2_frame_ends(struct turn *t)
{
	struct stream *s = t->s;

	s->have = 0;
	s->remaining = t->d->padding;
	s->state = t->d->padding ? HTTP2_PASS : STREAM_START;
}

/* A header block is whole: what comes next. */
static __always_inline void http2_block_ends(struct turn *t)
{
	struct http2_direction *d = t->d;
	struct stream *s = t->s;

	d->in_block = 0;
	http2_frame_ends(t);
	if (d->block_type != FRAME_HEADERS)
		return;
	if (!s->request) {
		s->flags |= HTTP2_ANSWERS;
		if (http2_answer(t))
			s->state = HTTP2_ENDS;
		return;
	}
	t->h->fresh.flags |= d->grpc ? STREAM_GRPC : 0;
	if (d->block_flags & FRAME_END_STREAM)
		s->flags |= HTTP2_AWAITS;
	if (d->block_id > t->h->highest && d->block_id & 1) /* clients have the odd ones (RFC 9113, 5.1.1) */
		s->state = HTTP2_BEGINS;		    /* else: trailers */
}

/* DATA is over. */
static __always_inline void http2_data_ends(struct turn *t)
{
	struct http2_direction *d = t->d;
	struct stream *s = t->s;

	if (s->flags & HTTP2_COUNTED) {
		struct http2_stream *st = http2_stream(t, d->id);

		if (st) {
			struct message_state *m = &st->messages[t->dir & 1];

			m->count = d->messages;
			m->left = d->message_left;
			m->part = d->prefix_part;
			m->have = d->prefix_have;
		}
		s->flags &= ~HTTP2_COUNTED;
	}
	http2_frame_ends(t);
	if (s->flags & HTTP2_NAMED_LATE) {
		s->flags &= ~HTTP2_NAMED_LATE;
		s->state = HTTP2_NAMES;
	}
	if (s->flags & HTTP2_ENDED) {
		s->flags &= ~HTTP2_ENDED;
		if (s->request)
			s->flags |= HTTP2_AWAITS;
		else
			s->state = HTTP2_ENDS;
	}
}

/* `length` bytes of DATA follow. */
static __always_inline void http2_data(struct turn *t, u32 length)
{
	struct http2_direction *d = t->d;
	struct stream *s = t->s;
	struct http2_stream *st = 0;

	s->remaining = length;
	s->state = STREAM_BODY;
	s->flags &= ~(HTTP2_COUNTED | HTTP2_ENDED);
	s->flags |= d->frame_flags & FRAME_END_STREAM ? HTTP2_ENDED : 0;
	if (length && t->h->rpc)
		st = http2_stream(t, d->id);
	if (st && st->flags & (STREAM_GRPC | STREAM_NO_TYPE)) {
		struct message_state *m = &st->messages[t->dir & 1];
		u8 prefix[GRPC_PREFIX] = {};
		u32 message = 0;

		if (!m->left && !m->have && length >= GRPC_PREFIX && !s->slot && t->skb && s->left >= GRPC_PREFIX &&
		    !bpf_skb_load_bytes(t->skb, s->offset, prefix, GRPC_PREFIX))
			message = GRPC_PREFIX + be32(prefix + 1);
		if (st->flags & STREAM_NO_TYPE) {
			if (message == length && prefix[0] < 2) {
				st->flags |= STREAM_GRPC;
				st->first_ns = 0;
				if (s->request && d->block_id == d->id)
					s->flags |= HTTP2_NAMED_LATE;
			}
			st->flags &= ~STREAM_NO_TYPE;
		}
		if (st->flags & STREAM_GRPC) {
			if (!s->request && !st->first_ns)
				st->first_ns = t->now;
			if (message == length) {
				m->count++; /* the frame is one message: mostly */
			} else {
				s->flags |= HTTP2_COUNTED;
				d->messages = m->count;
				d->message_left = m->left;
				d->prefix_part = m->part;
				d->prefix_have = m->have;
				s->state = HTTP2_MESSAGES;
			}
		}
	}
	if (!length)
		http2_data_ends(t);
}

/* The frame's payload proper begins: `length` bytes, padding included. */
static __always_inline void http2_payload(struct turn *t, u32 length)
{
	struct http2_direction *d = t->d;
	struct stream *s = t->s;

	if (d->padding > length) {
		http2_lose_sync(s);
		return;
	}
	length -= d->padding;
	s->have = 0;
	if (d->type == FRAME_DATA) {
		http2_data(t, length);
	} else if (d->type == FRAME_HEADERS || d->type == FRAME_CONTINUATION || d->type == FRAME_PUSH_PROMISE) {
		http2_block_begins(t, length);
	} else if (length == 0) {
		s->state = STREAM_START;
	} else {
		s->remaining = length;
		s->state = HTTP2_PASS;
		if (d->type == FRAME_SETTINGS && length % 6 == 0)
			s->state = HTTP2_SETTINGS;
		else if (d->type == FRAME_RST_STREAM && length == 4)
			s->state = HTTP2_RESET;
	}
}

static __always_inline void http2_frame(struct turn *t)
{
	struct http2_direction *d = t->d;
	struct stream *s = t->s;
	u32 length;

	s->have = 0;
	length = be32(s->window) >> 8;
	d->type = s->window[3];
	d->frame_flags = s->window[4];
	d->id = be32(s->window + 5) & 0x7fffffff;
	d->padding = 0;
	d->prefix = 0;
	if (d->in_block != (d->type == FRAME_CONTINUATION) || (d->in_block && d->id != d->block_id) ||
	    length > d->frame_most) {
		http2_lose_sync(s);
		return;
	}
	if (d->type == FRAME_DATA || d->type == FRAME_HEADERS || d->type == FRAME_PUSH_PROMISE) {
		if (s->request)
			s->flags &= ~HTTP2_AWAITS;
		d->prefix = (d->frame_flags & FRAME_PADDED ? 1 : 0) +
			    (d->type == FRAME_HEADERS && d->frame_flags & FRAME_PRIORITIZED ? 5 : 0) +
			    (d->type == FRAME_PUSH_PROMISE ? 4 : 0);
		if (d->prefix > length) {
			http2_lose_sync(s);
			return;
		}
	}
	if (d->prefix) {
		s->remaining = length;
		s->state = HTTP2_PREFIX;
		return;
	}
	http2_payload(t, length);
}

/* The client's preface, or what HTTP/1 has left of it. */
static __always_inline void http2_preface(struct turn *t)
{
	struct stream *s = t->s;
	bool whole = s->remaining == PREFACE;

	if (load8(s->window + at(whole ? PREFACE - 8 : 0)) != WORD('\r', '\n', 'S', 'M', '\r', '\n', '\r', '\n') ||
	    (whole && (load8(s->window) != WORD_PRI || load8(s->window + 8) != WORD_2_0))) {
		t->l->opaque = 1;
		t->c->l7 = L7_OPAQUE;
		s->state = STREAM_DEAD;
		return;
	}
	COUNT(seen_http2);
	t->l->confirmed = 1;
	s->have = 0;
	s->state = STREAM_START;
}

/* Messages in DATA: a prefix, or what one says follows it. */
static __always_inline void http2_messages(struct turn *t)
{
	struct http2_direction *d = t->d;
	struct stream *s = t->s;
	u32 n = s->left;

	if (d->message_left) {
		if (n > d->message_left)
			n = d->message_left;
		if (n > s->remaining)
			n = s->remaining;
		d->message_left -= n;
		source_skip(s, n);
	} else {
		n = 1;
		s->have = 0;
		d->prefix_part = d->prefix_part << 8 | s->window[0]; /* its first byte falls out again */
		d->prefix_have++;
		if (d->prefix_have >= GRPC_PREFIX) {
			d->prefix_have = 0;
			d->messages++;
			d->message_left = d->prefix_part;
			d->prefix_part = 0;
		}
	}
	s->body_bytes += n;
	s->remaining -= n;
	if (!s->remaining)
		http2_data_ends(t);
}

/* One turn. 1 when the bytes at hand, and the kept ones behind them, are used up. */
int http2_turn(struct turn *t)
{
	struct http2_direction *d;
	struct reorder *kept;
	struct stream *s;
	u32 n;

	if (!t->s || !t->d || !t->h || !t->l || !t->c || !t->sk)
		return 1;
	s = t->s;
	d = t->d;
	if (s->state == STREAM_DEAD || s->state == STREAM_RESYNC)
		s->left = 0;
	if (!s->left && s->state < HTTP2_BEGINS && !(s->state == HTTP2_BLOCK && d->at < HAVE(s))) {
		if (s->state == STREAM_DEAD || s->state == STREAM_RESYNC || !s->stashed)
			return 1;
		kept = reorder_of(t->sk, t->dir, 0);
		if (!kept || !reorder_next(kept, s))
			return 1;
	}
	if (s->state == HTTP2_BLOCK && d->at >= HAVE(s)) {
		s->have = 0;
		d->at = 0;
	}
	n = http2_wants(s, d);
	if (HAVE(s) < n) {
		u32 before = HAVE(s), added;

		/* how many were added is asked of the memory: the turns of the loop in it would be as many states */
		source_fill_to(t->skb, s, http2_kept(t), n);
		added = HAVE(s) - before;
		if (!added) {
			http2_lose_sync(s);
			return 0;
		}
		if (s->state == HTTP2_BLOCK)
			d->block_left -= added;
		else if (HAVE(s) < n)
			return 0;
	}
	switch (s->state) {
	case STREAM_START:
		http2_frame(t);
		break;
	case HTTP2_PREFACE:
		http2_preface(t);
		break;
	case HTTP2_PREFIX:
		d->padding = d->frame_flags & FRAME_PADDED ? s->window[0] : 0;
		http2_payload(t, s->remaining - d->prefix);
		break;
	case HTTP2_BLOCK:
		if (!http2_fields(t)) {
			http2_lose_sync(s);
			break;
		}
		if (d->at < HAVE(s) || d->block_left)
			break;
		if (d->frame_flags & FRAME_END_HEADERS) {
			if (d->phase != HPACK_FIELD) {
				http2_lose_sync(s);
				break;
			}
			http2_block_ends(t);
		} else {
			http2_frame_ends(t);
		}
		break;
	case HTTP2_BEGINS:
	case HTTP2_NAMES:
	case HTTP2_ENDS:
	case HTTP2_RESET_ENDS:
		s->flags &= ~HTTP2_ANSWERS;
		http2_exchange(t);
		http2_frame_ends(t);
		break;
	case STREAM_BODY:
		n = s->left < s->remaining ? s->left : s->remaining;
		s->body_bytes += n;
		s->remaining -= n;
		source_skip(s, n);
		if (!s->remaining)
			http2_data_ends(t);
		break;
	case HTTP2_MESSAGES:
		http2_messages(t);
		break;
	case HTTP2_SETTINGS:
		if (be16(s->window) == SETTING_MAX_FRAME_SIZE)
			t->h->directions[!(t->dir & 1)].frame_most = be32(s->window + 2) & 0xffffff;
		s->have = 0;
		s->remaining -= 6;
		if (!s->remaining)
			s->state = STREAM_START;
		break;
	case HTTP2_RESET:
		d->reset = be32(s->window);
		s->have = 0;
		s->state = HTTP2_RESET_ENDS;
		break;
	case HTTP2_PASS:
		n = s->left < s->remaining ? s->left : s->remaining;
		source_skip(s, n);
		s->remaining -= n;
		if (!s->remaining)
			s->state = STREAM_START;
		break;
	default:
		http2_lose_sync(s);
	}
	return 0;
}

/* All turns over the bytes at hand. */
static __always_inline void http2_run(void *ctx, struct __sk_buff *skb, struct bpf_sock *sk, struct connection *c,
				      struct l7_connection *l, int dir)
{
	struct turn t = {.ctx = ctx, .skb = skb, .sk = sk, .c = c, .l = l, .s = &l->streams[dir], .dir = dir};

	t.h = http2_connections.sk_storage_get(sk, 0, BPF_SK_STORAGE_GET_F_CREATE);
	if (!t.h)
		t.h = http2_connections.sk_storage_get(sk, 0, 0); /* the other direction's run was faster */
	if (!t.h) {
		COUNT(lost_l7_storage);
		c->l7 = L7_OPAQUE;
		return;
	}
	t.d = &t.h->directions[dir];
	t.now = bpf_ktime_get_ns();
	if (!t.h->cookie)
		t.h->cookie = bpf_get_socket_cookie(ctx);
	t.cookie = t.h->cookie;
	if (!t.d->table_size && !t.d->why)
		hpack_begin(t.d, !(c->flags & CONN_ADOPTED));
	if (t.s->flags & HTTP2_LOST) {
		t.s->flags = 0;
		hpack_forget(t.d);
		if (!t.s->request)
			t.h->doubtful = t.h->highest;
	}
	TURNS(HTTP2_TURNS, http2_turn, &t);
}

/* The connection is over: books what is in flight. True when there may be more, for another run. */
static __always_inline bool http2_close(void *ctx, struct bpf_sock *sk, struct connection *c, struct l7_connection *l)
{
	struct http2_connection *h = http2_connections.sk_storage_get(sk, 0, 0);
	struct closing t = {.ctx = ctx, .c = c, .l = l, .h = h};
	u32 rest;

	if (!h)
		return false;
	if (!h->close_low) {
		h->close_low = h->lowest;
		h->close_high = h->highest;
	}
	t.now = bpf_ktime_get_ns();
	t.cookie = bpf_get_socket_cookie(ctx);
	t.left = h->begun - h->ended;
	TURNS(CLOSE_TURNS, http2_close_turn, &t);
	h->close_runs++;
	if (t.left && h->close_low && h->close_low <= h->close_high) {
		u32 left = t.left;

		if (h->close_runs < CLOSE_RUNS)
			return true;
		/* too far apart to be found in time: counted without a name, and left to the agent to be removed */
		COUNT(http2_streams_left);
		http2_left.update(&t.cookie, &left);
		h->untimed_begun += left;
	}
	rest = h->untimed_begun - h->untimed_ended;
	if (rest) {
		struct latency_key key = {.edge = c->key, .protocol = PROTOCOL_HTTP2};
		struct latency_value *value = latency_get(&key);

		h->untimed_ended = h->untimed_begun;
		count_many(COUNTER_seen_unanswered, rest);
		count_many(COUNTER_exchange_untimed, rest);
		count_many(COUNTER_http2_unnamed_long, rest);
		if (value)
			__sync_fetch_and_add(&value->untimed, rest);
	}
	return false;
}

#endif
