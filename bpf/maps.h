/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/*
 * Every map. Sizes are the defaults; the loader may create larger or smaller ones (agent/loader.py).
 *
 * The books (edges, latencies) are two plain hashes each, behind a one-entry array of maps: the agent sets the
 * other one, waits until the kernel has returned from running programs, and drains the quiet one. No eviction, no race.
 */
#ifndef SIDELIGHT_MAPS_H
#define SIDELIGHT_MAPS_H

#include "l7/state.h"
#include "socket/connection.h"
#include "types.h"

BPF_TABLE("hash", struct edge_key, struct edge_value, edges_a, 16384);
BPF_TABLE("hash", struct edge_key, struct edge_value, edges_b, 16384);
BPF_ARRAY_OF_MAPS(edges, "edges_a", 1);

BPF_TABLE("hash", struct latency_key, struct latency_value, latencies_a, 16384);
BPF_TABLE("hash", struct latency_key, struct latency_value, latencies_b, 16384);
BPF_ARRAY_OF_MAPS(latencies, "latencies_a", 1);

/* Zeroed values: too large for the 512 bytes of stack. */
BPF_TABLE("array", u32, struct edge_value, zero_edge, 1);
BPF_TABLE("array", u32, struct latency_value, zero_latency, 1);

BPF_TABLE("array", u32, struct latency_bounds, bounds, 1);
BPF_TABLE("array", u32, struct settings, settings, 1);
BPF_TABLE("percpu_array", u32, u64, counters, 96);
BPF_TABLE("percpu_array", u32, struct token_buckets, buckets, 1);

BPF_RINGBUF_OUTPUT(events, 256);

BPF_SK_STORAGE(connections, struct connection);
BPF_SK_STORAGE(l7_connections, struct l7_connection);
BPF_SK_STORAGE(exchange_texts, struct exchange_text);
BPF_SK_STORAGE(routes, struct route);
BPF_SK_STORAGE(http2_connections, struct http2_connection);
BPF_SK_STORAGE(command_queues, struct commands);
BPF_SK_STORAGE(reorder_rx, struct reorder);
BPF_SK_STORAGE(reorder_tx, struct reorder);
BPF_SK_STORAGE(dns_sockets, struct dns_socket);

/* Who sent the SYN with this sequence number, and whose listener answered: names both ends of what stays on the node, through NAT. */
BPF_TABLE("array", u32, struct handshakes, handshakes, HANDSHAKE_BUCKETS);

/* Roles of connections older than the programs, by socket cookie, from sock_diag (agent/adopt.py). */
BPF_TABLE("hash", u64, u8, adopted_roles, 16384);

/* Payload that completed a handshake: the listener's packet run hands it to the child's sock_ops run. */
BPF_TABLE("percpu_array", u32, struct handoff, handoffs, 1);

/* Operations that count apart (l7/operation.h): as many as the map has room for. */
BPF_TABLE("hash", u32, struct operation_value, operations, 1024);
BPF_TABLE("hash", u32, struct operation_text, operation_texts, 1024);

/* Exchanges in flight of connections with more than one at once. */
BPF_TABLE("hash", struct http2_stream_key, struct http2_stream, http2_streams, 32768);
/* Words of those whose connection has begun another one since: for their events. The oldest ones go first. */
BPF_TABLE("lru_hash", struct http2_stream_key, struct http2_text, http2_texts, 4096);
/* Connections whose end did not find all of theirs, by cookie: how many. The agent removes them. */
BPF_TABLE("hash", u64, u32, http2_left, 1024);
BPF_TABLE("array", u32, struct hpack_tables, hpack_tables, 1);

/* Commands and statuses by their words: a number, and flags << 8 (agent/vocabulary.py). */
BPF_TABLE("hash", struct word_key, u32, words, 1024);

/* The configuration's templates of HTTP routes (l7/route.h), put in by the agent. */
BPF_TABLE("hash", struct route_step, u32, route_steps, 8192);

/* By enum step, or by a protocol's number. */
BPF_PROG_ARRAY(ingress_next, 64);
BPF_PROG_ARRAY(egress_next, 64);
BPF_PROG_ARRAY(sock_ops_next, 64);

#endif
