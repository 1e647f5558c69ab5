/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/* State of what is asked over a connection: its two streams, and the exchanges in flight, which every protocol shares. */
#ifndef SIDELIGHT_L7_STATE_H
#define SIDELIGHT_L7_STATE_H

#include "order/segments.h"

enum exchange_flags {
	EXCHANGE_WHOLE = 1,   /* the request was seen to its end, as far as it needs to be */
	EXCHANGE_SAMPLED = 2, /* its traceparent says so */
	EXCHANGE_H2C = 4,     /* it asks to go on as HTTP/2 */
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
	u64 carried;	  /* of the other direction's direction.carried, already booked */
	u64 body_carried; /* ... of its stream's body_carried */
};

#define ROUTE_BYTES 192 /* of a path */
#define ROUTE_SEGMENTS 24

/* What the characters of a segment have been so far. */
struct path_segment {
	u64 at;	    /* where it begins in the text */
	u64 length; /* its characters so far */
	u64 digits, hex, dashes, ats;
	u64 hash;
};

/* A path at work, in the socket's own memory: a CPU's could be taken by another run in between. */
struct route {
	u8 text[256];	/* ROUTE_BYTES, and a place for what is not to be kept */
	u64 hashes[32]; /* of segments, likewise */
	u32 length;
	u32 segments;
	struct path_segment segment; /* where one character a call is looked at */
	u64 next, out, found, ended;
};

/* From a state of the templates' table, by a segment's hash or by one of STEP_*, to a state or to an operation's id. */
struct route_step {
	u64 segment;
	u32 state;
	u32 pad;
};

#define HPACK_TEXT 256	  /* of a string: what is longer keeps its start and its length */
#define HPACK_ENTRIES 128 /* of a dynamic table: all that 4096 bytes can hold (RFC 7541, 4.1) */

/* An entry of a dynamic table: not the text, but what it says to us. */
struct hpack_entry {
	u32 value; /* by the header: enum method, a status, an operation's id; of other headers the name's length */
	u32 start; /* enum header << 24, and how many bytes had been inserted before it, modulo 2^24 */
};

/* A decoder of header blocks (RFC 7541), and the frame that its direction is in. */
struct http2_direction {
	u8 text[HPACK_TEXT + 32]; /* the string at hand, decoded; the table behind it takes what is written too far */
	struct hpack_entry entries[HPACK_ENTRIES];
	/* the dynamic table: entry i, counted from the first one, is in entries[i % HPACK_ENTRIES] */
	u32 inserted;
	u32 total; /* bytes inserted, by RFC 7541's count */
	u32 low;   /* entries that began before this many have been evicted */
	u32 table_size;
	u32 base; /* entries before this one are not known */
	/* the field at hand */
	u32 number;
	u32 string_left; /* bytes of the string still to come, as they are sent */
	u32 length;	 /* of the string, decoded */
	u32 name_length;
	u16 at;	  /* in the window */
	u8 phase; /* enum hpack_phase */
	u8 after; /* the phase that a number belongs to */
	u8 shift;
	u8 how;	 /* enum hpack_how */
	u8 kind; /* enum header */
	u8 huffman;
	u8 huffman_state;
	u8 naming;  /* the string is the name */
	u8 skipped; /* nobody wants the string */
	/* the frame at hand */
	u8 type, frame_flags;
	u8 prefix; /* bytes before its payload proper: padding's length, priority, promised stream */
	u8 padding;
	u32 id;
	/* the header block at hand: a HEADERS frame and its CONTINUATIONs */
	u8 in_block, block_type, block_flags;
	u8 grpc; /* its content-type says so */
	u32 block_id;
	u32 block_left; /* bytes of this frame's part that are not in the window yet */
	u16 status;
	u8 grpc_status; /* 1 + code; 0: not said */
	u8 unknown;	/* enum unnamed: why a field of it could not be read */
	u32 path_entry; /* 1 + number of the entry that its path became */
	/* messages of a gRPC stream, while one of its DATA frames is passed */
	u32 messages, message_left, prefix_part;
	u8 prefix_have;
	u8 why;	    /* enum unnamed: why entries before `base` are not known */
	u16 octets; /* of a string that a turn decodes */
	u32 reset;  /* why the stream was reset */
	u32 frame_most;
};

/* Of an operation, for telling the agent again: not every protocol says it twice. */
struct operation_text {
	u8 text[OPERATION_BYTES];
};

/* What a request said in words. */
struct http2_text {
	u8 text[TEXT_BYTES];
	u8 host[HOST_BYTES];
	u8 traceparent[TRACEPARENT_BYTES];
};

#define MEMO_BYTES 64
#define MEMOS 4

/* A gRPC method's path as it was sent: who sends it again, byte by byte, need not be read again. */
struct path_memo {
	u8 raw[MEMO_BYTES]; /* zeros behind its end */
	u32 operation;	    /* 0: none */
	u32 length;	    /* in bytes, with the bit for Huffman's code as the wire has it */
};

struct http2_connection {
	struct http2_direction directions[2];
	struct http2_stream fresh; /* what the request's block at hand has said */
	struct http2_text words;   /* ... in words */
	struct path_memo memos[MEMOS];
	u32 memo;     /* 1 + number of the one that waits for its operation */
	u32 words_of; /* the stream whose words these are, once its block is whole; 0: none */
	u32 host_hash;
	u8 said; /* enum http2_said */
	u8 rpc;	 /* a stream is gRPC, or may be */
	u8 pad[2];
	u64 cookie;
	/* written by the request side */
	u32 lowest, highest; /* streams in flight are between them */
	u32 begun, untimed_begun;
	/* by either */
	u32 ended;
	/* by the response side */
	u32 untimed_ended;
	u32 doubtful; /* answers may have been missed of streams up to this one */
	/* at the end */
	u32 close_low, close_high, close_runs;
	u32 pad2;
};

#define COMMANDS 128   /* of one connection whose answers are awaited; what is beyond is counted, untimed */
#define REPLY_DEPTH 16 /* arrays in arrays */

/* One that waits for its answer. */
struct command {
	u64 started_ns;
	u32 seq;
	u32 operation;
	u16 more; /* the protocol's own */
	u8 method;
	u8 flags; /* enum command_flags; the lower half is the protocol's own */
	u32 id;	  /* the protocol's own: Kafka's correlation id */
};

/* Answers that differ in nothing, not in the bucket of their latency either: they go into the books as one. */
struct answers {
	u64 key; /* method | timed << 8 | bucket << 16 | status << 32 */
	u64 sum_ns;
	u64 first_ns;
	u32 operation;
	u32 count;
};

#define STATEMENTS 16

/* A prepared statement, by a hash of its name: what it does. */
struct statement {
	u32 name;
	u8 method;
	u8 pad[3];
};

/* A line of words at work: it may be longer than what is looked at in one go. */
struct line_words {
	u64 number; /* of the word that is wanted */
	u64 last;   /* the last eight characters */
	u32 word;   /* its index so far */
	u8 quiet;   /* a word "q" is among them */
	u8 pad[3];
};

/* A connection of commands, answered in their order: databases, caches, queues. Each side's fields stand apart. */
struct commands {
	struct command queue[COMMANDS];
	/* written by the request side */
	u32 head;		     /* commands begun */
	u32 untimed_head;	     /* beyond COMMANDS */
	u32 tail_seen, untimed_seen; /* the response side's, when last looked at */
	struct command fresh;	     /* the one at hand */
	u32 parts;		     /* of it, still to come */
	u32 part;		     /* the one at hand */
	u8 asked;		     /* what its words have said so far, the protocol's own */
	u8 silent;		     /* enum silence */
	u8 lost;		     /* this side lost its place: the other one's queue means nothing */
	u8 pad[5];
	struct answers oneway; /* that nobody answers */
	struct line_words asked_words;
	u32 wanted;		       /* operations among what was begun: not all that has an answer is one */
	u32 untimed_marks;	       /* ends of groups beyond COMMANDS */
	u32 untimed_group, marks_seen; /* untimed_head at the last of them; the response side's marks_done */
	u8 bound_method;	       /* what was bound last does */
	u8 said_text;		       /* the text kept last is that of the next one */
	u8 pad4[2];
	u32 text_of;	 /* 1 + index of the command whose text is kept; 0: of none yet */
	u64 group_ns;	 /* when the group at hand began */
	u8 group_method; /* what it prepares */
	u8 pad3[7];
	struct statement statements[STATEMENTS];
	u32 apart[16];
	/* written by the response side */
	struct line_words answered_words;
	u64 idle_ns;	    /* since when a transaction waits for its next command; 0: none does */
	u64 transaction_ns; /* when it began */
	u32 done;	    /* of `wanted` */
	u32 marks_done;	    /* of `untimed_marks` */
	u32 tail;	    /* commands done with */
	u32 next;	    /* the one whose answer comes next: beyond `tail` where answers come in two steps */
	u32 untimed_tail;
	u32 depth; /* of the answer at hand */
	u64 first_ns;
	u32 left[REPLY_DEPTH]; /* parts still to come, at each depth */
	u16 status;	       /* of the answer at hand */
	u16 part_status;       /* of its part at hand */
	u8 begun;	       /* its first byte has come */
	u8 kind;	       /* the protocol's own */
	u8 mode;	       /* of the connection, likewise */
	u8 due;		       /* enum command_due: what the turn at hand has found */
	u32 more;	       /* the protocol's own */
	u8 first;	       /* the next part is the answer's first one */
	u8 failed;	       /* what is due has */
	u16 due_status;
	u8 due_method; /* what it is, where only the answer says so */
	u8 pad5[7];
	u64 opened_ns; /* when the command was asked whose answer is at hand */
	struct answers answers;
};

/* What the loader fills once: RFC 7541, appendices A and B (agent/hpack.py). */
struct hpack_tables {
	u32 huffman[4096]; /* by state and four bits: next state, symbol << 8, whether it is one << 16 */
	u32 fixed[64];	   /* the static table: enum header, name's length << 8, value << 16 */
};

#endif
