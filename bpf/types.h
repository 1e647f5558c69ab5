/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/*
 * The one source of every layout that kernel and user space share.
 *
 * agent/layout.py reads this file: keep to `struct name {`, one field a line of type u8, u16, u32, u64
 * (or an array of them) and no implicit padding. tests/unit/agent/test_layout.py compares the result
 * with what the C compiler says. A change here changes the layout's hash: the loader then starts
 * with fresh maps and says so.
 */
#ifndef SIDELIGHT_TYPES_H
#define SIDELIGHT_TYPES_H

/* Bounds. */
#define LATENCY_BUCKETS 112 /* see struct latency_value */
#define EXCHANGES 32	    /* of one connection whose answers are awaited, first in, first out */
#define HEAD_WINDOW 512	    /* bytes of a head looked at in one go; longer lines keep their first bytes */
#define TEXT_BYTES 192	    /* start of a request head kept for events */
#define OPERATION_BYTES 128 /* of an operation's text; longer ones keep their start */
#define HOST_BYTES 64
#define TRACEPARENT_BYTES 56 /* 55 characters by W3C Trace Context, one of padding */
#define CLOSE_REASONS 8
#define STATUS_UNREAD 999  /* there was one, in a form that could not be read */
#define STATUS_SILENT 998  /* nobody was to answer */
#define PAYLOAD_BYTES 1024 /* of a DNS message or ClientHello carried by an event */

enum role { ROLE_UNKNOWN = 0, ROLE_CLIENT = 1, ROLE_SERVER = 2, ROLE_OVERFLOW = 255 };

enum protocol {
	PROTOCOL_HTTP1 = 1,
	PROTOCOL_DNS = 2,
	PROTOCOL_TCP_RTT = 3,	  /* smoothed RTT samples */
	PROTOCOL_TCP_CONNECT = 4, /* SYN to established, client side */
	PROTOCOL_HTTP2 = 5,
	PROTOCOL_GRPC = 6,
	PROTOCOL_REDIS = 7,
	PROTOCOL_MEMCACHED = 8,
	PROTOCOL_POSTGRESQL = 9,
	PROTOCOL_MYSQL = 10,
	PROTOCOL_KAFKA = 11,
	PROTOCOL_DB_TRANSACTION = 12, /* a data store's transactions, by enum transaction_status */
	PROTOCOL_DB_IDLE = 13,	      /* how long they wait for their client's next command */
};

enum transaction_status { TRANSACTION_COMMITTED = 1, TRANSACTION_ROLLED_BACK = 2 };

enum method {
	METHOD_OTHER = 0,
	METHOD_GET = 1,
	METHOD_HEAD = 2,
	METHOD_POST = 3,
	METHOD_PUT = 4,
	METHOD_DELETE = 5,
	METHOD_CONNECT = 6,
	METHOD_OPTIONS = 7,
	METHOD_TRACE = 8,
	METHOD_PATCH = 9,
};

/* What words stand for: a command, how it went, or a command that has a number on the wire. */
enum word_kind { WORDS_COMMANDS = 0, WORDS_STATUSES = 1, WORDS_CODES = 2 };

/* Why an attempt failed. */
enum fail_reason {
	FAIL_REFUSED = 0,
	FAIL_TIMED_OUT = 1,
	FAIL_RESET = 2,
	FAIL_UNREACHABLE = 3,
	FAIL_ABORTED = 4, /* the application gave up first */
};

/* How a connection ended, and who began it. */
enum close_reason {
	CLOSE_FIN_LOCAL = 0,
	CLOSE_FIN_REMOTE = 1,
	CLOSE_RST_LOCAL = 2,
	CLOSE_RST_REMOTE = 3,
	CLOSE_TIMED_OUT = 4,
	CLOSE_UNKNOWN = 5, /* adopted: its states were not reported */
};

enum event_type {
	EVENT_OPEN = 1,
	EVENT_CLOSE = 2,
	EVENT_FAIL = 3,
	EVENT_REQUEST = 4,
	EVENT_DNS = 5,
	EVENT_TLS = 6,
	EVENT_OPERATION = 7, /* a new operation's text */
};

enum event_flags {
	EVENT_ADOPTED = 1,    /* the connection is older than the programs */
	EVENT_UNANSWERED = 2, /* the connection ended before a response */
	EVENT_SLOW = 4,
	EVENT_TEXT_TRUNCATED = 8,
	EVENT_ROLE_GUESSED = 16,
	EVENT_TRACE_SAMPLED = 32, /* traceparent says sampled */
	EVENT_INBOUND = 64,	  /* DNS: the answer; TLS: seen by the server */
};

/* Who talks to whom. Addresses are in network order, IPv4 as ::ffff:a.b.c.d; ports in host order. */
struct edge_key {
	u64 cgroup_id;
	u64 peer_cgroup_id; /* 0 unless the other end is observed on this node too */
	u8 remote[16];
	u16 port; /* the server's */
	u8 role;
	u8 pad[5];
};

/*
 * What both CPUs of a connection write stands apart: the two directions of a socket often run on different CPUs, and a
 * cache line that wanders between them costs more than the program. Rarely written fields are first and in between.
 */
struct edge_value {
	u64 attempts;
	u64 opened;
	u64 adopted;
	u64 duration_ns;
	u64 failed[8]; /* by enum fail_reason */
	u64 rx_bytes;
	u64 rx_body_bytes; /* of HTTP messages received */
	u64 closed[8];	   /* by enum close_reason */
	u64 tx_bytes;
	u64 tx_body_bytes;
	u64 tx_segments;
	u64 rx_segments;
	u64 retransmits;
};

struct latency_key {
	struct edge_key edge;
	u16 status; /* HTTP status, 1 + gRPC code, a database's (0: none came; STATUS_*), DNS rcode */
	u8 protocol;
	u8 method;     /* enum method, a database's command; DNS: query type, 255 for above 254 */
	u32 operation; /* id of a text, 0: none, or folded (l7/operation.h) */
};

/*
 * Bucket 0 holds durations up to 2^-20 s, bucket i those in (2^((i-81)/4) s, 2^((i-80)/4) s], the last
 * one all above 2^7.5 s: exponential histogram of scale 2 in OpenTelemetry's terms. The bounds, in
 * whole ns, are put into the map `bounds` by the loader.
 */
struct latency_value {
	u64 sum_ns;
	/* Bytes of the edge that went with these exchanges: to be added to its own. One look-up a response, not two. */
	u64 rx_bytes;
	u64 rx_body_bytes;
	u64 tx_bytes;
	u64 tx_body_bytes;
	/* gRPC: time until the response's first message, of so many, and messages; databases: until the answer's first byte */
	u64 first_ns;
	u64 first_count;
	u64 tx_messages;
	u64 rx_messages;
	u32 untimed; /* counted, but without a known start */
	u32 pad;
	u32 buckets[112];
};

/* Written to the ring buffer `events`; types above 3 are longer, see below. */
struct event {
	u64 time_ns; /* CLOCK_MONOTONIC */
	u64 cookie;
	struct edge_key key;
	u8 local[16];
	u16 local_port;
	u16 remote_port;
	u16 status;
	u8 type;
	u8 reason; /* enum fail_reason or close_reason; of a request: enum protocol */
	u8 method;
	u8 flags;
	u16 text_length;
	u32 srtt_us;
	u64 duration_ns;
	u64 tx_bytes;
	u64 rx_bytes;
	u64 segments; /* sent << 32 | received */
	u32 retransmits;
	u32 request_seq; /* TCP sequence number of the request's first byte */
	u32 response_seq;
	u32 operation;
};

/* EVENT_REQUEST: what of the request's head was kept. */
struct request_event {
	struct event event;
	u8 text[192];
	u8 host[64];
	u8 traceparent[56];
};

/* EVENT_DNS, EVENT_TLS: text_length bytes of the payload. */
struct payload_event {
	struct event event;
	u8 payload[1024];
};

/* EVENT_OPERATION: `operation` stands for this text from now on. */
struct operation_event {
	struct event event;
	u8 text[128];
};

/* An operation that counts apart, by its id. */
struct operation_value {
	u32 check;     /* another hash of the text: two texts of one id are told apart */
	u32 announced; /* the agent has been told */
};

/* A stream's messages in one direction: five bytes of prefix, then so many (gRPC over HTTP2, "Length-Prefixed-Message"). */
struct message_state {
	u32 count;
	u32 left; /* bytes until the next prefix */
	u32 part; /* of the prefix' length */
	u32 have; /* bytes of the prefix */
};

/* An exchange in flight on a connection that has many: l7/http2_stream.h. */
struct http2_stream_key {
	u64 cookie;
	u32 id;
	u32 pad;
};

struct http2_stream {
	struct edge_key edge;
	u64 started_ns;
	u64 first_ns;	/* when the answer began: its head, of gRPC its first message */
	u64 timeout_ns; /* grpc-timeout */
	u32 seq;
	u32 operation;
	u16 status;
	u16 text_length;
	u8 grpc_status;
	u8 method;
	u8 flags;   /* enum http2_stream_flags */
	u8 unnamed; /* enum unnamed */
	struct message_state messages[2];
};

/* A word that a protocol's programs know by number (agent/vocabulary.py), in capitals, zeros behind its end. */
struct word_key {
	u64 text[3];
	u32 protocol;
	u32 kind; /* enum word_kind */
};

/* Set by the agent at any time; zero means off. */
struct settings {
	u64 slow_ns;	     /* requests at least this slow are events of the priority class */
	u32 sample_period;   /* one of so many ordinary requests is an event; 0: none */
	u32 ordinary_rate;   /* events a second and CPU, ordinary requests */
	u32 priority_rate;   /* failed, slow and trace-sampled requests */
	u32 connection_rate; /* opens, closes and failures */
	u32 payload_rate;    /* DNS and TLS */
	u8 events;
	u8 head_text;
	u8 l7;
	u8 routes;     /* HTTP routes are operations: 1 by folding, 2 by templates */
	u8 query_text; /* events of SQL have the statement's start, for the agent to mask */
	u8 pad[7];
};

#endif
