/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/*
 * What the programs ask of the kernel, for the host: BCC's maps are structs of functions here, so that the headers in bpf compile as
 * they are. One socket, one edge; latencies by method and status.
 */
#ifndef SIDELIGHT_FUZZ_KERNEL_H
#define SIDELIGHT_FUZZ_KERNEL_H

#define SIDELIGHT_HOST 1
#define SIDELIGHT_MAPS_H 1 /* this file stands for bpf/maps.h */
#define __always_inline inline __attribute__((unused))

#include <linux/bpf.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

typedef __u8 u8;
typedef __u16 u16;
typedef __u32 u32;
typedef __u64 u64;
typedef __s32 s32;
typedef __s64 s64;

#include "counters.h"
#include "l7/state.h"
#include "socket/connection.h"
#include "types.h"

/* The packet at hand. */
static const u8 *packet_bytes;
static u32 packet_length;
static u64 clock_ns;

static u64 counter_values[COUNTER_COUNT];
static struct edge_value edge_total, zero_edge_value;
static struct settings settings_value;
static struct latency_bounds bounds_value;
static struct token_buckets buckets_value;
static struct connection *connection_value;
static struct l7_connection *l7_value;
static struct exchange_text *text_value;
static struct route *route_value;
static struct reorder *reorder_values[2];
static struct http2_connection *http2_storage;
static struct commands *commands_value;

/* Made by tests/fuzz/tables.py of what the loader puts into the maps. */
#include "hpack_tables.inc"
#include "words.inc"

/* Streams in flight: fewer than a connection may have, so that the map is full now and then. */
#define STREAMS 64
static struct stream_entry {
	u32 id; /* 0: free */
	struct http2_stream value;
} stream_entries[STREAMS];
static u32 streams_left;
static struct handshakes handshake_value;

#define LATENCIES 4096
static struct latency_entry {
	u64 key;
	struct latency_value value;
} latency_entries[LATENCIES];
static u32 latency_count;
static struct latency_value zero_latency_value;

/* Operations that count apart: a few, so that the budget is met. */
#define OPERATIONS 8
static struct {
	u32 id;
	struct operation_value value;
} operation_entries[OPERATIONS];
static u32 operation_count;

/* The transitions of the templates, where a test has any. */
#define ROUTE_STEPS 8192
static struct {
	struct route_step key;
	u32 to;
} route_step_entries[ROUTE_STEPS];
static u32 route_step_count;

static void bounds_make(void)
{
	for (int i = 0; i < 128; i++)
		bounds_value.ns[i] = i < LATENCY_BUCKETS ? 1000ULL << (i / 4) : ~0ULL >> 1;
}

static void kernel_reset(void)
{
	memset(counter_values, 0, sizeof(counter_values));
	memset(&edge_total, 0, sizeof(edge_total));
	memset(latency_entries, 0, latency_count * sizeof(latency_entries[0]));
	latency_count = 0;
	/* of their own size, so that the address sanitizer sees what leaves them */
	free(connection_value);
	free(l7_value);
	free(route_value);
	free(http2_storage);
	free(commands_value);
	free(text_value);
	free(reorder_values[0]);
	free(reorder_values[1]);
	connection_value = NULL;
	l7_value = NULL;
	route_value = NULL;
	http2_storage = NULL;
	commands_value = NULL;
	memset(stream_entries, 0, sizeof(stream_entries));
	streams_left = 0;
	operation_count = 0;
	text_value = NULL;
	reorder_values[0] = reorder_values[1] = NULL;
}

static u64 *counters_lookup(u32 *which)
{
	return *which < COUNTER_COUNT ? &counter_values[*which] : NULL;
}

#define ONE_ENTRY(name, type)                                                                                          \
	static type *name##_lookup(u32 *zero)                                                                          \
	{                                                                                                              \
		return *zero ? NULL : &name##_value;                                                                   \
	}                                                                                                              \
	static struct {                                                                                                \
		type *(*lookup)(u32 *);                                                                                \
	} name = {name##_lookup}

ONE_ENTRY(zero_edge, struct edge_value);
ONE_ENTRY(zero_latency, struct latency_value);
ONE_ENTRY(settings, struct settings);
ONE_ENTRY(bounds, struct latency_bounds);
ONE_ENTRY(buckets, struct token_buckets);
ONE_ENTRY(hpack_tables, struct hpack_tables);

static u32 *words_lookup(struct word_key *key)
{
	for (u32 i = 0; i < sizeof(word_entries) / sizeof(word_entries[0]); i++)
		if (word_entries[i].key.text[0] == key->text[0] && !memcmp(&word_entries[i].key, key, sizeof(*key)))
			return &word_entries[i].value;
	return NULL;
}

static struct {
	u32 *(*lookup)(struct word_key *);
} words = {words_lookup};

static struct http2_stream *http2_streams_lookup(struct http2_stream_key *key)
{
	for (u32 i = 0; key->id && i < STREAMS; i++)
		if (stream_entries[i].id == key->id)
			return &stream_entries[i].value;
	return NULL;
}

static int http2_streams_update(struct http2_stream_key *key, struct http2_stream *value)
{
	struct http2_stream *known = http2_streams_lookup(key);

	for (u32 i = 0; !known && i < STREAMS; i++)
		if (!stream_entries[i].id) {
			stream_entries[i].id = key->id;
			known = &stream_entries[i].value;
		}
	if (!known || !key->id)
		return -1;
	*known = *value;
	return 0;
}

static int http2_streams_delete(struct http2_stream_key *key)
{
	for (u32 i = 0; key->id && i < STREAMS; i++)
		if (stream_entries[i].id == key->id) {
			stream_entries[i].id = 0;
			return 0;
		}
	return -1;
}

static struct {
	struct http2_stream *(*lookup)(struct http2_stream_key *);
	int (*update)(struct http2_stream_key *, struct http2_stream *);
	int (*delete)(struct http2_stream_key *);
} http2_streams = {http2_streams_lookup, http2_streams_update, http2_streams_delete};

static struct {
	u64 *(*lookup)(u32 *);
} counters = {counters_lookup};

static struct handshakes *handshakes_lookup(u32 *index)
{
	return *index < HANDSHAKE_BUCKETS ? &handshake_value : NULL;
}

static struct {
	struct handshakes *(*lookup)(u32 *);
} handshakes = {handshakes_lookup};

static u8 *adopted_roles_lookup(u64 *cookie)
{
	(void)cookie;
	return NULL;
}

static struct {
	u8 *(*lookup)(u64 *);
} adopted_roles = {adopted_roles_lookup};

static struct operation_value *operations_lookup(u32 *id)
{
	for (u32 i = 0; i < operation_count; i++)
		if (operation_entries[i].id == *id)
			return &operation_entries[i].value;
	return NULL;
}

static void operations_insert(u32 *id, struct operation_value *value)
{
	if (operation_count < OPERATIONS) {
		operation_entries[operation_count].id = *id;
		operation_entries[operation_count++].value = *value;
	}
}

static struct {
	struct operation_value *(*lookup)(u32 *);
	void (*insert)(u32 *, struct operation_value *);
} operations = {operations_lookup, operations_insert};

static struct http2_text http2_text_value;
static u32 http2_text_of_stream;

static struct http2_text *http2_texts_lookup(struct http2_stream_key *key)
{
	return key->id && key->id == http2_text_of_stream ? &http2_text_value : NULL;
}

static int http2_texts_update(struct http2_stream_key *key, struct http2_text *words)
{
	http2_text_of_stream = key->id;
	http2_text_value = *words;
	return 0;
}

static struct {
	struct http2_text *(*lookup)(struct http2_stream_key *);
	int (*update)(struct http2_stream_key *, struct http2_text *);
} http2_texts = {http2_texts_lookup, http2_texts_update};

static int http2_left_update(u64 *cookie, u32 *left)
{
	(void)cookie;
	streams_left = *left;
	return 0;
}

static struct {
	int (*update)(u64 *, u32 *);
} http2_left = {http2_left_update};

static struct operation_text operation_text_entries[OPERATIONS];

static struct operation_text *operation_texts_lookup(u32 *id)
{
	return &operation_text_entries[*id % OPERATIONS];
}

static void operation_texts_update(u32 *id, struct operation_text *text)
{
	operation_text_entries[*id % OPERATIONS] = *text;
}

static struct {
	struct operation_text *(*lookup)(u32 *);
	void (*update)(u32 *, struct operation_text *);
} operation_texts = {operation_texts_lookup, operation_texts_update};

static u32 *route_steps_lookup(struct route_step *key)
{
	for (u32 i = 0; i < route_step_count; i++)
		if (!memcmp(&route_step_entries[i].key, key, sizeof(*key)))
			return &route_step_entries[i].to;
	return NULL;
}

static struct {
	u32 *(*lookup)(struct route_step *);
} route_steps = {route_steps_lookup};

/* Maps in maps: the pointer says which one it is. */
static void *edges_lookup(u32 *zero)
{
	return *zero ? NULL : (void *)&edge_total;
}

static void *latencies_lookup(u32 *zero)
{
	return *zero ? NULL : (void *)latency_entries;
}

static struct {
	void *(*lookup)(u32 *);
} edges = {edges_lookup}, latencies = {latencies_lookup};

static void *bpf_map_lookup_elem(void *map, const void *key)
{
	const struct latency_key *latency = key;
	u64 wanted;

	if (map == &edge_total)
		return &edge_total;
	wanted = (u64)latency->status << 16 | (u64)latency->operation << 32 | latency->protocol << 8 | latency->method;
	for (u32 i = 0; i < latency_count; i++)
		if (latency_entries[i].key == wanted)
			return &latency_entries[i].value;
	if (latency_count == LATENCIES)
		return NULL;
	latency_entries[latency_count].key = wanted;
	return &latency_entries[latency_count++].value;
}

static void bpf_map_update_elem(void *map, const void *key, const void *value, u64 flags)
{
	(void)map, (void)key, (void)value, (void)flags;
}

#define STORAGE(name, type, pointer)                                                                                   \
	static type *name##_get(void *sk, void *value, u64 flags)                                                      \
	{                                                                                                              \
		(void)sk, (void)value;                                                                                 \
		if (!(pointer) && flags)                                                                               \
			(pointer) = calloc(1, sizeof(type));                                                           \
		return pointer;                                                                                        \
	}                                                                                                              \
	static struct {                                                                                                \
		type *(*sk_storage_get)(void *, void *, u64);                                                          \
	} name = {name##_get}

STORAGE(connections, struct connection, connection_value);
STORAGE(l7_connections, struct l7_connection, l7_value);
STORAGE(exchange_texts, struct exchange_text, text_value);
STORAGE(routes, struct route, route_value);
STORAGE(http2_connections, struct http2_connection, http2_storage);
STORAGE(command_queues, struct commands, commands_value);
STORAGE(reorder_rx, struct reorder, reorder_values[0]);
STORAGE(reorder_tx, struct reorder, reorder_values[1]);

/* Events: a record of the wanted size, freed when it is submitted. */
static void *ringbuf_reserve(size_t size)
{
	return calloc(1, size);
}

static void ringbuf_end(void *record, u64 flags)
{
	(void)flags;
	free(record);
}

static struct {
	void *(*ringbuf_reserve)(size_t);
	void (*ringbuf_submit)(void *, u64);
	void (*ringbuf_discard)(void *, u64);
} events = {ringbuf_reserve, ringbuf_end, ringbuf_end};

static long bpf_skb_load_bytes(const void *skb, u32 offset, void *to, u32 length)
{
	(void)skb;
	if (offset > packet_length || length > packet_length - offset)
		return -1;
	memcpy(to, packet_bytes + offset, length);
	return 0;
}

static u64 bpf_ktime_get_ns(void)
{
	return clock_ns += 1000;
}

static u32 bpf_get_prandom_u32(void)
{
	return 4;
}

static u64 bpf_jiffies64(void)
{
	return clock_ns / 4000000;
}

static u64 bpf_get_socket_cookie(void *ctx)
{
	(void)ctx;
	return 1;
}

static u64 bpf_sk_cgroup_id(void *sk)
{
	(void)sk;
	return 1;
}

static struct bpf_tcp_sock *bpf_tcp_sock(struct bpf_sock *sk)
{
	(void)sk;
	return NULL;
}

#define bpf_ntohs(x) __builtin_bswap16(x)
#define bpf_ntohl(x) __builtin_bswap32(x)

#endif
