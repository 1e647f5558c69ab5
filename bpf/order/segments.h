/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/* State of the order of bytes: one stream a direction, and the segments that came too early. */
#ifndef SIDELIGHT_SEGMENTS_H
#define SIDELIGHT_SEGMENTS_H

#include "types.h"

/*
 * One direction of a connection whose protocol is followed: a pull parser over windows of the stream. What stands below "the
 * protocol's own" means what its header in l7/ says.
 */
struct stream {
	u8 window[HEAD_WINDOW]; /* unfinished part of a message */
	u8 slack[8]; /* what words of eight bytes read and write beyond it; nothing else may follow the window */
	u64 body_bytes;
	u64 body_flushed;
	u64 body_carried; /* of them left to the response's runs, as struct direction.carried */
	u64 started_ns;	  /* of the message at hand */
	u32 started_seq;
	u32 next;	  /* sequence number of the next byte to parse */
	u32 offset, left; /* rest of the segment at hand, in its source (order/source.h) */
	u32 busy;	  /* runs that want the stream: the one who finds itself alone has it */
	u32 text_number;  /* 1 + index of the exchange whose text the window holds from its first byte; 0: none */
	u16 have;	  /* bytes in `window` */
	u16 text_length;
	u16 stashed; /* segments kept in the reorder storage */
	u8 slot;     /* source of the bytes at hand: 0 the skb, else 1 + reorder slot */
	u8 flush;    /* the segment at hand asks for the books to be brought up to date */
	u8 request;  /* this is the direction of requests */
	u8 state;    /* the protocol's own from here on, but for the two first states: enum stream_state */
	u8 flags;
	u8 method;
	u16 status;
	u8 missed; /* a segment was given up: the stream has a hole that nothing fills */
	u8 begun;  /* its first segment has been met */
	u16 line_end;
	/* where the scan of this step has found values, in the window; 0: nowhere */
	u16 length_at, host_at, trace_at, coding_end, upgrade_at;
	u16 pad[3];
	u64 remaining; /* bytes that need not be looked at */
	u64 length;
};

/* States that the order of bytes knows about; a protocol's own begin at STREAM_OWN. */
enum stream_state {
	STREAM_START = 0,  /* between messages */
	STREAM_RESYNC = 1, /* framing unknown: wait for a segment that begins a message */
	STREAM_DEAD = 2,   /* opaque from here on */
	STREAM_BODY = 3,   /* `remaining` bytes to be passed over, then STREAM_START */
	STREAM_PASS = 4,   /* everything is passed over: a body until the connection's end, or what a tunnel carries */
	STREAM_OWN = 8,
};

/* Segments met before the bytes in front of them. */
#define REORDER_SLOTS 32
#define REORDER_BYTES 8192   /* with everything else below the 20 KB of socket memory that kernels before 6.7 allow */
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

#endif
