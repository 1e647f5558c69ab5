/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/* A TCP packet of an observed socket, in either direction. */
#ifndef SIDELIGHT_TCP_H
#define SIDELIGHT_TCP_H

#include "l7/tls.h"
#include "socket/flush.h"
#include "socket/handshakes.h"

#define EPHEMERAL_FIRST 32768 /* default net.ipv4.ip_local_port_range */
#define DNS_PORT 53
#define TCP_LISTEN_ 10

/* Addresses and ports of a socket that was there before the programs. */
static __always_inline void connection_adopt(struct __sk_buff *skb, struct bpf_sock *sk, struct connection *c)
{
	u64 cookie = bpf_get_socket_cookie(skb);
	u8 *known = adopted_roles.lookup(&cookie);
	u16 local_port = sk->src_port, remote_port = bpf_ntohs((u16)sk->dst_port);
	struct edge_value *edge;

	c->flags = CONN_ADOPTED | CONN_OPENED;
	if (known) {
		c->key.role = *known;
	} else {
		c->key.role = local_port >= EPHEMERAL_FIRST && remote_port < local_port ? ROLE_CLIENT : ROLE_SERVER;
		c->flags |= CONN_ROLE_GUESSED;
		COUNT(role_guessed);
	}
	if (sk->family == AF_INET_) {
		map_ipv4(c->key.remote, sk->dst_ip4);
		map_ipv4(c->local, sk->src_ip4);
	} else {
		u32 *to = (u32 *)c->key.remote;

		to[0] = sk->dst_ip6[0];
		to[1] = sk->dst_ip6[1];
		to[2] = sk->dst_ip6[2];
		to[3] = sk->dst_ip6[3];
		to = (u32 *)c->local;
		to[0] = sk->src_ip6[0];
		to[1] = sk->src_ip6[1];
		to[2] = sk->src_ip6[2];
		to[3] = sk->src_ip6[3];
	}
	c->local_port = local_port;
	c->remote_port = remote_port;
	c->key.port = c->key.role == ROLE_CLIENT ? remote_port : local_port;
	c->key.cgroup_id = bpf_sk_cgroup_id(sk);
	c->started_ns = bpf_ktime_get_ns();
	c->established_ns = c->started_ns;
	COUNT(seen_adopted);
	edge = edge_get(&c->key);
	if (edge)
		EDGE_ADD(edge, adopted, 1);
	event_connection(skb, c, EVENT_OPEN, 0, c->started_ns, 0, 0);
}

/* The end of a connection, once: its edge, its RTT, its event. The caller has flushed the bytes. */
static __always_inline void connection_end(void *ctx, struct edge_value *edge, struct connection *c, u8 reason, u64 now,
					   u32 srtt_us)
{
	u64 duration = now - c->established_ns;

	c->flags |= CONN_CLOSED;
	COUNT(seen_closed);
	if (edge) {
		EDGE_ADD(edge, closed[reason & (CLOSE_REASONS - 1)], 1);
		EDGE_ADD(edge, duration_ns, duration);
	}
	if (srtt_us)
		latency_tcp(&c->key, PROTOCOL_TCP_RTT, (u64)srtt_us * 1000);
	event_connection(ctx, c, EVENT_CLOSE, reason, now, duration, srtt_us);
}

/* Bytes of the stream, each once: what lies above the highest sequence number seen. */
static __always_inline bool direction_advance(struct connection *c, int dir, const struct packet *p)
{
	struct direction *d = &c->dir[dir];
	s32 fresh = (s32)(p->seq + p->length - d->end);

	if (!d->known) {
		d->known = 1;
		d->end = p->seq + p->length;
		d->bytes += p->length;
		return true;
	}
	if (fresh <= 0) {
		if (dir == TX)
			c->retransmitted = 1;
		return true;
	}
	if (fresh > WINDOW_LIMIT) {
		COUNT(lost_out_of_window);
		return false;
	}
	d->end += fresh;
	d->bytes += fresh;
	return true;
}

/*
 * The first payload says what the connection speaks: its state when that is a protocol which is followed. Only
 * l7_begin() decides it, once the stream is taken: another CPU may be here with the next segment.
 */
static __always_inline struct l7_connection *l7_detect(struct __sk_buff *skb, struct bpf_sock *sk, struct connection *c,
						       const struct packet *p, int dir, u8 *protocol)
{
	struct settings *set = current_settings();
	struct l7_connection *l;
	u8 first[8] = {};

	if (!set || !set->l7) {
		c->l7 = L7_OPAQUE;
		COUNT(lost_l7_shed);
		return 0;
	}
	if (!(c->flags & CONN_ADOPTED) && c->dir[dir].known && p->seq == c->dir[dir].end) {
		if (!is_request(c, dir)) {
			*protocol = protocol_server_begins(skb, p);
		} else {
			u64 n = p->length < sizeof(first) ? p->length : sizeof(first);

			BOUND_MOST(n, 8);
			if (bpf_skb_load_bytes(skb, p->offset, first, n)) {
				COUNT(lost_payload_read);
				c->l7 = L7_OPAQUE;
				return 0;
			}
			*protocol = protocol_begins(first);
		}
		if (*protocol >= L7_TLS) {
			c->l7 = *protocol;
			if (*protocol == L7_TLS) {
				c->hello_left = 0;
				c->hello_events = 0;
				COUNT(seen_tls);
			}
			return 0;
		}
	}
	l = l7_connections.sk_storage_get(sk, 0, BPF_SK_STORAGE_GET_F_CREATE);
	if (!l)
		l = l7_connections.sk_storage_get(sk, 0, 0); /* the other direction's run was faster */
	if (!l) {
		COUNT(lost_l7_storage);
		c->l7 = L7_OPAQUE;
	}
	return l;
}

/* The stream `s`, which is taken, has its first segment: the other direction may be at work already, on another CPU. */
static __always_inline void l7_begin(struct connection *c, struct stream *s, const struct packet *p, int dir,
				     u8 protocol)
{
	if (c->l7 == L7_UNKNOWN)
		c->l7 = protocol;
	if (s->begun)
		return;
	s->begun = 1;
	s->next = c->dir[dir].known ? c->dir[dir].end : p->seq;
	protocol_begin_stream(c, s, c->l7, is_request(c, dir));
	if (c->flags & CONN_ADOPTED)
		s->state = STREAM_RESYNC;
}

/* A segment of the stream `s`, which is taken. The protocol's program when there are bytes to look at; `flush`: whether to bring the books up to date. */
static __always_inline enum next tcp_stream(struct __sk_buff *skb, struct bpf_sock *sk, struct connection *c,
					    struct l7_connection *l, struct stream *s, const struct packet *p, int dir,
					    bool full, bool *flush)
{
	s->flush = *flush;
	s->request = is_request(c, dir);
	if (stream_within_body(s, p)) {
		stream_pass_body(c, s, p);
		*flush = full; /* more of the body is to come */
	} else if (stream_accept(skb, sk, c, l, s, p, dir, is_request(c, dir))) {
		return protocol_step(c);
	}
	if (dir == RX)
		stream_release(s);
	return NEXT_NONE;
}

/*
 * What every TCP packet of an observed socket goes through. Says which program is to go on: a chain of small ones
 * costs the verifier far less than one large one.
 */
static __always_inline enum next tcp_packet(struct __sk_buff *skb, struct bpf_sock *sk, const struct packet *p, int dir)
{
	struct l7_connection *l = 0;
	struct stream *s = 0;
	struct connection *c;
	u8 protocol = PROTOCOL_HTTP1;
	bool flush, full;

	c = connections.sk_storage_get(sk, 0, 0);
	if (!c) {
		if (p->flags & TCP_SYN || !p->length)
			return NEXT_NONE; /* sock_ops makes the state of new connections; an idle old one is no news */
		c = connections.sk_storage_get(sk, 0, BPF_SK_STORAGE_GET_F_CREATE);
		if (!c) {
			COUNT(lost_connection_storage);
			return NEXT_NONE;
		}
		connection_adopt(skb, sk, c);
	}
	if (c->flags & CONN_CLOSED)
		return NEXT_NONE;
	if (!c->key.cgroup_id)
		c->key.cgroup_id = bpf_sk_cgroup_id(sk);
	if (p->flags & TCP_RST)
		c->dir[dir].packets |= SAW_RST;
	if (p->flags & TCP_FIN) {
		c->dir[dir].packets |= SAW_FIN;
		if (!c->first_closer)
			c->first_closer = 1 + (dir == TX ? CLOSE_FIN_LOCAL : CLOSE_FIN_REMOTE);
	}
	if (dir == TX && (p->flags & (TCP_SYN | TCP_ACK)) == TCP_SYN) {
		handshake_remember(sk, p->seq, p->source, ROLE_CLIENT);
		if (!(c->flags & CONN_ATTEMPTED)) {
			struct edge_value *edge = edge_get(&c->key);

			c->flags |= CONN_ATTEMPTED;
			c->local_port = p->source;
			COUNT(seen_attempts);
			if (edge)
				EDGE_ADD(edge, attempts, 1);
		}
		return NEXT_NONE;
	}
	flush = p->length && (p->flags & (TCP_PSH | TCP_FIN)); /* a bare FIN brings no bytes */
	if (p->length) {
		if (c->l7 == L7_UNKNOWN)
			l = l7_detect(skb, sk, c, p, dir, &protocol);
		else if (c->l7 < L7_TLS)
			l = l7_connections.sk_storage_get(sk, 0, 0);
		if (l) {
			s = &l->streams[dir];
			if (dir == RX && !stream_take(s)) {
				if (skb->cb[0] < WAIT_ROUNDS)
					return NEXT_WAIT;
				COUNT(lost_stream_contended);
				*(volatile u8 *)&s->missed = 1; /* whoever has it next finds the hole */
				l = 0;
			} else if (c->l7 == L7_UNKNOWN || !s->begun) {
				l7_begin(c, s, p, dir, protocol);
			} else if (*(volatile u8 *)&s->missed) {
				*(volatile u8 *)&s->missed = 0;
				protocol_lose_sync(sk, c, l, s, is_request(c, dir));
				s->stashed = 0;
			}
		}
		if (!direction_advance(c, dir, p)) {
			if (l && dir == RX)
				stream_release(s);
			return NEXT_NONE;
		}
		full = c->dir[dir].bytes - c->dir[dir].flushed >= FLUSH_BYTES || (dir == TX && c->retransmitted);
		flush |= full;
		if (l) {
			enum next next = tcp_stream(skb, sk, c, l, s, p, dir, full, &flush);

			if (next != NEXT_NONE)
				return next;
		} else if (c->l7 == L7_TLS && is_request(c, dir)) {
			tls_hello(skb, c, p, dir);
		} else if (c->key.port == DNS_PORT && c->key.role == ROLE_CLIENT && dir == RX) {
			event_payload(skb, c, EVENT_DNS, EVENT_INBOUND, p->offset, p->length, 0, p->seq);
		}
	}
	if (flush)
		connection_flush_packet(sk, c, l, dir);
	if ((c->flags & CONN_ADOPTED) &&
	    ((p->flags & TCP_RST) || (c->dir[RX].packets & c->dir[TX].packets & SAW_FIN))) {
		connection_end(skb, edge_get(&c->key), c, CLOSE_UNKNOWN, bpf_ktime_get_ns(), 0);
		return c->l7 != L7_UNKNOWN && c->l7 < L7_TLS ? protocol_close(c) : NEXT_NONE;
	}
	return NEXT_NONE;
}

/* Parses on until the bytes at hand and the kept ones behind them are used up. True: once more, for the rest. */
static __always_inline bool http1_advance(void *ctx, struct __sk_buff *skb, struct bpf_sock *sk, struct connection *c,
					  struct l7_connection *l, struct stream *s, int dir)
{
	struct reorder *kept = 0;

	if (s->slot || s->stashed)
		kept = reorder_of(sk, dir, 0);
	if (http1_step(ctx, skb, sk, c, l, s, kept))
		return true;
	if (!s->stashed)
		return false;
	kept = reorder_of(sk, dir, 0); /* again, rather than alive through the loops above */
	return kept && reorder_next(kept, s);
}

/* Nothing of the packet is left to be looked at. */
static __always_inline void tcp_packet_done(struct __sk_buff *skb, struct bpf_sock *sk, struct connection *c,
					    struct l7_connection *l, int dir)
{
	/* a sock_ops run's connection has just begun: nobody else has seen it yet */
	if (skb && dir == RX)
		stream_release(&l->streams[dir]);
	if (skb && l->streams[dir].flush)
		connection_flush_packet(sk, c, l, dir);
}

/* One more step of HTTP/1 for the packet; in a sock_ops run, which has none, for what was kept. Which program makes the next one. */
static __always_inline enum next tcp_http1(void *ctx, struct __sk_buff *skb, struct bpf_sock *sk, int dir)
{
	struct l7_connection *l = l7_connections.sk_storage_get(sk, 0, 0);
	struct connection *c = connections.sk_storage_get(sk, 0, 0);

	if (!c || !l)
		return NEXT_NONE;
	if (http1_advance(ctx, skb, sk, c, l, &l->streams[dir], dir))
		return protocol_step(c);
	tcp_packet_done(skb, sk, c, l, dir);
	return NEXT_NONE;
}

/* All of HTTP/2 for the packet, likewise. */
static __always_inline void tcp_http2(void *ctx, struct __sk_buff *skb, struct bpf_sock *sk, int dir)
{
	struct l7_connection *l = l7_connections.sk_storage_get(sk, 0, 0);
	struct connection *c = connections.sk_storage_get(sk, 0, 0);

	if (!c || !l)
		return;
	http2_run(ctx, skb, sk, c, l, dir);
	tcp_packet_done(skb, sk, c, l, dir);
}

/* All of a protocol of commands for the packet, likewise; without bpf_loop() a part of it: true when there is more. */
static __always_inline bool tcp_commands(void *ctx, struct __sk_buff *skb, struct bpf_sock *sk, int dir, u8 protocol)
{
	struct l7_connection *l = l7_connections.sk_storage_get(sk, 0, 0);
	struct connection *c = connections.sk_storage_get(sk, 0, 0);
	struct command_turn t = {.ctx = ctx, .skb = skb, .sk = sk, .c = c, .l = l, .dir = dir};

	if (!c || !l)
		return false;
	t.s = &l->streams[dir];
	if (commands_begin(&t)) {
		if (protocol == PROTOCOL_REDIS)
			redis_run(&t);
		else if (protocol == PROTOCOL_POSTGRESQL)
			postgresql_run(&t);
		else if (protocol == PROTOCOL_MYSQL)
			mysql_run(&t);
		else if (protocol == PROTOCOL_KAFKA)
			kafka_run(&t);
		else
			memcached_run(&t);
		commands_end(&t);
		if (t.s->left)
			return true;
	}
	tcp_packet_done(skb, sk, c, l, dir);
	return false;
}

/* Books the next exchange that will have no answer; true when there are more. */
static __always_inline bool tcp_close_next(void *ctx, struct bpf_sock *sk)
{
	struct l7_connection *l = l7_connections.sk_storage_get(sk, 0, 0);
	struct connection *c = connections.sk_storage_get(sk, 0, 0);

	return c && l && exchange_close(ctx, sk, c, l, bpf_ktime_get_ns());
}

/* Books what is in flight over HTTP/2; true when there is more. */
static __always_inline bool tcp_close_http2(void *ctx, struct bpf_sock *sk)
{
	struct l7_connection *l = l7_connections.sk_storage_get(sk, 0, 0);
	struct connection *c = connections.sk_storage_get(sk, 0, 0);

	return c && l && http2_close(ctx, sk, c, l);
}

/* ... what waits on a connection of commands. */
static __always_inline bool tcp_close_commands(void *ctx, struct bpf_sock *sk)
{
	struct l7_connection *l = l7_connections.sk_storage_get(sk, 0, 0);
	struct connection *c = connections.sk_storage_get(sk, 0, 0);

	return c && l && commands_close(ctx, sk, c, l);
}

/*
 * After the 33 tail calls that the kernel allows: a segment of more messages is not followed to its end. HTTP/2 makes none: its
 * program is not there, on a kernel before 5.17.
 */
static __always_inline void tcp_packet_cut(struct bpf_sock *sk, int dir)
{
	struct l7_connection *l = l7_connections.sk_storage_get(sk, 0, 0);
	struct connection *c = connections.sk_storage_get(sk, 0, 0);

	if (c && c->l7 == PROTOCOL_HTTP2) {
		COUNT(http2_not_followed);
		c->l7 = L7_OPAQUE;
		if (l && dir == RX)
			stream_release(&l->streams[dir]);
		connection_flush_packet(sk, c, 0, dir);
		return;
	}
	COUNT(lost_stream_tail_call);
	if (!l || !c)
		return;
	protocol_lose_sync(sk, c, l, &l->streams[dir], is_request(c, dir));
	if (dir == RX)
		stream_release(&l->streams[dir]);
	connection_flush_packet(sk, c, l, dir);
}

#endif
