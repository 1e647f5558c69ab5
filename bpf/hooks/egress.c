/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/* Packets that the cgroup's sockets send, behind netfilter's output hook, retransmissions included. */
#include "l7/dns.h"

int egress(struct __sk_buff *skb)
{
	struct bpf_sock *sk = skb->sk;
	struct packet p = {};
	enum next next;

	if (!sk || !packet_read(skb, &p))
		return PASS;
	if (p.protocol == IPPROTO_UDP_) {
		if (p.destination == DNS_PORT)
			dns_packet(skb, sk, &p, TX);
		return PASS;
	}
	if (!p.length && !(p.flags & (TCP_SYN | TCP_FIN | TCP_RST)))
		return PASS; /* a bare ACK: nothing to learn */
	if ((p.flags & (TCP_SYN | TCP_ACK)) == (TCP_SYN | TCP_ACK)) {
		handshake_remember(sk, p.ack - 1, p.destination, ROLE_SERVER);
		return PASS;
	}
	next = tcp_packet(skb, sk, &p, TX);
	if (next != NEXT_NONE) {
		egress_next.call(skb, next);
		if (next < NEXT_CLOSE_COMMANDS)
			tcp_packet_cut(sk, TX);
	}
	return PASS;
}

int egress_http1(struct __sk_buff *skb)
{
	struct bpf_sock *sk = skb->sk;
	enum next next;

	if (!sk)
		return PASS;
	next = tcp_http1(skb, skb, sk, TX);
	if (next != NEXT_NONE) {
		egress_next.call(skb, next);
		tcp_packet_cut(sk, TX);
	}
	return PASS;
}

int egress_http2(struct __sk_buff *skb)
{
	struct bpf_sock *sk = skb->sk;

	if (sk)
		tcp_http2(skb, skb, sk, TX);
	return PASS;
}

int egress_close(struct __sk_buff *skb)
{
	struct bpf_sock *sk = skb->sk;

	if (sk && tcp_close_next(skb, sk))
		egress_next.call(skb, NEXT_CLOSE);
	return PASS;
}

int egress_close_http2(struct __sk_buff *skb)
{
	struct bpf_sock *sk = skb->sk;

	if (sk && tcp_close_http2(skb, sk))
		egress_next.call(skb, NEXT_CLOSE_HTTP2);
	return PASS;
}

int egress_redis(struct __sk_buff *skb)
{
	struct bpf_sock *sk = skb->sk;

	if (sk && tcp_commands(skb, skb, sk, TX, PROTOCOL_REDIS)) {
		egress_next.call(skb, PROTOCOL_REDIS);
		tcp_packet_cut(sk, TX);
	}
	return PASS;
}

int egress_memcached(struct __sk_buff *skb)
{
	struct bpf_sock *sk = skb->sk;

	if (sk && tcp_commands(skb, skb, sk, TX, PROTOCOL_MEMCACHED)) {
		egress_next.call(skb, PROTOCOL_MEMCACHED);
		tcp_packet_cut(sk, TX);
	}
	return PASS;
}

int egress_postgresql(struct __sk_buff *skb)
{
	struct bpf_sock *sk = skb->sk;

	if (sk && tcp_commands(skb, skb, sk, TX, PROTOCOL_POSTGRESQL)) {
		egress_next.call(skb, PROTOCOL_POSTGRESQL);
		tcp_packet_cut(sk, TX);
	}
	return PASS;
}

int egress_mysql(struct __sk_buff *skb)
{
	struct bpf_sock *sk = skb->sk;

	if (sk && tcp_commands(skb, skb, sk, TX, PROTOCOL_MYSQL)) {
		egress_next.call(skb, PROTOCOL_MYSQL);
		tcp_packet_cut(sk, TX);
	}
	return PASS;
}

int egress_kafka(struct __sk_buff *skb)
{
	struct bpf_sock *sk = skb->sk;

	if (sk && tcp_commands(skb, skb, sk, TX, PROTOCOL_KAFKA)) {
		egress_next.call(skb, PROTOCOL_KAFKA);
		tcp_packet_cut(sk, TX);
	}
	return PASS;
}

int egress_close_commands(struct __sk_buff *skb)
{
	struct bpf_sock *sk = skb->sk;

	if (sk && tcp_close_commands(skb, sk))
		egress_next.call(skb, NEXT_CLOSE_COMMANDS);
	return PASS;
}
