/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/* gRPC over HTTP/2 (grpc.io, PROTOCOL-HTTP2.md): statuses from where they can come, messages in DATA frames, deadlines. */
#ifndef SIDELIGHT_GRPC_H
#define SIDELIGHT_GRPC_H

#include "l7/hpack.h"

#define GRPC_PREFIX 5 /* bytes before a message: whether it is compressed, and its length */

/* 1 + code, as everywhere here: 0 means that none was said. */
enum grpc_status {
	GRPC_OK = 1,
	GRPC_CANCELLED = 2,
	GRPC_UNKNOWN = 3,
	GRPC_DEADLINE_EXCEEDED = 5,
	GRPC_PERMISSION_DENIED = 8,
	GRPC_RESOURCE_EXHAUSTED = 9,
	GRPC_UNIMPLEMENTED = 13,
	GRPC_INTERNAL = 14,
	GRPC_UNAVAILABLE = 15,
	GRPC_DATA_LOSS = 16,
	GRPC_UNAUTHENTICATED = 17,
};

/* "application/grpc", alone, or before a `+` or a `;`; grpc-web is another protocol. */
static __always_inline u32 grpc_content_type(const u8 *text, u32 length)
{
	if (length < 16 || load8(text) != WORD('a', 'p', 'p', 'l', 'i', 'c', 'a', 't') ||
	    load8(text + 8) != WORD('i', 'o', 'n', '/', 'g', 'r', 'p', 'c'))
		return 0;
	return length == 16 || text[16] == '+' || text[16] == ';';
}

/* grpc-timeout: up to eight digits, and this unit. In ns, 0 for what is none. */
static __always_inline u64 grpc_timeout(u64 value, u8 unit)
{
	switch (unit) {
	case 'H':
		return value * 3600000000000ULL;
	case 'M':
		return value * 60000000000ULL;
	case 'S':
		return value * 1000000000ULL;
	case 'm':
		return value * 1000000ULL;
	case 'u':
		return value * 1000ULL;
	case 'n':
		return value;
	}
	return 0;
}

/* Of a call that ended without one, by its HTTP status (http-grpc-status-mapping.md). */
static __always_inline u16 grpc_of_http(u16 status)
{
	switch (status) {
	case 400:
		return GRPC_INTERNAL;
	case 401:
		return GRPC_UNAUTHENTICATED;
	case 403:
		return GRPC_PERMISSION_DENIED;
	case 404:
		return GRPC_UNIMPLEMENTED;
	case 429:
	case 502:
	case 503:
	case 504:
		return GRPC_UNAVAILABLE;
	}
	return GRPC_UNKNOWN;
}

/* Of a call whose stream was reset with this code (RFC 9113, 7), by the client after `waited` of its deadline. */
static __always_inline u16 grpc_of_reset(u32 code, u64 waited, u64 timeout)
{
	switch (code) {
	case 7: /* REFUSED_STREAM */
		return GRPC_UNAVAILABLE;
	case 8: /* CANCEL: what a client sends whose deadline has passed, too */
		return timeout && waited >= timeout ? GRPC_DEADLINE_EXCEEDED : GRPC_CANCELLED;
	case 11: /* ENHANCE_YOUR_CALM */
		return GRPC_RESOURCE_EXHAUSTED;
	case 12: /* INADEQUATE_SECURITY */
		return GRPC_PERMISSION_DENIED;
	}
	return GRPC_INTERNAL;
}

/* Does a server's answer of this status count as failed? By OpenTelemetry's convention for servers. */
static __always_inline bool grpc_failed(u16 status)
{
	return status == 0 || status == GRPC_UNKNOWN || status == GRPC_DEADLINE_EXCEEDED ||
	       status == GRPC_UNIMPLEMENTED || status == GRPC_INTERNAL || status == GRPC_UNAVAILABLE ||
	       status == GRPC_DATA_LOSS;
}

#endif
