/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/* DNS over UDP (RFC 1035), the client's side: counted and timed here, names are for the agent. */
#ifndef SIDELIGHT_DNS_H
#define SIDELIGHT_DNS_H

#include "socket/tcp.h"

#define DNS_HEADER 12

static __always_inline void dns_connection(struct __sk_buff *skb, struct bpf_sock *sk, const struct packet *p,
					   struct connection *c, int dir)
{

	/* an unconnected socket has no peer: take the addresses from the packet */
	if (p->version == 4) {
		bpf_skb_load_bytes(skb, dir == TX ? 16 : 12, c->key.remote + 12, 4);
		bpf_skb_load_bytes(skb, dir == TX ? 12 : 16, c->local + 12, 4);
		c->key.remote[10] = c->key.remote[11] = 0xff;
		c->local[10] = c->local[11] = 0xff;
	} else {
		bpf_skb_load_bytes(skb, dir == TX ? 24 : 8, c->key.remote, 16);
		bpf_skb_load_bytes(skb, dir == TX ? 8 : 24, c->local, 16);
	}
	c->key.cgroup_id = bpf_sk_cgroup_id(sk);
	c->key.port = DNS_PORT;
	c->key.role = ROLE_CLIENT;
	c->remote_port = DNS_PORT;
	c->local_port = dir == TX ? p->source : p->destination;
}

static __always_inline void dns_packet(struct __sk_buff *skb, struct bpf_sock *sk, const struct packet *p, int dir)
{
	struct settings *set = current_settings();
	struct connection c = {};
	struct dns_socket *d;
	u8 header[DNS_HEADER] = {};
	bool response;
	u16 id;

	if (!set || !set->l7)
		return;
	if (p->length < DNS_HEADER || bpf_skb_load_bytes(skb, p->offset, header, DNS_HEADER)) {
		COUNT(dns_malformed);
		return;
	}
	response = header[2] & 0x80;
	if (response != (dir == RX)) {
		COUNT(dns_malformed);
		return;
	}
	id = be16(header);
	d = dns_sockets.sk_storage_get(sk, 0, BPF_SK_STORAGE_GET_F_CREATE);
	if (!d) {
		COUNT(lost_connection_storage);
		return;
	}
	if (!response) {
		struct dns_query *q = &d->queries[d->next & (DNS_PENDING - 1)];

		COUNT(seen_dns_queries);
		if (q->used)
			COUNT(dns_unanswered);
		q->started_ns = bpf_ktime_get_ns();
		q->id = id;
		q->used = 1;
		d->next++;
		return;
	}
	for (int i = 0; i < DNS_PENDING; i++) {
		struct dns_query *q = &d->queries[i];

		if (q->used && q->id == id) {
			struct latency_key key = {.protocol = PROTOCOL_DNS, .status = header[3] & 15};
			u64 taken = bpf_ktime_get_ns() - q->started_ns;

			q->used = 0;
			COUNT(seen_dns_responses);
			dns_connection(skb, sk, p, &c, dir);
			key.edge = c.key;
			latency_record(&key, taken, true);
			event_payload(skb, &c, EVENT_DNS, EVENT_INBOUND, p->offset, p->length, taken, 0);
			return;
		}
	}
	COUNT(dns_unmatched_response);
}

#endif
