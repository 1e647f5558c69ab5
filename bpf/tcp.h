/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/* A TCP packet of an observed socket, in either direction. */
#ifndef SIDELIGHT_TCP_H
#define SIDELIGHT_TCP_H

#include "stream.h"

#define EPHEMERAL_FIRST 32768 /* default net.ipv4.ip_local_port_range */
#define HELLO_EVENTS 4	      /* pieces of a ClientHello passed to the agent at most */
#define DNS_PORT 53

/* Index into the program arrays. */
enum next { NEXT_PARSE = 0, NEXT_CLOSE = 1, NEXT_NONE = 2 };

static __always_inline void handshake_remember(struct bpf_sock *sk, u32 sequence, u16 client_port, u8 from)
{
	u64 key = handshake_key(sequence, client_port, from), cgroup = bpf_sk_cgroup_id(sk);
	struct handshakes *bucket = handshake_bucket(key);
	struct handshake *place;

	if (!bucket)
		return;
	place = &bucket->ways[0];
#pragma unroll
	for (int way = 1; way < HANDSHAKE_WAYS; way++)
		if (bucket->ways[way].jiffies < place->jiffies)
			place = &bucket->ways[way];
	place->key = key;
	place->cgroup_id = cgroup;
	place->check = key ^ cgroup;
	place->jiffies = bpf_jiffies64();
}

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

/* The first payload says what the connection speaks. */
static __always_inline struct http_connection *l7_detect(struct __sk_buff *skb, struct bpf_sock *sk,
							 struct connection *c, const struct packet *p, int dir,
							 bool in_order)
{
	struct settings *set = current_settings();
	struct http_connection *h;
	u8 first[2] = {};

	if (!set || !set->l7) {
		c->l7 = L7_OPAQUE;
		COUNT(http_shed_connections);
		return 0;
	}
	if (!(c->flags & CONN_ADOPTED) && in_order) {
		if (!http_is_request(c, dir)) {
			c->l7 = L7_OPAQUE; /* the server speaks first */
			return 0;
		}
		if (bpf_skb_load_bytes(skb, p->offset, first, 1)) {
			COUNT(lost_payload_read);
			c->l7 = L7_OPAQUE;
			return 0;
		}
		if (first[0] == 0x16) {
			c->l7 = L7_TLS;
			c->hello_left = 0;
			c->hello_events = 0;
			COUNT(seen_tls);
			return 0;
		}
		if (!http_first_byte(first[0])) {
			c->l7 = L7_OPAQUE;
			return 0;
		}
	}
	h = http_connections.sk_storage_get(sk, 0, BPF_SK_STORAGE_GET_F_CREATE);
	if (!h) {
		COUNT(lost_http_storage);
		c->l7 = L7_OPAQUE;
		return 0;
	}
	c->l7 = L7_HTTP;
	h->streams[RX].next = c->dir[RX].end;
	h->streams[TX].next = c->dir[TX].end;
	if (c->flags & CONN_ADOPTED) {
		h->streams[RX].state = HTTP_RESYNC;
		h->streams[TX].state = HTTP_RESYNC;
		if (!c->dir[dir].known)
			h->streams[dir].next = p->seq;
	}
	return h;
}

/* Passes the first record of a TLS client to the agent, which looks for the server's name in it. */
static __always_inline void tls_hello(struct __sk_buff *skb, struct connection *c, const struct packet *p, int dir)
{
	u8 record[5] = {};

	if (c->hello_events == 0) {
		if (p->length < 5 || bpf_skb_load_bytes(skb, p->offset, record, 5)) {
			c->l7 = L7_OPAQUE;
			return;
		}
		c->hello_left = be16(record + 3) + 5;
	}
	event_payload(skb, c, EVENT_TLS, dir == RX ? EVENT_INBOUND : 0, p->offset, p->length, 0, p->seq);
	c->hello_events++;
	if (p->length >= c->hello_left || c->hello_events >= HELLO_EVENTS) {
		c->l7 = L7_OPAQUE;
		return;
	}
	c->hello_left -= p->length;
}

/*
 * What every TCP packet of an observed socket goes through. Says which program is to go on: a chain of small ones
 * costs the verifier far less than one large one.
 */
static __always_inline enum next tcp_packet(struct __sk_buff *skb, struct bpf_sock *sk, const struct packet *p, int dir)
{
	struct http_connection *h = 0;
	struct http_stream *s;
	struct connection *c;
	bool in_order, flush, full;

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
		in_order = c->dir[dir].known && p->seq == c->dir[dir].end;
		if (c->l7 == L7_UNKNOWN)
			h = l7_detect(skb, sk, c, p, dir, in_order);
		else if (c->l7 == L7_HTTP)
			h = http_connections.sk_storage_get(sk, 0, 0);
		if (!direction_advance(c, dir, p))
			return NEXT_NONE;
		full = c->dir[dir].bytes - c->dir[dir].flushed >= FLUSH_BYTES || (dir == TX && c->retransmitted);
		flush |= full;
		if (h) {
			s = &h->streams[dir];
			if (dir == RX) {
				u32 spins = 0;

				for (; spins < BUSY_SPINS; spins++)
					if (!*(volatile u32 *)&s->busy)
						break;
				if (spins == BUSY_SPINS)
					COUNT(lost_http_contended);
				*(volatile u32 *)&s->busy = 1;
			}
			s->flush = flush;
			s->request = http_is_request(c, dir);
			if (http_within_body(s, p)) {
				http_pass_body(s, p);
				flush = full; /* more of the body is to come */
			} else if (http_accept(skb, sk, h, s, p, dir, http_is_request(c, dir))) {
				return NEXT_PARSE;
			}
			if (dir == RX)
				*(volatile u32 *)&s->busy = 0;
		} else if (c->l7 == L7_TLS && http_is_request(c, dir)) {
			tls_hello(skb, c, p, dir);
		} else if (c->key.port == DNS_PORT && c->key.role == ROLE_CLIENT && dir == RX) {
			event_payload(skb, c, EVENT_DNS, EVENT_INBOUND, p->offset, p->length, 0, p->seq);
		}
	}
	if (flush)
		connection_flush_packet(sk, c, h, dir);
	if ((c->flags & CONN_ADOPTED) &&
	    ((p->flags & TCP_RST) || (c->dir[RX].packets & c->dir[TX].packets & SAW_FIN))) {
		connection_end(skb, edge_get(&c->key), c, CLOSE_UNKNOWN, bpf_ktime_get_ns(), 0);
		return c->l7 == L7_HTTP ? NEXT_CLOSE : NEXT_NONE;
	}
	return NEXT_NONE;
}

/* A further step for the packet: true when yet another one is wanted. */
static __always_inline bool tcp_packet_next(struct __sk_buff *skb, struct bpf_sock *sk, int dir)
{
	struct http_connection *h = http_connections.sk_storage_get(sk, 0, 0);
	struct connection *c = connections.sk_storage_get(sk, 0, 0);
	struct http_stream *s;

	if (!c || !h)
		return false;
	s = &h->streams[dir];
	if (http_advance(skb, skb, sk, c, h, s, dir))
		return true;
	if (dir == RX)
		*(volatile u32 *)&s->busy = 0;
	if (s->flush)
		connection_flush_packet(sk, c, h, dir);
	return false;
}

/* Books the next request that will have no answer; true when there are more. */
static __always_inline bool tcp_close_next(void *ctx, struct bpf_sock *sk)
{
	struct http_connection *h = http_connections.sk_storage_get(sk, 0, 0);
	struct connection *c = connections.sk_storage_get(sk, 0, 0);

	return c && h && http_close_one(ctx, sk, c, h, bpf_ktime_get_ns());
}

/* After the 33 tail calls that the kernel allows: a segment of more messages is not followed to its end. */
static __always_inline void tcp_packet_cut(struct bpf_sock *sk, int dir)
{
	struct http_connection *h = http_connections.sk_storage_get(sk, 0, 0);
	struct connection *c = connections.sk_storage_get(sk, 0, 0);

	COUNT(lost_http_tail_call);
	if (!h || !c)
		return;
	http_lose_sync(h, &h->streams[dir], http_is_request(c, dir));
	h->streams[dir].busy = 0;
	connection_flush_packet(sk, c, h, dir);
}

#endif
