/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/* State of what is asked over a connection: its two streams, and the exchanges in flight, which every protocol shares. */
#ifndef SIDELIGHT_L7_STATE_H
#define SIDELIGHT_L7_STATE_H

#include "order/segments.h"

enum exchange_flags {
	EXCHANGE_WHOLE = 1,   /* the request was seen to its end, as far as it needs to be */
	EXCHANGE_SAMPLED = 2, /* its traceparent says so */
};

/* One that waits for its answer. Its method and flags stand apart: together they fill whole words. */
struct exchange {
	u64 started_ns;
	u32 seq;
	u32 operation; /* l7/operation.h */
};

/* What a request said first, when it did not fit into one window: most do, and are never copied. */
struct exchange_text {
	u16 length;
	u8 truncated, pad;
	u8 text[TEXT_BYTES];
	u8 host[HOST_BYTES];
	u8 traceparent[TRACEPARENT_BYTES];
};

/* Each side's fields stand apart: see struct edge_value. Below 2 KB with the kernel's own header, which is what it allocates. */
struct l7_connection {
	struct stream streams[2]; /* RX, TX */
	/* written by the request side */
	u32 head;		     /* exchanges begun */
	u32 untimed_head;	     /* beyond EXCHANGES */
	u32 tail_seen, untimed_seen; /* the response side's, when last looked at */
	struct exchange exchanges[EXCHANGES];
	u8 methods[EXCHANGES];
	u8 flags[EXCHANGES]; /* enum exchange_flags */
	u32 text_kept; /* 1 + index of the exchange that the socket's exchange_text is of; a pipeline's later ones have none */
	/* seldom written */
	u8 confirmed;
	u8 opaque; /* upgraded or tunnelled */
	u8 tunnel_refused;
	u8 pad;
	/* written by the response side */
	u32 apart[14];
	u32 tail; /* exchanges answered */
	u32 untimed_tail;
	u64 carried; /* of the other direction's direction.carried, already booked */
};

#define ROUTE_BYTES 192 /* of a path */
#define ROUTE_SEGMENTS 24

/* A path at work, in the socket's own memory: a CPU's could be taken by another run in between. */
struct route {
	u8 text[256];	/* ROUTE_BYTES, and a place for what is not to be kept */
	u64 hashes[32]; /* of segments, likewise */
	u32 length;
	u32 segments;
};

/* From a state of the templates' table, by a segment's hash or by one of STEP_*, to a state or to an operation's id. */
struct route_step {
	u64 segment;
	u32 state;
	u32 pad;
};

#endif
