/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/*
 * What is remembered about a socket, in socket storage: freed with the socket, no map to fill.
 *
 * Who writes what: egress runs and sock_ops callbacks hold the socket's lock; ingress runs do not. So the fields of
 * direction RX are written by ingress runs only and those of TX by egress runs only, but for the callbacks of
 * establishment and of the end. Two ingress runs of one socket can meet on two CPUs: stream.busy.
 */
#ifndef SIDELIGHT_CONNECTION_H
#define SIDELIGHT_CONNECTION_H

#include "types.h"

#define RX 0
#define TX 1

/* What a connection speaks: a protocol's number (enum protocol), which l7_connection.confirmed confirms, or one of these. */
enum l7 {
	L7_UNKNOWN = 0, /* no payload yet */
	L7_TLS = 254,	/* the ClientHello is being passed to the agent */
	L7_OPAQUE = 255,
};

enum connection_flags {
	CONN_ADOPTED = 1,
	CONN_ATTEMPTED = 2,  /* the SYN was counted */
	CONN_OPENED = 4,     /* established */
	CONN_CLOSED = 8,     /* the end was counted */
	CONN_RELEASED = 16,  /* the application closed it */
	CONN_TIMED_OUT = 32, /* the kernel gave up retransmitting */
	CONN_ROLE_GUESSED = 64,
	CONN_OPEN_PENDING = 128, /* established, cgroup not yet known */
};

/* Written by packets in either direction, hence apart from `flags`. */
enum packet_flags { SAW_FIN = 1, SAW_RST = 2 };

struct direction {
	u32 end;  /* highest sequence number seen, exclusive */
	u8 known; /* `end` is set */
	u8 packets;
	u16 pad;
	u64 bytes;   /* of the stream: each byte once */
	u64 flushed; /* of them already in the edge, by this direction's runs */
	u64 carried; /* of them left to the response's runs: a small request needs no look-up of its own */
	u64 apart[4];
};

struct connection {
	/* read by all, written at establishment */
	struct edge_key key;
	u8 flags;
	u8 l7;
	u8 first_closer; /* 1 + close_reason of the side whose FIN came first */
	u8 hello_events; /* ClientHello segments passed on */
	u16 local_port, remote_port;
	u8 local[16];
	u64 started_ns; /* SYN sent, or first met */
	u64 established_ns;
	u32 hello_left; /* bytes of the ClientHello's record still to come */
	u32 pad;
	/* written with every segment received, on one CPU, or sent, perhaps on another: a cache line apart */
	struct direction dir[2];
	u64 rtt_sampled_jiffies;
	u64 counted_jiffies; /* when the socket's counters were last read */
	u8 retransmitted;    /* since then */
	u8 pad2[3];
	u32 tx_segments_flushed, rx_segments_flushed, retransmits_flushed;
};

#define DNS_PENDING 8

struct dns_query {
	u64 started_ns;
	u16 id;
	u8 used;
	u8 type;
	u32 pad;
};

struct dns_socket {
	struct dns_query queries[DNS_PENDING];
	u32 next;
	u32 pad;
};

/*
 * A table of small buckets: a new entry takes the place of the bucket's oldest. Writers do not wait for each other: `check`
 * is the exclusive or of two others, so that a mixture of two entries is none.
 */
#define HANDSHAKE_BUCKETS 4096
#define HANDSHAKE_WAYS 4
struct handshake {
	u64 key; /* sequence << 32 | client's port << 16 | enum role of the sender */
	u64 cgroup_id;
	u64 check;
	u64 jiffies;
};

struct handshakes {
	struct handshake ways[HANDSHAKE_WAYS];
};

/* What a listener's run knows of the handshake's last ACK, left to the callback of the child it makes. */
struct handoff {
	u64 cgroup_id;
	u32 sequence; /* of the payload's first byte */
	u32 acknowledged;
	u32 length; /* of the payload, of which `kept` are in `data` */
	u16 remote_port, local_port;
	u32 kept;
	u32 pad;
	u8 data[REORDER_SEGMENT];
};

struct latency_bounds {
	u64 ns[128]; /* upper bounds, inclusive, ascending; past the last: all ones */
};

enum token_class { TOKENS_ORDINARY = 0, TOKENS_PRIORITY = 1, TOKENS_CONNECTION = 2, TOKENS_PAYLOAD = 3 };

struct token_bucket {
	u64 filled_ns;
	u64 tokens_ns; /* credit, in ns: an event costs 1e9 / rate */
};

struct token_buckets {
	struct token_bucket of[4];
};

#endif
