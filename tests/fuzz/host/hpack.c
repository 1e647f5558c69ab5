/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/*
 * bpf/l7/hpack.h and http2.h against nghttp2's inflater: `hpack BLOCKS SEED`. Blocks are made here, in every form that RFC 7541
 * allows; a connection has some hundreds of them, cut into frames and segments anywhere, and both sides have to agree on what each says,
 * and on the table behind it.
 */
#include "kernel.h"

#include "socket/tcp.h"

#include <nghttp2/nghttp2.h>
#include <stdio.h>

#define BLOCK 65536
#define HEADERS_MOST 110

static struct __sk_buff skb;
static struct bpf_sock sk = {.family = 2};
static u64 seed, fields, evictions, inserted_before;

static u32 random_below(u32 n)
{
	seed = seed * 6364136223846793005ULL + 1442695040888963407ULL;
	return (seed >> 33) % n;
}

static void check(bool holds, const char *what, u64 got, u64 wanted)
{
	if (!holds) {
		fprintf(stderr, "broken: %s: %llu, not %llu\n", what, (unsigned long long)got, (unsigned long long)wanted);
		exit(1);
	}
}

/* -- an encoder that does what it likes, with nghttp2's own table ---------------------------------------------------------- */

static u8 block[BLOCK];
static u32 block_length;

static void put(u8 octet)
{
	block[block_length++] = octet;
}

static void put_number(u32 value, u8 first, int bits)
{
	u32 most = (1 << bits) - 1;

	if (value < most) {
		put(first | value);
		return;
	}
	put(first | most);
	value -= most;
	while (value >= 128) {
		put(value | 128);
		value >>= 7;
	}
	put(value);
}

static void put_string(const u8 *text, u32 length)
{
	u64 bits = 0;
	u32 have = 0, size = 0;

	if (random_below(3) == 0) {
		put_number(length, 0, 7);
		for (u32 i = 0; i < length; i++)
			put(text[i]);
		return;
	}
	for (u32 i = 0; i < length; i++)
		size += huffman_bits[text[i]];
	put_number((size + 7) / 8, 128, 7);
	for (u32 i = 0; i < length; i++) {
		bits = bits << huffman_bits[text[i]] | huffman_codes[text[i]];
		have += huffman_bits[text[i]];
		while (have >= 8) {
			have -= 8;
			put(bits >> have);
		}
	}
	if (have)
		put(bits << (8 - have) | ((1 << (8 - have)) - 1));
}

static const char *const NAMES[] = {":path", ":method", ":status", "grpc-status", "content-type", ":authority", "traceparent", "grpc-timeout", "te", "user-agent", "x-request-id", "cookie"};
static const char *const METHODS[] = {"GET", "POST", "PUT", "HEAD", "DELETE", "PATCH", "OPTIONS", "CONNECT", "TRACE", "BREW", "PROPPATCH"};

/* A header's value: often one that came before. */
static u32 make_value(u32 name, u8 *value)
{
	u32 length;

	if (name == 1)
		return sprintf((char *)value, "%s", METHODS[random_below(11)]);
	if (name == 2)
		return sprintf((char *)value, "%u", 200 + random_below(399));
	if (name == 3)
		return sprintf((char *)value, "%u", random_below(17));
	if (name == 4)
		return sprintf((char *)value, "%s", random_below(2) ? "application/grpc" : "text/html");
	if (name == 7)
		return sprintf((char *)value, "%u%c", random_below(100000000), "HMSmun"[random_below(6)]);
	if (name == 6) {
		u32 n = sprintf((char *)value, "00-%016x%016x-%016x-%02x", random_below(~0U), random_below(~0U), random_below(~0U), random_below(4));
		return n;
	}
	if (random_below(3))
		return sprintf((char *)value, "/path/%u/of%u", random_below(20), name);
	length = random_below(random_below(20) ? 60 : 700);
	for (u32 i = 0; i < length; i++)
		value[i] = random_below(4) ? 33 + random_below(94) : random_below(256);
	return length;
}

static const nghttp2_nv *table_entry(nghttp2_hd_inflater *inflater, u32 index)
{
	return nghttp2_hd_inflate_get_table_entry(inflater, index);
}

static void make_block(nghttp2_hd_inflater *inflater, bool request)
{
	static u8 value[1024], any[64];
	u32 count = random_below(30) ? 1 + random_below(12) : HEADERS_MOST, entries = nghttp2_hd_inflate_get_num_table_entries(inflater);

	block_length = 0;
	if (random_below(40) == 0) {
		put_number(random_below(3) ? random_below(4097) : 4096, 0x20, 5);
		entries = 0; /* some of them may be gone */
	}
	for (u32 i = 0; i < count; i++) {
		u32 name, index = 0, length, how;
		const u8 *text;
		u32 text_length;

		/* the entries are those of the block's beginning; what this block inserts shifts them: only the first fields refer to them */
		if (i == 0 && entries > 0 && random_below(2)) {
			put_number(1 + random_below(entries), 0x80, 7);
			continue;
		}
		if (random_below(3) == 0) {
			put_number(1 + random_below(61), 0x80, 7);
			continue;
		}
		name = random_below(12);
		if (!request && (name == 0 || name == 1 || (name > 4 && name < 8)))
			name = 2 + random_below(3);
		if (request && (name == 2 || name == 3))
			name = random_below(2);
		length = make_value(name, value);
		how = random_below(3);
		text = (const u8 *)NAMES[name];
		text_length = strlen(NAMES[name]);
		if (name == 11 && random_below(2)) {
			text_length = 1 + random_below(40);
			for (u32 k = 0; k < text_length; k++)
				any[k] = 'a' + random_below(26);
			text = any;
		}
		for (u32 k = 1; k <= 61 && !index; k++) {
			const nghttp2_nv *nv = table_entry(inflater, k);

			if (nv && nv->namelen == text_length && !memcmp(nv->name, text, text_length) && random_below(3))
				index = k;
		}
		if (how == 0)
			put_number(index, 0x40, 6);
		else
			put_number(index, how == 1 ? 0 : 0x10, 4);
		if (!index)
			put_string(text, text_length);
		put_string(value, length);
		if (block_length > BLOCK - 4096)
			break;
	}
}

/* -- what a block says, by nghttp2 ------------------------------------------------------------------------------------------- */

struct said {
	u32 method, status, grpc_status, grpc, path_length, has_path;
	u64 timeout;
	u8 path[TEXT_BYTES], traceparent[TRACEPARENT_BYTES];
};

static bool is_named(const nghttp2_nv *nv, const char *name)
{
	return nv->namelen == strlen(name) && !memcmp(nv->name, name, nv->namelen);
}

static u64 digits_of(const nghttp2_nv *nv, u32 *end)
{
	u64 value = 0;

	for (*end = 0; *end < nv->valuelen && *end < 8 && nv->value[*end] >= '0' && nv->value[*end] <= '9'; ++*end)
		value = value * 10 + nv->value[*end] - '0';
	return value;
}

static void understand(struct said *s, const nghttp2_nv *nv, bool request)
{
	u32 end;
	u64 digits = digits_of(nv, &end);

	fields++;
	if (request && is_named(nv, ":method")) {
		s->method = METHOD_OTHER;
		for (u32 i = 0; i < 10; i++) {
			static const u8 numbers[] = {METHOD_GET, METHOD_POST, METHOD_PUT, METHOD_HEAD, METHOD_DELETE, METHOD_PATCH, METHOD_OPTIONS, METHOD_CONNECT, METHOD_TRACE, METHOD_OTHER};

			if (nv->valuelen == strlen(METHODS[i]) && !memcmp(nv->value, METHODS[i], nv->valuelen))
				s->method = numbers[i];
		}
	} else if (is_named(nv, ":status")) {
		s->status = digits;
	} else if (is_named(nv, "grpc-status")) {
		s->grpc_status = digits <= 16 ? 1 + digits : GRPC_UNKNOWN;
	} else if (is_named(nv, "content-type")) {
		s->grpc = nv->valuelen == 16 && !memcmp(nv->value, "application/grpc", 16);
	} else if (request && is_named(nv, ":path")) {
		s->has_path = 1;
		s->path_length = nv->valuelen;
		memset(s->path, 0, sizeof(s->path));
		memcpy(s->path, nv->value, nv->valuelen < TEXT_BYTES ? nv->valuelen : TEXT_BYTES);
	} else if (request && is_named(nv, "traceparent")) {
		memset(s->traceparent, 0, sizeof(s->traceparent));
		memcpy(s->traceparent, nv->value, nv->valuelen < 55 ? nv->valuelen : 55);
	} else if (request && is_named(nv, "grpc-timeout")) {
		s->timeout = end < nv->valuelen ? grpc_timeout(digits, nv->value[end]) : 0;
	}
}

static void inflate(nghttp2_hd_inflater *inflater, struct said *s, bool request)
{
	const u8 *at = block;
	size_t left = block_length;

	for (;;) {
		nghttp2_nv nv;
		int flags = 0;
		ssize_t n = nghttp2_hd_inflate_hd2(inflater, &nv, &flags, at, left, 1);

		check(n >= 0, "nghttp2 refuses the block", -n, 0);
		at += n;
		left -= n;
		if (flags & NGHTTP2_HD_INFLATE_EMIT)
			understand(s, &nv, request);
		if (flags & NGHTTP2_HD_INFLATE_FINAL)
			break;
	}
	nghttp2_hd_inflate_end_headers(inflater);
}

/* -- and by the programs ------------------------------------------------------------------------------------------------------- */

static u8 wire[BLOCK * 2];

static void play(struct connection *c, struct l7_connection *l, int dir, u32 stream)
{
	u32 length = 0, at = 0, first = 1;

	do { /* frames of any size */
		u32 n = random_below(3) ? block_length - at : random_below(block_length - at + 1);

		if (n > 16384)
			n = 16384;
		u8 frame[9] = {n >> 16, n >> 8, n, first ? FRAME_HEADERS : FRAME_CONTINUATION, at + n == block_length ? FRAME_END_HEADERS : 0, 0, stream >> 16, stream >> 8, stream};

		memcpy(wire + length, frame, 9);
		memcpy(wire + length + 9, block + at, n);
		length += 9 + n;
		at += n;
		first = 0;
		if (at == block_length)
			break;
	} while (1);
	for (u32 sent = 0; sent < length;) { /* segments likewise */
		u32 n = random_below(4) ? length - sent : 1 + random_below(random_below(2) ? 9 : 300);

		if (n > length - sent)
			n = length - sent;
		packet_bytes = wire + sent;
		packet_length = n;
		l->streams[dir].slot = 0;
		l->streams[dir].offset = 0;
		l->streams[dir].left = n;
		l->streams[dir].next += n;
		http2_run(&skb, &skb, &sk, c, l, dir);
		sent += n;
	}
	check(l->streams[dir].state == STREAM_START, "the block has not ended", l->streams[dir].state, STREAM_START);
}

static void compare(const struct said *s, const struct http2_connection *h, int dir, bool request)
{
	const struct http2_direction *d = &h->directions[dir];

	check(d->grpc == s->grpc, "content-type", d->grpc, s->grpc);
	check(d->status == s->status, "status", d->status, s->status);
	check(d->grpc_status == s->grpc_status, "grpc-status", d->grpc_status, s->grpc_status);
	if (!request)
		return;
	check(h->fresh.method == s->method, "method", h->fresh.method, s->method);
	if (h->fresh.flags & STREAM_PATH) {
		check(h->fresh.text_length == s->path_length, "the path's length", h->fresh.text_length, s->path_length);
		for (u32 i = 0; i < s->path_length && i < TEXT_BYTES; i++)
			check(h->words.text[i] == s->path[i], "the path", h->words.text[i], s->path[i]);
	}
	check(!!(h->said & SAID_PATH) == s->has_path, "whether there is a path", !!(h->said & SAID_PATH), s->has_path);
	if (h->words.traceparent[0])
		check(!memcmp(h->words.traceparent, s->traceparent, 55), "traceparent", 0, 1);
	if (h->fresh.timeout_ns)
		check(h->fresh.timeout_ns == s->timeout, "grpc-timeout", h->fresh.timeout_ns, s->timeout);
}

/* The table: as many entries, of the same size. */
static void compare_tables(const struct http2_direction *d, nghttp2_hd_inflater *inflater)
{
	u32 entries = 0, size = 0, wanted = nghttp2_hd_inflate_get_num_table_entries(inflater) - HPACK_FIXED;

	for (u32 i = 0; i < HPACK_ENTRIES && i < d->inserted; i++) {
		u32 start = d->entries[(d->inserted - 1 - i) & (HPACK_ENTRIES - 1)].start & 0xffffff;

		if (((start - d->low) & 0xffffff) >= 0x800000)
			break;
		entries++;
		size = (d->total - start) & 0xffffff;
	}
	check(entries == wanted, "entries of the table", entries, wanted);
	check(size == nghttp2_hd_inflate_get_dynamic_table_size(inflater), "the table's size", size, nghttp2_hd_inflate_get_dynamic_table_size(inflater));
}

int main(int argc, char **argv)
{
	u32 blocks = argc > 1 ? atoi(argv[1]) : 1000, made = 0;

	seed = argc > 2 ? atoi(argv[2]) : 1;
	bounds_make();
	while (made < blocks) {
		nghttp2_hd_inflater *inflater;
		bool request = random_below(2);
		int dir = random_below(2);
		struct l7_connection *l;
		struct connection *c;
		u32 entries = 0;

		kernel_reset();
		settings_value = (struct settings){.l7 = 1};
		l7_value = l = calloc(1, sizeof(*l));
		connection_value = c = calloc(1, sizeof(*c));
		c->l7 = PROTOCOL_HTTP2;
		c->key.role = request == (dir == TX) ? ROLE_CLIENT : ROLE_SERVER;
		l->streams[dir].request = request;
		nghttp2_hd_inflate_new(&inflater);
		for (u32 i = 0; i < 300 && made < blocks; i++, made++) {
			struct said s = {};

			make_block(inflater, request);
			inflate(inflater, &s, request);
			play(c, l, dir, 1 + 2 * i);
			compare(&s, http2_storage, dir, request);
			compare_tables(&http2_storage->directions[dir], inflater);
			entries = nghttp2_hd_inflate_get_num_table_entries(inflater) - HPACK_FIXED;
			memset(stream_entries, 0, sizeof(stream_entries));
		}
		inserted_before = http2_storage->directions[dir].inserted;
		evictions += inserted_before - entries;
		check(!counter_values[COUNTER_http2_bad_index], "indices that mean nothing", counter_values[COUNTER_http2_bad_index], 0);
		check(!counter_values[COUNTER_lost_http_sync], "the framing was lost", counter_values[COUNTER_lost_http_sync], 0);
		nghttp2_hd_inflate_del(inflater);
	}
	printf("%u blocks, %llu fields, %llu evictions\n", made, (unsigned long long)fields, (unsigned long long)evictions);
	return 0;
}
