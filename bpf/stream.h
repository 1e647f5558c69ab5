/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/*
 * From segments to a stream: duplicates are dropped, gaps in bodies are passed over, and segments that came too early
 * are kept until the bytes in front of them arrive.
 */
#ifndef SIDELIGHT_STREAM_H
#define SIDELIGHT_STREAM_H

#include "http.h"
#include "packet.h"

#define WINDOW_LIMIT (1 << 26)	 /* no receive window is larger than this in practice */
#define FLUSH_BYTES (256 * 1024) /* unflushed bytes of a stream that never pushes */
#define BUSY_SPINS 256		 /* waits for another CPU's run: about a microsecond */
#define RTT_SAMPLE_JIFFIES 2500	 /* between RTT samples of a long-lived connection: 10 s at 250 Hz */
#define COUNTED_JIFFIES 25	 /* between readings of the socket's own counters: 25 to 250 ms */
#define TCP_LISTEN_ 10

static __always_inline struct reorder *reorder_of(struct bpf_sock *sk, int dir, u64 flags)
{
	if (dir == RX)
		return reorder_rx.sk_storage_get(sk, 0, flags);
	return reorder_tx.sk_storage_get(sk, 0, flags);
}

/* Keeps a segment that arrived too early. False when that was not possible. */
static __always_inline bool reorder_keep(struct __sk_buff *skb, struct reorder *kept, struct http_stream *s,
					 const struct packet *p)
{
	struct reorder_slot *slot;
	u32 filled, last;
	u64 n;

	if (s->stashed == 0) {
		kept->filled = 0;
		kept->used = 0;
	}
	last = (kept->used - 1) & (REORDER_SLOTS - 1);
	if (kept->used) {
		slot = &kept->slots[last];
		if (slot->length && slot->seq == p->seq)
			return true; /* again */
		if (slot->length && slot->seq + slot->length == p->seq && slot->kept < slot->length) {
			/* behind bytes we have not kept either: a body, or lost anyway */
			slot->length += p->length;
			return true;
		}
	}
	if (kept->used >= REORDER_SLOTS)
		return false;
	filled = kept->filled;
	if (filled >= REORDER_BYTES)
		filled = REORDER_BYTES;
	n = p->length < REORDER_SEGMENT - 1 ? p->length : REORDER_SEGMENT - 1;
	BOUND_SIZE(n, 4095);
	if (bpf_skb_load_bytes(skb, p->offset, kept->data + filled, n)) {
		COUNT(lost_payload_read);
		return false;
	}
	slot = &kept->slots[kept->used & (REORDER_SLOTS - 1)];
	slot->seq = p->seq;
	slot->length = p->length;
	slot->offset = filled;
	if (filled + n > REORDER_BYTES)
		n = REORDER_BYTES - filled; /* the rest is slack, the next one overwrites it */
	slot->kept = n;
	kept->filled = filled + n;
	kept->used++;
	s->stashed++;
	return true;
}

/* Puts the kept segment that continues the stream at hand. False when there is none. */
static __always_inline bool reorder_next(struct reorder *kept, struct http_stream *s)
{
	for (u32 i = 0; i < REORDER_SLOTS; i++) {
		struct reorder_slot *slot = &kept->slots[i];
		u32 skip;

		if (i >= kept->used)
			break;
		if (!slot->length || (s32)(slot->seq - s->next) > 0)
			continue;
		skip = s->next - slot->seq;
		if (skip < slot->length) {
			s->slot = i + 1;
			s->offset = skip;
			s->left = slot->length - skip;
			s->next = slot->seq + slot->length;
			return true;
		}
		slot->length = 0;
		if (s->stashed)
			s->stashed--;
	}
	return false;
}

/* The gap before a segment, if the parser can do without it. */
static __always_inline bool http_pass_gap(struct http_stream *s, u32 gap)
{
	if (s->state == HTTP_UNTIL_CLOSE || s->state == HTTP_DEAD || s->state == HTTP_TUNNEL)
		return true;
	if (s->state == HTTP_RESYNC) {
		s->have = 0;
		return true;
	}
	if ((s->state == HTTP_BODY || s->state == HTTP_CHUNK_DATA) && s->remaining >= gap) {
		s->left = gap;
		http_skip_body(s);
		return true;
	}
	return false;
}

/* Is a segment that begins like this a place to pick up a stream whose framing was lost? */
static __always_inline bool http_resync_here(struct __sk_buff *skb, struct http_connection *h, struct http_stream *s,
					     bool request)
{
	u64 w = 0;

	if (!skb || s->left < 16 || bpf_skb_load_bytes(skb, s->offset, &w, 8))
		return false;
	if (request)
		return h->head == h->tail && http_method(w) != METHOD_OTHER;
	return h->head != h->tail && (w & LOW(7)) == WORD_HTTP_1;
}

/* Is the segment the next one of the stream, and body to its last byte? Most of a bulk transfer is: no parser needed. */
static __always_inline bool http_within_body(const struct http_stream *s, const struct packet *p)
{
	return (s->state == HTTP_BODY || s->state == HTTP_UNTIL_CLOSE) && s->next == p->seq && !s->stashed &&
	       (s->state == HTTP_UNTIL_CLOSE || s->remaining > p->length);
}

static __always_inline void http_pass_body(struct http_stream *s, const struct packet *p)
{
	s->next += p->length;
	s->left = p->length;
	http_skip_body(s);
}

/* Accepts a segment into the stream. True when there are bytes to parse. */
static __always_inline bool http_accept(struct __sk_buff *skb, struct bpf_sock *sk, struct http_connection *h,
					struct http_stream *s, const struct packet *p, int dir, bool request)
{
	s32 gap = (s32)(p->seq - s->next);
	u32 skip = 0;

	if (gap < 0) {
		skip = -gap;
		if (skip >= p->length)
			return false;
	} else if (gap > 0) {
		if (gap > WINDOW_LIMIT) {
			COUNT(lost_out_of_window);
			return false;
		}
		if (!http_pass_gap(s, gap)) {
			struct reorder *kept = reorder_of(sk, dir, BPF_SK_STORAGE_GET_F_CREATE);

			if (!kept)
				COUNT(lost_reorder_storage);
			else if (reorder_keep(skb, kept, s, p))
				return false;
			http_lose_sync(h, s, request);
			s->stashed = 0;
		}
	}
	s->slot = 0;
	s->offset = p->offset + skip;
	s->left = p->length - skip;
	s->next = p->seq + p->length;
	if (s->state == HTTP_RESYNC) {
		if (!http_resync_here(skb, h, s, request)) {
			s->left = 0;
			return false;
		}
		s->flags = HTTP_RESYNCING;
		s->have = 0;
		s->state = HTTP_START;
	}
	return true;
}

/*
 * Brings the edge up to date with one direction of a connection; `tcp` when the socket's own counters may be read. `edge`
 * is that of c->key, or null when there was no room even in the overflow entry: then the map's counter has it.
 */
static __always_inline void connection_flush_into(struct edge_value *edge, struct connection *c,
						  struct http_connection *h, int dir, struct bpf_tcp_sock *tcp,
						  u64 jiffies)
{
	if (!edge)
		return;
	if (c->flags & CONN_OPEN_PENDING) {
		c->flags &= ~CONN_OPEN_PENDING;
		COUNT(seen_opened);
		EDGE_ADD(edge, opened, 1);
	}
	if (dir == TX)
		direction_book(&edge->tx_bytes, &edge->tx_body_bytes, &edge->rx_bytes, c, h, dir);
	else
		direction_book(&edge->rx_bytes, &edge->rx_body_bytes, &edge->tx_bytes, c, h, dir);
	if (tcp) {
		u32 segments = tcp->segs_out - c->tx_segments_flushed;

		c->tx_segments_flushed += segments;
		if (segments)
			EDGE_ADD(edge, tx_segments, segments);
		segments = tcp->segs_in - c->rx_segments_flushed;
		c->rx_segments_flushed += segments;
		if (segments)
			EDGE_ADD(edge, rx_segments, segments);
		segments = tcp->total_retrans - c->retransmits_flushed;
		c->retransmits_flushed += segments;
		if (segments)
			EDGE_ADD(edge, retransmits, segments);
		if (jiffies - c->rtt_sampled_jiffies > RTT_SAMPLE_JIFFIES) {
			if (c->rtt_sampled_jiffies && tcp->srtt_us)
				latency_tcp(&c->key, PROTOCOL_TCP_RTT, (u64)(tcp->srtt_us >> 3) * 1000);
			c->rtt_sampled_jiffies = jiffies;
		}
	}
}

static __always_inline void connection_flush(struct connection *c, struct http_connection *h, int dir,
					     struct bpf_tcp_sock *tcp, u64 jiffies)
{
	connection_flush_into(edge_get(&c->key), c, h, dir, tcp, jiffies);
}

/* A whole small request of which the answer is still to come: its bytes are booked with it. */
static __always_inline bool http_leave_to_response(const struct connection *c, const struct http_connection *h,
						   const struct http_stream *s)
{
	return s->request && s->state == HTTP_START && (s->flags & HTTP_PUSHED) && !h->opaque &&
	       !(c->flags & (CONN_ADOPTED | CONN_OPEN_PENDING));
}

/* The socket's own counters (segments, retransmissions, RTT) are read now and then, at its end, and when it retransmits. */
static __always_inline void connection_flush_packet(struct bpf_sock *sk, struct connection *c,
						    struct http_connection *h, int dir)
{
	struct direction *d = &c->dir[dir];
	struct bpf_tcp_sock *tcp = 0;
	struct http_stream *s = 0;
	u64 jiffies = 0;

	if (h) {
		s = &h->streams[dir];
		if (s->body_bytes == s->body_flushed && http_leave_to_response(c, h, s))
			d->carried = d->bytes - d->flushed;
	}
	if (dir == TX) {
		jiffies = bpf_jiffies64();
		if (c->retransmitted || jiffies - c->counted_jiffies >= COUNTED_JIFFIES) {
			c->counted_jiffies = jiffies;
			c->retransmitted = 0;
			tcp = bpf_tcp_sock(sk);
		}
	}
	if (tcp || d->bytes - d->carried != d->flushed || (s && s->body_bytes != s->body_flushed) ||
	    c->flags & CONN_OPEN_PENDING)
		connection_flush(c, h, dir, tcp, jiffies);
}

/*
 * Parses on until the bytes at hand and the kept ones behind them are used up. Returns true when the program has to
 * call itself for more.
 */
static __always_inline bool http_advance(void *ctx, struct __sk_buff *skb, struct bpf_sock *sk, struct connection *c,
					 struct http_connection *h, struct http_stream *s, int dir)
{
	struct reorder *kept = 0;

	if (s->slot || s->stashed)
		kept = reorder_of(sk, dir, 0);
	if (http_step(ctx, skb, sk, c, h, s, kept))
		return true;
	if (!s->stashed)
		return false;
	kept = reorder_of(sk, dir, 0); /* again, rather than alive through the loops above */
	return kept && reorder_next(kept, s);
}

#endif
