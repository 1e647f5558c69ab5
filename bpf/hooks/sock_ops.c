/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/*
 * The life of a TCP connection. Callbacks run with the socket locked. bpf_sk_cgroup_id() is not to be had here, so the
 * cgroup comes from packet runs: the client's of its SYN, the listener's of the last ACK (map `handoffs`, else `handshakes`), else
 * of the first packet.
 */
#include "socket/tcp.h"

#define TCP_SYN_SENT_ 2
#define TCP_SYN_RECV_ 3
#define TCP_CLOSE_ 7
#define TCP_CLOSE_WAIT_ 8

#define WANTED_CALLBACKS (BPF_SOCK_OPS_STATE_CB_FLAG | BPF_SOCK_OPS_RTO_CB_FLAG)

static __always_inline void connection_addresses(struct bpf_sock_ops *ops, struct connection *c)
{
	u32 *to = (u32 *)c->key.remote, *local = (u32 *)c->local;

	if (ops->family == AF_INET_) {
		map_ipv4(c->key.remote, ops->remote_ip4);
		map_ipv4(c->local, ops->local_ip4);
	} else {
		to[0] = ops->remote_ip6[0];
		to[1] = ops->remote_ip6[1];
		to[2] = ops->remote_ip6[2];
		to[3] = ops->remote_ip6[3];
		local[0] = ops->local_ip6[0];
		local[1] = ops->local_ip6[1];
		local[2] = ops->local_ip6[2];
		local[3] = ops->local_ip6[3];
	}
	c->local_port = ops->local_port;
	c->remote_port = bpf_ntohl(ops->remote_port);
}

static __always_inline void connection_opened(struct bpf_sock_ops *ops, struct connection *c, u64 now)
{
	struct edge_value *edge;

	c->established_ns = now;
	c->flags |= CONN_OPENED;
	c->dir[TX].end = ops->snd_nxt;
	c->dir[TX].known = 1;
	c->dir[RX].end = ops->rcv_nxt;
	c->dir[RX].known = 1;
	c->rtt_sampled_jiffies = bpf_jiffies64();
	if (c->key.cgroup_id) {
		COUNT(seen_opened);
		edge = edge_get(&c->key);
		if (edge)
			EDGE_ADD(edge, opened, 1);
	} else {
		c->flags |= CONN_OPEN_PENDING; /* counted by connection_flush_into() */
	}
	event_connection(ops, c, EVENT_OPEN, 0, now, now - c->started_ns, ops->srtt_us >> 3);
}

static __always_inline void on_connect(struct bpf_sock_ops *ops, struct bpf_sock *sk)
{
	struct connection *c = connections.sk_storage_get(sk, 0, BPF_SK_STORAGE_GET_F_CREATE);

	if (!c) {
		COUNT(lost_connection_storage);
		return;
	}
	if (c->started_ns)
		__builtin_memset(c, 0, sizeof(*c)); /* a socket may connect again after a failure */
	connection_addresses(ops, c);
	c->key.port = c->remote_port;
	c->key.role = ROLE_CLIENT;
	c->started_ns = bpf_ktime_get_ns();
	bpf_sock_ops_cb_flags_set(ops, WANTED_CALLBACKS);
}

static __always_inline void on_active(struct bpf_sock_ops *ops, struct bpf_sock *sk)
{
	struct connection *c = connections.sk_storage_get(sk, 0, 0);
	u64 now = bpf_ktime_get_ns();

	if (!c)
		return; /* the attempt is older than the programs: adopted at its first payload */
	c->key.peer_cgroup_id = handshake_cgroup(ops->snd_nxt - 1, c->local_port, ROLE_SERVER);
	connection_opened(ops, c, now);
	latency_tcp(&c->key, PROTOCOL_TCP_CONNECT, now - c->started_ns);
}

/* What the listener's run left for this child, which is established by it; null when it left nothing. */
static __always_inline struct handoff *handoff_find(struct bpf_sock_ops *ops, const struct connection *c)
{
	struct handoff *from;
	u32 zero = 0;

	from = handoffs.lookup(&zero);
	if (!from || from->remote_port != c->remote_port || from->local_port != c->local_port ||
	    from->sequence != ops->rcv_nxt || from->acknowledged != ops->snd_nxt)
		return 0;
	return from;
}

/* Takes the payload that came with it. True when it is to be parsed. */
static __always_inline bool handoff_take(struct bpf_sock *sk, struct connection *c, struct handoff *from)
{
	struct l7_connection *l;
	struct settings *set = current_settings();
	struct reorder *kept;

	if (!from->length)
		return false;
	c->dir[RX].end += from->length;
	c->dir[RX].bytes += from->length;
	if (!set || !set->l7) {
		c->l7 = L7_OPAQUE;
		return false;
	}
	if (protocol_begins(from->data) >= L7_TLS) {
		c->l7 = L7_OPAQUE;
		return false;
	}
	l = l7_connections.sk_storage_get(sk, 0, BPF_SK_STORAGE_GET_F_CREATE);
	kept = reorder_rx.sk_storage_get(sk, 0, BPF_SK_STORAGE_GET_F_CREATE);
	if (!l || !kept) {
		COUNT(lost_l7_storage);
		c->l7 = L7_OPAQUE;
		return false;
	}
	c->l7 = protocol_begins(from->data);
	l->streams[RX].next = from->sequence;
	l->streams[RX].begun = 1;
	protocol_begin_stream(c, &l->streams[RX], c->l7, true);
#pragma clang loop unroll(disable)
	for (u32 i = 0; i < REORDER_SEGMENT; i += 8)
		*(u64 *)(kept->data + i) = *(u64 *)(from->data + i);
	kept->slots[0].seq = from->sequence;
	kept->slots[0].length = from->length;
	kept->slots[0].offset = 0;
	kept->slots[0].kept = from->kept;
	kept->used = 1;
	kept->filled = from->kept;
	l->streams[RX].stashed = 1;
	l->streams[RX].request = 1;
	from->length = 0;
	return reorder_next(kept, &l->streams[RX]);
}

static __always_inline bool on_passive(struct bpf_sock_ops *ops, struct bpf_sock *sk)
{
	struct connection *c = connections.sk_storage_get(sk, 0, BPF_SK_STORAGE_GET_F_CREATE);
	u64 now = bpf_ktime_get_ns();
	struct handoff *from;

	if (!c) {
		COUNT(lost_connection_storage);
		return false;
	}
	connection_addresses(ops, c);
	c->key.port = c->local_port;
	c->key.role = ROLE_SERVER;
	c->started_ns = now;
	from = handoff_find(ops, c);
	c->key.cgroup_id = from ? from->cgroup_id : handshake_cgroup(ops->rcv_nxt - 1, c->remote_port, ROLE_SERVER);
	c->key.peer_cgroup_id = handshake_cgroup(ops->rcv_nxt - 1, c->remote_port, ROLE_CLIENT);
	bpf_sock_ops_cb_flags_set(ops, WANTED_CALLBACKS);
	connection_opened(ops, c, now);
	return from && handoff_take(sk, c, from);
}

static __always_inline void connection_failed(struct bpf_sock_ops *ops, struct connection *c, u32 old, u64 now)
{
	struct edge_value *edge = edge_get(&c->key);
	u8 reason;

	if (c->flags & CONN_TIMED_OUT)
		reason = FAIL_TIMED_OUT;
	else if (c->dir[RX].packets & SAW_RST)
		reason = old == TCP_SYN_SENT_ ? FAIL_REFUSED : FAIL_RESET;
	else if (c->flags & CONN_RELEASED)
		reason = FAIL_ABORTED;
	else
		reason = FAIL_UNREACHABLE; /* an ICMP error: the one way that is left */
	c->flags |= CONN_CLOSED;
	if (!c->key.cgroup_id)
		COUNT(unknown_cgroup);
	if (!(c->flags & CONN_ATTEMPTED)) {
		COUNT(seen_attempts); /* its SYN was dropped before our hook */
		if (edge)
			EDGE_ADD(edge, attempts, 1);
	}
	COUNT(seen_failed);
	if (edge)
		EDGE_ADD(edge, failed[reason], 1);
	event_connection(ops, c, EVENT_FAIL, reason, now, now - c->started_ns, 0);
}

static __always_inline enum next on_close(struct bpf_sock_ops *ops, struct bpf_sock *sk)
{
	struct connection *c = connections.sk_storage_get(sk, 0, 0);
	u32 old = ops->args[0];
	struct l7_connection *l = 0;
	u64 now = bpf_ktime_get_ns();
	struct edge_value *edge;
	u8 reason;

	if (!c || c->flags & CONN_CLOSED)
		return NEXT_NONE;
	if (!(c->flags & CONN_OPENED)) {
		connection_failed(ops, c, old, now);
		return NEXT_NONE;
	}
	if (c->flags & CONN_TIMED_OUT)
		reason = CLOSE_TIMED_OUT;
	else if (c->dir[RX].packets & SAW_RST)
		reason = CLOSE_RST_REMOTE;
	else if (old == BPF_TCP_ESTABLISHED || old == TCP_CLOSE_WAIT_ || old == TCP_SYN_RECV_)
		reason = CLOSE_RST_LOCAL;
	else if (c->first_closer)
		reason = c->first_closer - 1;
	else
		reason = CLOSE_UNKNOWN;
	if (!c->key.cgroup_id)
		COUNT(unknown_cgroup);
	if (c->l7 != L7_UNKNOWN && c->l7 < L7_TLS)
		l = l7_connections.sk_storage_get(sk, 0, 0);
	edge = edge_get(&c->key);
	connection_flush_into(edge, c, l, RX, 0, 0);
	connection_flush_into(edge, c, l, TX, bpf_tcp_sock(sk), c->rtt_sampled_jiffies);
	connection_end(ops, edge, c, reason, now, ops->srtt_us >> 3);
	return l && (c->l7 != PROTOCOL_HTTP1 || exchange_waiting(l)) ? protocol_close(c) : NEXT_NONE;
}

/* A tail call failed: what the handshake carried is not followed to its end. */
static __always_inline void sock_ops_cut(struct bpf_sock *sk)
{
	struct l7_connection *l = l7_connections.sk_storage_get(sk, 0, 0);
	struct connection *c = connections.sk_storage_get(sk, 0, 0);

	if (c && c->l7 == PROTOCOL_HTTP2) {
		COUNT(http2_not_followed);
		c->l7 = L7_OPAQUE;
		return;
	}
	COUNT(lost_stream_tail_call);
	if (l && c)
		protocol_lose_sync(sk, c, l, &l->streams[RX], true);
}

int sock_ops(struct bpf_sock_ops *ops)
{
	struct connection *c;
	struct bpf_sock *sk;
	enum next next;
	u32 op = ops->op;

	/* Most callbacks are questions about options, for which the answer is "as you like": leave at once. */
	if (op < BPF_SOCK_OPS_TCP_CONNECT_CB || op == BPF_SOCK_OPS_NEEDS_ECN || op == BPF_SOCK_OPS_BASE_RTT)
		return 1;
	if (op == BPF_SOCK_OPS_STATE_CB && ops->args[1] != TCP_CLOSE_)
		return 1; /* three of four a connection */
	sk = ops->sk;
	if (!sk)
		return 1;
	if (op == BPF_SOCK_OPS_STATE_CB) {
		next = on_close(ops, sk);
		if (next != NEXT_NONE)
			sock_ops_next.call(ops, next);
	} else if (op == BPF_SOCK_OPS_TCP_CONNECT_CB) {
		on_connect(ops, sk);
	} else if (op == BPF_SOCK_OPS_ACTIVE_ESTABLISHED_CB) {
		on_active(ops, sk);
	} else if (op == BPF_SOCK_OPS_PASSIVE_ESTABLISHED_CB) {
		if (on_passive(ops, sk)) {
			c = connections.sk_storage_get(sk, 0, 0);
			if (c)
				sock_ops_next.call(ops, protocol_step(c));
			sock_ops_cut(sk);
		}
	} else if (op == BPF_SOCK_OPS_RTO_CB) {
		if (ops->args[2]) { /* retransmitted for the last time: tcp_write_timeout() */
			c = connections.sk_storage_get(sk, 0, 0);
			if (c)
				c->flags |= CONN_TIMED_OUT;
		}
	}
	return 1;
}

/* Books the requests that stay without an answer, one a run. */
int sock_ops_close(struct bpf_sock_ops *ops)
{
	struct bpf_sock *sk = ops->sk;

	if (sk && tcp_close_next(ops, sk))
		sock_ops_next.call(ops, NEXT_CLOSE);
	return 1;
}

/* Parses what came with the handshake's last ACK; the bytes are in the reorder storage. */
int sock_ops_http1(struct bpf_sock_ops *ops)
{
	struct bpf_sock *sk = ops->sk;

	enum next next;

	if (!sk)
		return 1;
	next = tcp_http1(ops, 0, sk, RX);
	if (next != NEXT_NONE) {
		sock_ops_next.call(ops, next);
		sock_ops_cut(sk);
	}
	return 1;
}

int sock_ops_http2(struct bpf_sock_ops *ops)
{
	struct bpf_sock *sk = ops->sk;

	if (sk)
		tcp_http2(ops, 0, sk, RX);
	return 1;
}

int sock_ops_close_http2(struct bpf_sock_ops *ops)
{
	struct bpf_sock *sk = ops->sk;

	if (sk && tcp_close_http2(ops, sk))
		sock_ops_next.call(ops, NEXT_CLOSE_HTTP2);
	return 1;
}

int sock_ops_redis(struct bpf_sock_ops *ops)
{
	struct bpf_sock *sk = ops->sk;

	if (sk && tcp_commands(ops, 0, sk, RX, PROTOCOL_REDIS)) {
		sock_ops_next.call(ops, PROTOCOL_REDIS);
		sock_ops_cut(sk);
	}
	return 1;
}

int sock_ops_memcached(struct bpf_sock_ops *ops)
{
	struct bpf_sock *sk = ops->sk;

	if (sk && tcp_commands(ops, 0, sk, RX, PROTOCOL_MEMCACHED)) {
		sock_ops_next.call(ops, PROTOCOL_MEMCACHED);
		sock_ops_cut(sk);
	}
	return 1;
}

int sock_ops_postgresql(struct bpf_sock_ops *ops)
{
	struct bpf_sock *sk = ops->sk;

	if (sk && tcp_commands(ops, 0, sk, RX, PROTOCOL_POSTGRESQL)) {
		sock_ops_next.call(ops, PROTOCOL_POSTGRESQL);
		sock_ops_cut(sk);
	}
	return 1;
}

int sock_ops_mysql(struct bpf_sock_ops *ops)
{
	struct bpf_sock *sk = ops->sk;

	if (sk && tcp_commands(ops, 0, sk, RX, PROTOCOL_MYSQL)) {
		sock_ops_next.call(ops, PROTOCOL_MYSQL);
		sock_ops_cut(sk);
	}
	return 1;
}

int sock_ops_kafka(struct bpf_sock_ops *ops)
{
	struct bpf_sock *sk = ops->sk;

	if (sk && tcp_commands(ops, 0, sk, RX, PROTOCOL_KAFKA)) {
		sock_ops_next.call(ops, PROTOCOL_KAFKA);
		sock_ops_cut(sk);
	}
	return 1;
}

int sock_ops_close_commands(struct bpf_sock_ops *ops)
{
	struct bpf_sock *sk = ops->sk;

	if (sk && tcp_close_commands(ops, sk))
		sock_ops_next.call(ops, NEXT_CLOSE_COMMANDS);
	return 1;
}
