/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/* The application lets go of a socket: tells "gave up" from "unreachable", and ends connections we adopted. */
#include "socket/tcp.h"

int sock_release(struct bpf_sock *sk)
{
	struct connection *c;

	if (sk->protocol != IPPROTO_TCP_)
		return 1;
	c = connections.sk_storage_get(sk, 0, 0);
	if (!c)
		return 1;
	c->flags |= CONN_RELEASED;
	if ((c->flags & CONN_ADOPTED) && !(c->flags & CONN_CLOSED))
		connection_end(sk, edge_get(&c->key), c, CLOSE_UNKNOWN, bpf_ktime_get_ns(), 0);
	return 1;
}
