/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/*
 * The one list of what the programs count besides the edges: what they saw, and every way something can
 * be lost or left undecided. agent/layout.py reads it; exported as sidelight_seen_total{stage="kernel"}
 * and sidelight_lost_total{stage="kernel",reason}.
 *
 *      name                    kind    meaning
 */
#ifndef SIDELIGHT_COUNTERS_H
#define SIDELIGHT_COUNTERS_H

#define COUNTERS(X)                                                                                                    \
	X(seen_attempts, SEEN, "connection attempts (first SYN sent)")                                                 \
	X(seen_opened, SEEN, "connections established")                                                                \
	X(seen_adopted, SEEN, "connections older than the programs, met on a packet")                                  \
	X(seen_failed, SEEN, "attempts that failed")                                                                   \
	X(seen_closed, SEEN, "connections ended")                                                                      \
	X(seen_requests, SEEN, "requests whole, or answered before that")                                              \
	X(seen_responses, SEEN, "final answers matched to a request")                                                  \
	X(seen_unanswered, SEEN, "requests whose connection ended without an answer")                                  \
	X(seen_dns_queries, SEEN, "DNS queries sent or received over UDP")                                             \
	X(seen_dns_responses, SEEN, "DNS responses matched to a query")                                                \
	X(seen_events, SEEN, "events wanted")                                                                          \
	X(seen_http2, SEEN, "connections that speak HTTP/2")                                                           \
	X(seen_tls, SEEN, "connections that began with a TLS ClientHello: opaque")                                     \
	X(sent_events, SEEN, "events written to the ring buffer")                                                      \
	X(lost_event_ring_full, LOST, "events the full ring buffer refused")                                           \
	X(lost_event_suppressed, LOST, "events over the rate limit")                                                   \
	X(lost_event_sampled_out, LOST, "ordinary requests not chosen by sampling")                                    \
	X(lost_event_shed, LOST, "events while the governor has them off")                                             \
	X(lost_edge_map_full, LOST, "updates that went to the overflow edge: exact, without a name")                   \
	X(lost_latency_map_full, LOST, "updates that went to the overflow latency: exact, no name")                    \
	X(lost_edge_no_map, LOST, "updates without a map to go to")                                                    \
	X(lost_connection_storage, LOST, "connections without state: out of memory")                                   \
	X(lost_l7_storage, LOST, "connections whose protocol is not followed: out of memory")                          \
	X(lost_exchange_text, LOST, "request heads without text in their event: out of memory")                        \
	X(lost_reorder_storage, LOST, "reordered segments not kept: out of memory")                                    \
	X(lost_header_read, LOST, "packets whose IP or TCP header could not be read")                                  \
	X(lost_payload_read, LOST, "segments whose payload could not be read")                                         \
	X(lost_ipv6_extension, LOST, "IPv6 packets with extension headers we do not follow")                           \
	X(lost_out_of_window, LOST, "segments far outside the receive window")                                         \
	X(lost_stream_contended, LOST, "segments given up because another CPU held the stream")                        \
	X(lost_stream_tail_call, LOST, "streams left because a tail call failed")                                      \
	X(lost_http_sync, UNDECIDED, "HTTP streams whose framing was lost")                                            \
	X(lost_exchanges, UNDECIDED, "exchanges in flight when the framing was lost")                                  \
	X(http_resync, UNDECIDED, "HTTP streams picked up again at a head")                                            \
	X(http_bad_framing, UNDECIDED, "heads whose length cannot be told (RFC 9112, 6.3)")                            \
	X(lost_commands_sync, UNDECIDED, "streams of commands whose framing was lost")                                 \
	X(commands_resync, UNDECIDED, "streams of commands picked up again")                                           \
	X(commands_pushed, SEEN, "messages of databases that nobody asked for: notifications, subscriptions")          \
	X(commands_compressed, UNDECIDED, "connections to databases that are compressed: opaque")                      \
	X(commands_refuted, UNDECIDED, "connections that began like a protocol of commands and were not")              \
	X(exchange_incomplete, UNDECIDED, "requests the connection ended within")                                      \
	X(exchange_unmatched, UNDECIDED, "answers that nobody asked for")                                              \
	X(exchange_untimed, UNDECIDED, "requests beyond the depth of the queue: counted, not timed")                   \
	X(http_not_http, UNDECIDED, "connections that began like HTTP and were not")                                   \
	X(lost_l7_shed, LOST, "connections left opaque while L7 is off")                                               \
	X(role_guessed, UNDECIDED, "adopted connections whose role came from the port numbers")                        \
	X(unknown_cgroup, UNDECIDED, "connections that ended before a packet told their cgroup")                       \
	X(dns_unmatched_response, UNDECIDED, "DNS responses without a query")                                          \
	X(dns_unanswered, UNDECIDED, "DNS queries forgotten for a newer one of the socket")                            \
	X(seen_operations, SEEN, "exchanges whose operation was looked for")                                           \
	X(operation_named, SEEN, "exchanges that count under their operation")                                         \
	X(operation_folded, UNDECIDED, "exchanges whose operation counts under none: beyond the budget")               \
	X(operation_too_long, UNDECIDED, "exchanges whose operation is too long to be named")                          \
	X(operation_none, UNDECIDED, "exchanges that could have an operation and say none")                            \
	X(lost_operation_storage, LOST, "exchanges without operation: out of memory")                                  \
	X(http2_not_followed, LOST, "HTTP/2 connections left opaque: this kernel has no bpf_loop")                     \
	X(http2_streams_left, UNDECIDED, "connections whose last exchanges are counted without a name: too far apart") \
	X(http2_bad_index, UNDECIDED, "indices of header tables that mean nothing: entries before are forgotten")      \
	X(http2_named, SEEN, "HTTP/2 exchanges whose method and path are known")                                       \
	X(http2_unnamed_before, UNDECIDED, "HTTP/2 exchanges that refer to what was said before the programs")         \
	X(http2_unnamed_sync, UNDECIDED, "HTTP/2 exchanges that refer to what was lost")                               \
	X(http2_unnamed_long, UNDECIDED, "HTTP/2 exchanges too long, or too many, to be named")                        \
	X(http2_status_unread, UNDECIDED, "HTTP/2 answers whose status refers to what is not known")                   \
	X(grpc_status_unread, UNDECIDED, "gRPC calls whose status refers to what is not known")                        \
	X(grpc_named, SEEN, "gRPC calls whose method is known")                                                        \
	X(grpc_unnamed_before, UNDECIDED, "gRPC calls that refer to what was said before the programs")                \
	X(grpc_unnamed_sync, UNDECIDED, "gRPC calls that refer to what was lost")                                      \
	X(grpc_unnamed_long, UNDECIDED, "gRPC calls whose method is too long")                                         \
	X(dns_malformed, UNDECIDED, "packets on port 53 that are not DNS")

enum counter {
#define X(name, kind, meaning) COUNTER_##name,
	COUNTERS(X)
#undef X
	    COUNTER_COUNT
};

#endif
