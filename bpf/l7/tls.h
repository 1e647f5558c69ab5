/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/* TLS (RFC 8446, 4.1.2): the ClientHello goes to the agent, which looks for the server's name in it; the rest is opaque. */
#ifndef SIDELIGHT_TLS_H
#define SIDELIGHT_TLS_H

#include "books/events.h"
#include "socket/packet.h"

#define HELLO_EVENTS 4 /* pieces of a ClientHello passed to the agent at most */

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

#endif
