/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/*
 * The programs' own path of a TCP segment (bpf/socket/tcp.h and below) on the host, under libFuzzer with the address and
 * undefined-behaviour sanitizers. An input is a conversation: what the client and the server say, and how it is cut up.
 *
 *   byte 0     bit 0: seen by the server; bit 1: segments come early or twice; bit 2: paths are routes; bit 3: the server greets
 *   bytes 1-2  seed of the cutting
 *   bytes 3-4  how much of the rest the client says
 *
 * It is played twice, in large segments and in small ones. Whatever is said, both times the books must balance; and unless
 * a play lost the framing, which is counted, both must count the same messages.
 */
#include "kernel.h"

#include "socket/tcp.h"

#include <stdint.h>
#include <stdio.h>

#define HEADER 5 /* of an input */
#define TAIL_CALLS 33 /* the kernel's limit */
#define LARGE 16000
#define EARLY 8 /* segments held back at most */

struct summary {
	u64 requests, answered, unanswered, bytes;
	bool sure;
};

static struct __sk_buff skb;
static struct bpf_sock sk = {.family = 2};
static u32 seed;

static u32 next_random(void)
{
	seed = seed * 1664525 + 1013904223;
	return seed >> 8;
}

static void check(bool holds, const char *what)
{
	if (!holds) {
		fprintf(stderr, "broken: %s\n", what);
		abort();
	}
}

static void stream_check(const struct stream *s)
{
	check(s->have <= HEAD_WINDOW, "the window holds more than its size");
	check(s->stashed <= REORDER_SLOTS, "more segments kept than there are places");
	check(s->body_flushed <= s->body_bytes, "more body booked than seen");
}

/* One segment through the program of its direction, with the tail calls it asks for. */
static void deliver(const u8 *bytes, u32 offset, u32 length, int dir, bool push)
{
	struct packet p = {.length = length, .seq = 1000 + offset, .flags = TCP_ACK | (push ? TCP_PSH : 0), .version = 4};
	enum next next;

	packet_bytes = bytes + offset;
	packet_length = length;
	next = tcp_packet(&skb, &sk, &p, dir);
	check(next != NEXT_WAIT, "nobody has the stream");
	for (int step = 0; next != NEXT_NONE && next < NEXT_CLOSE_COMMANDS && step <= TAIL_CALLS; step++) {
		if (step == TAIL_CALLS) {
			tcp_packet_cut(&sk, dir);
		} else if (protocol_of_commands(next)) {
			if (!tcp_commands(&skb, &skb, &sk, dir, next))
				break;
		} else if (next == PROTOCOL_HTTP2) {
			tcp_http2(&skb, &skb, &sk, dir);
			break;
		} else {
			next = tcp_http1(&skb, &skb, &sk, dir);
		}
	}
	if (l7_value) {
		stream_check(&l7_value->streams[RX]);
		stream_check(&l7_value->streams[TX]);
		check(l7_value->streams[RX].busy == 0, "the stream was not given back");
		check(l7_value->head - l7_value->tail <= EXCHANGES, "more exchanges wait than there are places");
		if (commands_value) {
			check(commands_value->head - commands_value->tail <= COMMANDS, "more commands wait than there are places");
			check(commands_value->depth <= REPLY_DEPTH, "an answer is deeper than there are places");
			check(!commands_value->answers.count && !commands_value->oneway.count, "a run left answers unbooked");
		}
	}
}

/* All that one side says from `at` on: each byte at least once. */
static void say(const u8 *bytes, u32 length, u32 at, int dir, u32 most, bool disorder)
{
	struct {
		u32 offset, length;
	} held[EARLY];
	u32 kept = 0;

	while (at < length || kept) {
		u32 n = most == LARGE ? most : 1 + next_random() % most;

		if (n > length - at)
			n = length - at;
		if (n && disorder && kept < EARLY && next_random() % 4 == 0) {
			held[kept].offset = at; /* the network has it for a while */
			held[kept++].length = n;
		} else if (n) {
			deliver(bytes, at, n, dir, at + n == length);
			if (disorder && next_random() % 8 == 0)
				deliver(bytes, at, n, dir, false); /* again */
		}
		at += n;
		if (kept && (at >= length || next_random() % 2)) {
			deliver(bytes, held[0].offset, held[0].length, dir, at >= length);
			memmove(held, held + 1, --kept * sizeof(held[0]));
		}
	}
}

static struct summary play(const u8 *data, u32 client_bytes, u32 server_bytes, bool server, u32 most, bool disorder,
			   bool routed, bool greets)
{
	const u8 *said = data + client_bytes;
	int request = server ? RX : TX, response = server ? TX : RX;
	struct summary found = {};
	u32 greeting = 0;
	u64 carried = 0;

	kernel_reset();
	settings_value = (struct settings){.sample_period = 1, .ordinary_rate = 1000000, .priority_rate = 1000000, .connection_rate = 1000000, .payload_rate = 1000000, .events = 1, .head_text = 1, .l7 = 1, .routes = routed};
	connection_value = calloc(1, sizeof(*connection_value));
	connection_value->flags = CONN_OPENED;
	connection_value->key.role = server ? ROLE_SERVER : ROLE_CLIENT;
	connection_value->key.cgroup_id = 1;
	connection_value->key.port = 80;
	for (int dir = 0; dir < 2; dir++) {
		connection_value->dir[dir].known = 1;
		connection_value->dir[dir].end = 1000;
	}
	if (greets && server_bytes > 4) /* a length, and so many bytes: as MySQL's servers do */
		greeting = 4 + (said[0] | said[1] << 8);
	if (greeting > server_bytes)
		greeting = server_bytes;
	if (greeting)
		deliver(said, 0, greeting, response, true);
	say(data, client_bytes, 0, request, most, disorder);
	say(said, server_bytes, greeting, response, most, disorder);
	connection_flush_into(&edge_total, connection_value, l7_value, RX, 0, 0);
	connection_flush_into(&edge_total, connection_value, l7_value, TX, 0, 0);
	if (protocol_of_commands(connection_value->l7))
		for (u32 i = 0; tcp_close_commands(&skb, &sk); i++)
			check(i < TAIL_CALLS - 2, "the end does not end");
	else if (connection_value->l7 == PROTOCOL_HTTP2)
		for (u32 i = 0; tcp_close_http2(&skb, &sk); i++)
			check(i < TAIL_CALLS - 2, "the end does not end");
	else
		for (u32 i = 0; l7_value && tcp_close_next(&skb, &sk); i++)
			check(i < 2 * EXCHANGES, "the end does not end");
	for (u32 i = 0; i < STREAMS; i++)
		streams_left -= stream_entries[i].id != 0;
	check(!streams_left, "streams outlive their connection, and nobody says so");

	for (u32 i = 0; i < latency_count; i++) {
		const struct latency_value *value = &latency_entries[i].value;
		u8 protocol = latency_entries[i].key >> 8;
		u64 n = value->untimed;

		if (protocol == PROTOCOL_DB_TRANSACTION || protocol == PROTOCOL_DB_IDLE)
			continue; /* durations, of nothing that was asked */

		for (int bucket = 0; bucket < LATENCY_BUCKETS; bucket++)
			n += value->buckets[bucket];
		if (latency_entries[i].key >> 16 & 0xffff)
			found.answered += n;
		else
			found.unanswered += n;
		carried += value->rx_bytes + value->tx_bytes;
	}
	found.requests = counter_values[COUNTER_seen_requests];
	found.bytes = edge_total.rx_bytes + edge_total.tx_bytes + carried;
	found.sure = !counter_values[COUNTER_lost_http_sync] && !counter_values[COUNTER_lost_stream_tail_call] &&
		     !counter_values[COUNTER_http_resync] && !counter_values[COUNTER_http_bad_framing] &&
		     !counter_values[COUNTER_lost_reorder_storage] && !counter_values[COUNTER_exchange_untimed] &&
		     !counter_values[COUNTER_http2_bad_index] && !counter_values[COUNTER_lost_commands_sync] &&
		     !counter_values[COUNTER_commands_refuted];
	check(found.answered == counter_values[COUNTER_seen_responses], "answered, but not counted as such");
	check(found.unanswered == counter_values[COUNTER_seen_unanswered], "unanswered, but not counted as such");
	check(counter_values[COUNTER_seen_operations] ==
		  counter_values[COUNTER_operation_named] + counter_values[COUNTER_operation_folded] +
		      counter_values[COUNTER_operation_too_long] + counter_values[COUNTER_operation_none],
	      "operations looked for are neither named nor counted");
	check(connection_value->l7 != PROTOCOL_HTTP2 || found.requests >= found.answered + found.unanswered,
	      "more exchanges ended than began");
	check(found.bytes == (u64)client_bytes + server_bytes, "bytes were lost or booked twice");
	check(counter_values[COUNTER_seen_events] ==
		  counter_values[COUNTER_sent_events] + counter_values[COUNTER_lost_event_suppressed],
	      "events wanted are neither sent nor counted");
	return found;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct summary large, small;
	u32 client, server;
	bool at_server, disorder, routed, greets;

	if (size < HEADER + 1 || size > 60000)
		return 0;
	if (!bounds_value.ns[0])
		bounds_make();
	at_server = data[0] & 1;
	disorder = data[0] & 2;
	routed = data[0] & 4;
	greets = data[0] & 8;
	client = (data[3] | data[4] << 8) % (size - HEADER + 1);
	server = size - HEADER - client;
	seed = data[1] << 8 | data[2];
	data += HEADER;
	large = play(data, client, server, at_server, LARGE, false, routed, greets);
	seed = data[1 - HEADER] << 8 | data[2 - HEADER];
	small = play(data, client, server, at_server, 1 + data[1 - HEADER] % 200, disorder, routed, greets);
	/* what does not begin like HTTP is opaque, unless its first segment came late: then the answers decide */
	if (client >= 8 && !memcmp(data, "PRI * HT", 8) && (client < PREFACE || memcmp(data, "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", PREFACE)))
		return 0; /* nearly HTTP/2: opaque at once, or once it is known not to be HTTP/1 either */
	if (client >= 8 && data[0] != '*' && (redis_begins(load8(data)) || memcached_begins(load8(data))))
		return 0; /* told by its first eight bytes, which a small segment has not */
	if (!greets && large.sure && small.sure && client && (http1_begins(data[0]) || data[0] == '*')) {
		check(large.requests == small.requests, "the number of requests depends on how they were cut");
		check(large.answered == small.answered, "the number of answers depends on how they were cut");
		check(large.unanswered == small.unanswered, "what is unanswered depends on how it was cut");
	}
	return 0;
}
