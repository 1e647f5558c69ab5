/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/* Segments that came before the bytes in front of them: kept, and taken up when their turn comes. */
#ifndef SIDELIGHT_REORDER_H
#define SIDELIGHT_REORDER_H

#include "socket/packet.h"

static __always_inline struct reorder *reorder_of(struct bpf_sock *sk, int dir, u64 flags)
{
	if (dir == RX)
		return reorder_rx.sk_storage_get(sk, 0, flags);
	return reorder_tx.sk_storage_get(sk, 0, flags);
}

/* Keeps a segment that arrived too early. False when that was not possible. */
static __always_inline bool reorder_keep(struct __sk_buff *skb, struct reorder *kept, struct stream *s,
					 const struct packet *p)
{
	struct reorder_slot *slot;
	u64 filled, n;
	u32 last;

	if (s->stashed == 0) {
		kept->filled = 0;
		kept->used = 0;
	}
	last = (kept->used - 1) & (REORDER_SLOTS - 1);
	if (kept->used) {
		slot = &kept->slots[last];
		if (slot->length && slot->seq == p->seq)
			return true; /* again */
		if (slot->length && slot->seq + slot->length == p->seq && slot->kept < slot->length) {
			/* behind bytes we have not kept either: a body, or lost anyway */
			slot->length += p->length;
			return true;
		}
	}
	if (kept->used >= REORDER_SLOTS)
		return false;
	n = p->length < REORDER_SEGMENT - 1 ? p->length : REORDER_SEGMENT - 1;
	BOUND_SIZE(n, 4095);
	filled = kept->filled;
	BOUND_INDEX(filled, 8192); /* REORDER_BYTES */
	if (bpf_skb_load_bytes(skb, p->offset, kept->data + filled, n)) {
		COUNT(lost_payload_read);
		return false;
	}
	slot = &kept->slots[kept->used & (REORDER_SLOTS - 1)];
	slot->seq = p->seq;
	slot->length = p->length;
	slot->offset = filled;
	if (filled + n > REORDER_BYTES)
		n = REORDER_BYTES - filled; /* the rest is slack, the next one overwrites it */
	slot->kept = n;
	kept->filled = filled + n;
	kept->used++;
	s->stashed++;
	return true;
}

/* Puts the kept segment that continues the stream at hand. False when there is none. */
static __always_inline bool reorder_next(struct reorder *kept, struct stream *s)
{
	for (u32 i = 0; i < REORDER_SLOTS; i++) {
		struct reorder_slot *slot = &kept->slots[i];
		u32 skip;

		if (i >= kept->used)
			break;
		if (!slot->length || (s32)(slot->seq - s->next) > 0)
			continue;
		skip = s->next - slot->seq;
		if (skip < slot->length) {
			s->slot = i + 1;
			s->offset = skip;
			s->left = slot->length - skip;
			s->next = slot->seq + slot->length;
			return true;
		}
		slot->length = 0;
		if (s->stashed)
			s->stashed--;
	}
	return false;
}

#endif
