/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/* Bringing the books up to date with a connection: its bytes, its opening, and the socket's own counters. */
#ifndef SIDELIGHT_FLUSH_H
#define SIDELIGHT_FLUSH_H

#include "order/stream.h"

#define FLUSH_BYTES (256 * 1024) /* unflushed bytes of a stream that never pushes */
#define RTT_SAMPLE_JIFFIES 2500	 /* between RTT samples of a long-lived connection: 10 s at 250 Hz */
#define COUNTED_JIFFIES 25	 /* between readings of the socket's own counters: 25 to 250 ms */

/*
 * Brings the edge up to date with one direction of a connection; `tcp` when the socket's own counters may be read. `edge`
 * is that of c->key, or null when there was no room even in the overflow entry: then the map's counter has it.
 */
static __always_inline void connection_flush_into(struct edge_value *edge, struct connection *c,
						  struct l7_connection *l, int dir, struct bpf_tcp_sock *tcp,
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
		direction_book(&edge->tx_bytes, &edge->tx_body_bytes, &edge->rx_bytes, &edge->rx_body_bytes, c, l, dir);
	else
		direction_book(&edge->rx_bytes, &edge->rx_body_bytes, &edge->tx_bytes, &edge->tx_body_bytes, c, l, dir);
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

static __always_inline void connection_flush(struct connection *c, struct l7_connection *l, int dir,
					     struct bpf_tcp_sock *tcp, u64 jiffies)
{
	connection_flush_into(edge_get(&c->key), c, l, dir, tcp, jiffies);
}

/* A whole small request of which the answer is still to come: its bytes are booked with it. */
static __always_inline bool leave_to_answer(const struct connection *c, const struct l7_connection *l,
					    const struct stream *s)
{
	return s->request && protocol_awaits_answer(c, s) && !l->opaque &&
	       !(c->flags & (CONN_ADOPTED | CONN_OPEN_PENDING));
}

/* The socket's own counters (segments, retransmissions, RTT) are read now and then, at its end, and when it retransmits. */
static __always_inline void connection_flush_packet(struct bpf_sock *sk, struct connection *c, struct l7_connection *l,
						    int dir)
{
	struct direction *d = &c->dir[dir];
	struct bpf_tcp_sock *tcp = 0;
	struct stream *s = 0;
	u64 jiffies = 0;

	if (l) {
		s = &l->streams[dir];
		if (leave_to_answer(c, l, s)) {
			s->body_carried = s->body_bytes - s->body_flushed;
			d->carried = d->bytes - d->flushed;
		}
	}
	if (dir == TX) {
		jiffies = bpf_jiffies64();
		if (c->retransmitted || jiffies - c->counted_jiffies >= COUNTED_JIFFIES) {
			c->counted_jiffies = jiffies;
			c->retransmitted = 0;
			tcp = bpf_tcp_sock(sk);
		}
	}
	if (!tcp && s && protocol_answers(c, s) && !(c->flags & CONN_OPEN_PENDING) &&
	    d->bytes - d->carried - d->flushed < FLUSH_BYTES)
		return;
	if (tcp || d->bytes - d->carried != d->flushed || (s && s->body_bytes - s->body_carried != s->body_flushed) ||
	    c->flags & CONN_OPEN_PENDING)
		connection_flush(c, l, dir, tcp, jiffies);
}

#endif
