/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/*
 * Where the bytes at hand come from: the packet (stream.slot 0), or a segment that was kept. A protocol reads them by these three
 * functions and never asks which it is; another source of bytes is another case in them.
 *
 *   source_fill   the next bytes go behind what the window holds
 *   source_word   a look at the next eight, without taking them
 *   source_skip   passes over bytes without looking
 */
#ifndef SIDELIGHT_SOURCE_H
#define SIDELIGHT_SOURCE_H

#include "order/reorder.h"

/* An index into the window, in a way that no compiler optimizes away before the verifier has seen it. */
static __always_inline u64 at(u64 index)
{
	BOUND_MASK(index, 511);
	return index;
}

/* Read afresh each time: values kept in registers would multiply the verifier's states by the turns of a loop. */
#define HAVE(s) (*(volatile u16 *)&(s)->have)
#define REQUEST(s) (*(volatile u8 *)&(s)->request)

/*
 * Puts bytes of the skb (slot 0) or of a kept segment behind what the window holds, until it has `most` of them, HEAD_WINDOW
 * at most. Returns the bytes added, 0 on failure.
 */
static __always_inline u32 source_fill_to(struct __sk_buff *skb, struct stream *s, struct reorder *kept, u32 most)
{
	u64 have = at(s->have);
	u64 n = most - have;

	if (n > s->left)
		n = s->left;
	if (s->slot == 0) {
		if (!skb)
			return 0;
		/* at most HEAD_WINDOW - have, really; twice that stays within the connection's value */
		BOUND_MOST(n, 512);
		if (bpf_skb_load_bytes(skb, s->offset, s->window + have, n)) {
			COUNT(lost_payload_read);
			return 0;
		}
	} else {
		struct reorder_slot *slot;
		u32 from;

		if (!kept)
			return 0;
		slot = &kept->slots[(s->slot - 1) & (REORDER_SLOTS - 1)];
		if (s->offset + n > slot->kept) {
			if (s->offset >= slot->kept)
				return 0;
			n = slot->kept - s->offset;
		}
		from = (u32)slot->offset + s->offset;
		if (from > REORDER_BYTES)
			return 0;
		/* reads up to seven bytes too many, all within `data`; never writes past the window's slack */
		for (u32 i = 0; i < HEAD_WINDOW; i += 8) {
			if (i >= n)
				break;
			*(u64 *)(s->window + ((have + i) & (2 * HEAD_WINDOW - 1))) = load8(kept->data + from + i);
		}
	}
	s->have += n;
	s->offset += n;
	s->left -= n;
	return n;
}

static __always_inline u32 source_fill(struct __sk_buff *skb, struct stream *s, struct reorder *kept)
{
	return source_fill_to(skb, s, kept, HEAD_WINDOW);
}

/* The next eight bytes, of which there are at least `length`; false when they cannot be read. Of the packet only. */
static __always_inline bool source_word(struct __sk_buff *skb, const struct stream *s, u64 *word)
{
	*word = 0;
	if (!skb || s->slot || s->left < 8)
		return false;
	if (bpf_skb_load_bytes(skb, s->offset, word, 8)) {
		COUNT(lost_payload_read);
		return false;
	}
	return true;
}

static __always_inline void source_skip(struct stream *s, u32 n)
{
	s->offset += n;
	s->left -= n;
}

#endif
