/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/* IP, TCP and UDP headers of a packet, as far as the programs need them. */
#ifndef SIDELIGHT_PACKET_H
#define SIDELIGHT_PACKET_H

#include "books/edge.h"

#define PASS 1 /* both hooks: let the packet go on, always */

/* RFC 9293, 3.1 */
#define TCP_FIN 0x01
#define TCP_SYN 0x02
#define TCP_RST 0x04
#define TCP_PSH 0x08
#define TCP_ACK 0x10

#define IPPROTO_HOPOPTS_ 0 /* RFC 8200: jumbo payloads carry it */
#define IPPROTO_TCP_ 6
#define IPPROTO_UDP_ 17
#define AF_INET_ 2
#define AF_INET6_ 10

struct packet {
	u32 offset; /* of the payload, from the network header */
	u32 length; /* of the payload; a GSO or GRO packet counts whole */
	u32 seq;
	u32 ack;
	u16 source, destination;
	u8 protocol;
	u8 flags;
	u8 version;
};

/*
 * Reads headers straight from the packet: the stack has pulled them into the linear part in both directions.
 * False when there is nothing for us; a packet that should have been readable is counted.
 */
static __always_inline bool packet_read(struct __sk_buff *skb, struct packet *p)
{
	u8 *data = (u8 *)(long)skb->data, *end = (u8 *)(long)skb->data_end;
	u32 header;
	u8 *l4;

	if (data + 20 > end) {
		COUNT(lost_header_read);
		return false;
	}
	p->version = data[0] >> 4;
	if (p->version == 4) {
		p->protocol = data[9];
		header = (data[0] & 15) * 4;
		if (be16(data + 6) & 0x1fff)
			return false; /* a later fragment: no L4 header */
	} else {
		if (data + 40 > end) {
			COUNT(lost_header_read);
			return false;
		}
		p->protocol = data[6];
		header = 40;
		if (p->protocol == IPPROTO_HOPOPTS_) {
			if (data + 48 > end) {
				COUNT(lost_header_read);
				return false;
			}
			p->protocol = data[40];
			header = 40 + (data[41] + 1) * 8;
		}
		if (p->protocol == 43 || p->protocol == 44 || p->protocol == 60) {
			COUNT(lost_ipv6_extension);
			return false;
		}
	}
	if (header > 2088)
		return false;
	l4 = data + header;
	if (p->protocol == IPPROTO_TCP_) {
		if (l4 + 20 > end) {
			COUNT(lost_header_read);
			return false;
		}
		p->source = be16(l4);
		p->destination = be16(l4 + 2);
		p->seq = be32(l4 + 4);
		p->ack = be32(l4 + 8);
		p->offset = header + (l4[12] >> 4) * 4;
		p->flags = l4[13];
	} else if (p->protocol == IPPROTO_UDP_) {
		if (l4 + 8 > end) {
			COUNT(lost_header_read);
			return false;
		}
		p->source = be16(l4);
		p->destination = be16(l4 + 2);
		p->offset = header + 8;
		p->flags = 0;
	} else {
		return false;
	}
	p->length = skb->len > p->offset ? skb->len - p->offset : 0;
	return true;
}

/* a.b.c.d as ::ffff:a.b.c.d */
static __always_inline void map_ipv4(u8 *to, u32 address_be)
{
	__builtin_memset(to, 0, 10);
	to[10] = 0xff;
	to[11] = 0xff;
	__builtin_memcpy(to + 12, &address_be, 4);
}

#endif
