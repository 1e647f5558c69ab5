/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/*
 * What is remembered about a socket, in socket storage: freed with the socket, no map to fill.
 *
 * Who writes what: egress runs and sock_ops callbacks hold the socket's lock; ingress runs do not. So the fields of
 * direction RX are written by ingress runs only and those of TX by egress runs only, but for the callbacks of
 * establishment and of the end. Two ingress runs of one socket can meet on two CPUs: http_stream.busy.
 */
#ifndef SIDELIGHT_CONNECTION_H
#define SIDELIGHT_CONNECTION_H

#include "types.h"

#define RX 0
#define TX 1

enum l7 {
	L7_UNKNOWN = 0, /* no payload yet */
	L7_HTTP = 1,	/* begins like HTTP/1; confirmed by http_connection.confirmed */
	L7_OPAQUE = 2,
	L7_TLS = 3, /* the ClientHello is being passed to the agent */
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

enum http_state {
	HTTP_START = 0,	     /* between messages */
	HTTP_START_LINE = 1, /* within the first line */
	HTTP_HEADERS = 2,
	HTTP_BODY = 3, /* `remaining` bytes */
	HTTP_CHUNK_SIZE = 4,
	HTTP_CHUNK_DATA = 5, /* `remaining` bytes, the CRLF included */
	HTTP_TRAILERS = 6,
	HTTP_UNTIL_CLOSE = 7,
	HTTP_TUNNEL = 8, /* request side after CONNECT, until the answer says */
	HTTP_RESYNC = 9, /* framing unknown: wait for a segment that begins with a head */
	HTTP_DEAD = 10,	 /* opaque from here on */
};

enum http_flags {
	HTTP_SKIP_LINE = 1, /* the line's start was dealt with, its end is still to come */
	HTTP_CHUNKED = 2,
	HTTP_LENGTH = 4,
	HTTP_BAD = 8,	  /* framing fields contradict each other */
	HTTP_CODED = 16,  /* transfer-encoding whose last coding is not chunked */
	HTTP_PUSHED = 32, /* this request has its place in the pipeline */
	HTTP_RESYNCING = 64,
};

/* One direction of an HTTP connection: a pull parser over windows of the stream. */
struct http_stream {
	u8 window[HEAD_WINDOW]; /* unfinished line; first, so that slack follows it */
	u64 remaining;
	u64 length;
	u64 started_ns;
	u64 body_bytes;
	u64 body_flushed;
	u32 next; /* sequence number of the next byte to parse */
	u32 started_seq;
	u32 offset, left; /* rest of the segment at hand, in the skb */
	u16 have;	  /* bytes in `window` */
	u16 status;
	u8 state;
	u8 flags;
	u8 method;
	u8 slot; /* source of the bytes at hand: 0 the skb, else 1 + reorder slot */
	u32 busy;
	u16 stashed; /* segments kept in the reorder storage */
	u8 flush;    /* the segment at hand asks for the books to be brought up to date */
	u8 request;  /* this is the direction of requests */
	/* Where the scan of this step has found values, in the window; 0: nowhere. */
	u16 length_at, host_at, trace_at, coding_end;
	u16 line_end, text_length;
	u32 text_number; /* 1 + index of the request whose head the window holds from its first byte; 0: none */
};

struct http_request {
	u64 started_ns;
	u32 seq;
	u8 method;
	u8 flags; /* REQUEST_* */
	u16 pad;
};

#define REQUEST_HEAD_COMPLETE 1
#define REQUEST_TRACE_SAMPLED 2 /* its traceparent says so */

/* The start of a request head that did not fit into one window: most do, and are never copied. */
struct http_text {
	u16 length;
	u8 truncated, pad;
	u8 text[TEXT_BYTES];
	u8 host[HOST_BYTES];
	u8 traceparent[TRACEPARENT_BYTES];
};

/* Each side's fields stand apart: see struct edge_value. Below 2 KB with the kernel's own header, which is what it allocates. */
struct http_connection {
	struct http_stream streams[2]; /* RX, TX */
	/* written by the request side */
	u32 head;		     /* requests pushed */
	u32 untimed_head;	     /* beyond HTTP_PIPELINE */
	u32 tail_seen, untimed_seen; /* the response side's, when last looked at */
	struct http_request requests[HTTP_PIPELINE];
	u32 text_kept; /* 1 + index of the request that the socket's http_text is of; a pipeline's later ones have none */
	u32 pad2;
	/* seldom written */
	u8 confirmed;
	u8 opaque; /* upgraded or tunnelled */
	u8 tunnel_refused;
	u8 pad;
	/* written by the response side */
	u32 apart[16];
	u32 tail; /* requests answered */
	u32 untimed_tail;
	u64 carried; /* of the other direction's direction.carried, already booked */
};

/* Segments met before the bytes in front of them. */
#define REORDER_SLOTS 32
#define REORDER_BYTES 12288  /* with slack below the 20 KB of socket memory that kernels before 6.7 allow */
#define REORDER_SEGMENT 4096 /* most bytes kept of one */

struct reorder_slot {
	u32 seq;
	u32 length; /* of the segment; 0: free */
	u16 offset; /* in `data` */
	u16 kept;   /* bytes kept, from the start */
};

struct reorder {
	u8 data[REORDER_BYTES + REORDER_SEGMENT];
	struct reorder_slot slots[REORDER_SLOTS];
	u32 filled; /* bytes of `data` */
	u32 used;   /* slots */
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

struct handoff {
	u32 sequence; /* of the payload's first byte */
	u32 acknowledged;
	u32 length;
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
