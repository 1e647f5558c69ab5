/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/* Counters and the books: everything that adds to a map the agent drains. */
#ifndef SIDELIGHT_EDGE_H
#define SIDELIGHT_EDGE_H

#include "counters.h"
#include "maps.h"
#include "words.h"

static __always_inline void count(u32 which)
{
	u64 *value = counters.lookup(&which);

	/* Atomic although per CPU: an egress run in process context can be interrupted by another run. */
	if (value)
		__sync_fetch_and_add(value, 1);
}

static __always_inline void count_many(u32 which, u64 n)
{
	u64 *value = counters.lookup(&which);

	if (value)
		__sync_fetch_and_add(value, n);
}

#define COUNT(name) count(COUNTER_##name)

static __always_inline struct settings *current_settings(void)
{
	u32 zero = 0;

	return settings.lookup(&zero);
}

/* A key that is not in the current generation's map yet, added with the value `fresh`. Null: the map is full, which counts as `full`. */
static __always_inline void *books_add(void *current, void *key, void *fresh, u32 full)
{
	void *value;

	if (!fresh)
		return 0;
	bpf_map_update_elem(current, key, fresh, BPF_NOEXIST);
	value = bpf_map_lookup_elem(current, key);
	if (!value)
		count(full);
	return value;
}

/* The overflow entry, which takes what a full map cannot. Null when there is none, which is counted too. */
static __always_inline void *books_overflow(void *current, void *overflow)
{
	void *value = bpf_map_lookup_elem(current, overflow);

	if (!value)
		COUNT(lost_edge_no_map);
	return value;
}

/* The edge's value in the current generation, made when missing; the overflow edge's when the map is full. */
static __always_inline struct edge_value *edge_get(struct edge_key *key)
{
	struct edge_key overflow = {.role = ROLE_OVERFLOW};
	struct edge_value *value;
	u32 zero = 0;
	void *current = edges.lookup(&zero);

	if (!current) {
		COUNT(lost_edge_no_map);
		return 0;
	}
	value = bpf_map_lookup_elem(current, key);
	if (value)
		return value;
	value = books_add(current, key, zero_edge.lookup(&zero), COUNTER_lost_edge_map_full);
	return value ? value : books_overflow(current, &overflow);
}

#define EDGE_ADD(value, field, n) __sync_fetch_and_add(&(value)->field, (n))

/* Likewise. Where there is no room, the key becomes that of the overflow entry. */
static __always_inline struct latency_value *latency_get(struct latency_key *key)
{
	struct latency_value *value;
	u32 zero = 0;
	void *current = latencies.lookup(&zero);

	if (!current) {
		COUNT(lost_edge_no_map);
		return 0;
	}
	value = bpf_map_lookup_elem(current, key);
	if (value)
		return value;
	value = books_add(current, key, zero_latency.lookup(&zero), COUNTER_lost_latency_map_full);
	if (value)
		return value;
	__builtin_memset(key, 0, sizeof(*key));
	key->edge.role = ROLE_OVERFLOW;
	return books_overflow(current, key);
}

/*
 * Index of the first bound not below `ns`: seven halvings of the 128 bounds, without a branch: the buckets' numbers would
 * otherwise be 128 states of all that follows.
 */
static __always_inline u32 latency_bucket(u64 ns)
{
	struct latency_bounds *table;
	u64 low = 0;
	u32 zero = 0;

	table = bounds.lookup(&zero);
	if (!table)
		return LATENCY_BUCKETS - 1;
#pragma unroll
	for (u32 half = 64; half > 0; half >>= 1) {
		u64 index = low + half - 1;

		BOUND_MASK(index, 127);
		low += half * below(table->ns[index], ns);
	}
	return low < LATENCY_BUCKETS ? low : LATENCY_BUCKETS - 1;
}

/* The value that the exchange was added to; null when there was no room, which is counted. */
static __always_inline struct latency_value *latency_record(struct latency_key *key, u64 ns, bool timed)
{
	struct latency_value *value = latency_get(key);
	u32 bucket;

	if (!value)
		return 0;
	if (!timed) {
		__sync_fetch_and_add(&value->untimed, 1);
		return value;
	}
	bucket = latency_bucket(ns);
	if (bucket < LATENCY_BUCKETS)
		__sync_fetch_and_add(&value->buckets[bucket], 1);
	__sync_fetch_and_add(&value->sum_ns, ns);
	return value;
}

static __always_inline void latency_tcp(struct edge_key *edge, u8 protocol, u64 ns)
{
	struct latency_key key = {.edge = *edge, .protocol = protocol};

	latency_record(&key, ns, true);
}

#endif
