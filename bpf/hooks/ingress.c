/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/*
 * Received packets of the cgroup's sockets, as the socket gets them (sk_filter): before TCP has put them in order, and
 * without the lock of the socket. See connection.h.
 */
#include "l7/dns.h"

/*
 * The handshake's last ACK at the listener, and the payload it may carry (or the bare one was lost). The child's establishment
 * callback follows on this CPU within the same softirq and picks it up: a callback cannot ask for the cgroup.
 */
static __always_inline void handoff_leave(struct __sk_buff *skb, struct bpf_sock *sk, const struct packet *p)
{
	struct handoff *to;
	u64 n = p->length;
	u32 zero = 0;

	to = handoffs.lookup(&zero);
	if (!to)
		return;
	to->cgroup_id = bpf_sk_cgroup_id(sk);
	to->sequence = p->seq;
	to->acknowledged = p->ack;
	to->length = n;
	to->kept = 0;
	to->remote_port = p->source;
	to->local_port = p->destination;
	if (!n)
		return;
	if (n > REORDER_SEGMENT - 1)
		n = REORDER_SEGMENT - 1;
	*(u64 *)to->data = 0; /* what the protocol is told by, however short */
	BOUND_SIZE(n, 4095);
	if (bpf_skb_load_bytes(skb, p->offset, to->data, n)) {
		COUNT(lost_payload_read);
		to->length = 0;
		return;
	}
	to->kept = n;
}

int ingress(struct __sk_buff *skb)
{
	struct bpf_sock *sk = skb->sk;
	struct packet p = {};
	enum next next;

	if (!sk || !packet_read(skb, &p))
		return PASS;
	if (p.protocol == IPPROTO_UDP_) {
		if (p.source == DNS_PORT)
			dns_packet(skb, sk, &p, RX);
		return PASS;
	}
	if (sk->state == TCP_LISTEN_) {
		if (!(p.flags & TCP_SYN))
			handoff_leave(skb, sk, &p);
		else if (p.version == 6) /* see there: not every kernel shows the answer */
			handshake_remember(sk, p.seq, p.source, ROLE_SERVER);
		return PASS;
	}
	if (!p.length && !(p.flags & (TCP_SYN | TCP_FIN | TCP_RST)))
		return PASS; /* a bare ACK: nothing to learn */
	next = tcp_packet(skb, sk, &p, RX);
	if (next != NEXT_NONE) {
		ingress_next.call(skb, next);
		if (next < NEXT_CLOSE_COMMANDS)
			tcp_packet_cut(sk, RX);
	}
	return PASS;
}

int ingress_http1(struct __sk_buff *skb)
{
	struct bpf_sock *sk = skb->sk;
	enum next next;

	if (!sk)
		return PASS;
	next = tcp_http1(skb, skb, sk, RX);
	if (next != NEXT_NONE) {
		ingress_next.call(skb, next);
		tcp_packet_cut(sk, RX);
	}
	return PASS;
}

int ingress_http2(struct __sk_buff *skb)
{
	struct bpf_sock *sk = skb->sk;

	if (sk)
		tcp_http2(skb, skb, sk, RX);
	return PASS;
}

/* Another CPU has the stream: looks on until it is free, then begins again with the segment, which nobody has dealt with yet. */
int ingress_wait(struct __sk_buff *skb)
{
	struct l7_connection *l;
	struct bpf_sock *sk = skb->sk;

	if (!sk)
		return PASS;
	l = l7_connections.sk_storage_get(sk, 0, 0);
	skb->cb[0]++;
	if (l && !stream_wait(&l->streams[RX]) && skb->cb[0] < WAIT_ROUNDS)
		ingress_next.call(skb, NEXT_WAIT);
	ingress_next.call(skb, NEXT_AGAIN);
	COUNT(lost_stream_tail_call);
	return PASS;
}

int ingress_close(struct __sk_buff *skb)
{
	struct bpf_sock *sk = skb->sk;

	if (sk && tcp_close_next(skb, sk))
		ingress_next.call(skb, NEXT_CLOSE);
	return PASS;
}

int ingress_close_http2(struct __sk_buff *skb)
{
	struct bpf_sock *sk = skb->sk;

	if (sk && tcp_close_http2(skb, sk))
		ingress_next.call(skb, NEXT_CLOSE_HTTP2);
	return PASS;
}

int ingress_redis(struct __sk_buff *skb)
{
	struct bpf_sock *sk = skb->sk;

	if (sk && tcp_commands(skb, skb, sk, RX, PROTOCOL_REDIS)) {
		ingress_next.call(skb, PROTOCOL_REDIS);
		tcp_packet_cut(sk, RX);
	}
	return PASS;
}

int ingress_memcached(struct __sk_buff *skb)
{
	struct bpf_sock *sk = skb->sk;

	if (sk && tcp_commands(skb, skb, sk, RX, PROTOCOL_MEMCACHED)) {
		ingress_next.call(skb, PROTOCOL_MEMCACHED);
		tcp_packet_cut(sk, RX);
	}
	return PASS;
}

int ingress_postgresql(struct __sk_buff *skb)
{
	struct bpf_sock *sk = skb->sk;

	if (sk && tcp_commands(skb, skb, sk, RX, PROTOCOL_POSTGRESQL)) {
		ingress_next.call(skb, PROTOCOL_POSTGRESQL);
		tcp_packet_cut(sk, RX);
	}
	return PASS;
}

int ingress_mysql(struct __sk_buff *skb)
{
	struct bpf_sock *sk = skb->sk;

	if (sk && tcp_commands(skb, skb, sk, RX, PROTOCOL_MYSQL)) {
		ingress_next.call(skb, PROTOCOL_MYSQL);
		tcp_packet_cut(sk, RX);
	}
	return PASS;
}

int ingress_kafka(struct __sk_buff *skb)
{
	struct bpf_sock *sk = skb->sk;

	if (sk && tcp_commands(skb, skb, sk, RX, PROTOCOL_KAFKA)) {
		ingress_next.call(skb, PROTOCOL_KAFKA);
		tcp_packet_cut(sk, RX);
	}
	return PASS;
}

int ingress_close_commands(struct __sk_buff *skb)
{
	struct bpf_sock *sk = skb->sk;

	if (sk && tcp_close_commands(skb, sk))
		ingress_next.call(skb, NEXT_CLOSE_COMMANDS);
	return PASS;
}
