/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/*
 * Who sent a SYN and whose listener answered it, by its sequence number: tells a connection its cgroup early, and both ends'
 * where both are on this node. An answer may be sent again seconds later, so it is what is noted; but 5.10 and 6.1 run no program
 * for IPv6's, so there the SYN at the listener is noted as well.
 */
#ifndef SIDELIGHT_HANDSHAKES_H
#define SIDELIGHT_HANDSHAKES_H

#include "books/edge.h"

static __always_inline u64 handshake_key(u32 sequence, u16 client_port, u8 from)
{
	return (u64)sequence << 32 | (u32)client_port << 16 | from;
}

static __always_inline struct handshakes *handshake_bucket(u64 key)
{
	u32 index = (key * 0x9e3779b97f4a7c15ULL) >> 52; /* Fibonacci hashing: the upper 12 bits */

	return handshakes.lookup(&index);
}

static __always_inline void handshake_remember(struct bpf_sock *sk, u32 sequence, u16 client_port, u8 from)
{
	u64 key = handshake_key(sequence, client_port, from), cgroup = bpf_sk_cgroup_id(sk);
	struct handshakes *bucket = handshake_bucket(key);
	struct handshake *place;

	if (!bucket)
		return;
	place = &bucket->ways[0];
#pragma unroll
	for (int way = 1; way < HANDSHAKE_WAYS; way++)
		if (bucket->ways[way].jiffies < place->jiffies)
			place = &bucket->ways[way];
#pragma unroll
	for (int way = 0; way < HANDSHAKE_WAYS; way++)
		if (bucket->ways[way].key == key)
			place = &bucket->ways[way]; /* sent again */
	place->key = key;
	place->cgroup_id = cgroup;
	place->check = key ^ cgroup;
	place->jiffies = bpf_jiffies64();
}

static __always_inline u64 handshake_cgroup(u32 sequence, u16 client_port, u8 from)
{
	u64 key = handshake_key(sequence, client_port, from), cgroup;
	struct handshakes *bucket = handshake_bucket(key);

	if (!bucket)
		return 0;
#pragma unroll
	for (int way = 0; way < HANDSHAKE_WAYS; way++) {
		if (bucket->ways[way].key != key)
			continue;
		cgroup = bucket->ways[way].cgroup_id;
		if (bucket->ways[way].check == (key ^ cgroup))
			return cgroup;
	}
	return 0;
}

#endif
