/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/* bpf/l7/route.h as a library, for tests/fuzz/test_routes.py: which operation has a request line? */
#include "kernel.h"

#include "l7/route.h"

static struct __sk_buff skb;
static struct bpf_sock sk;

/* The transitions of the templates: `count` of (segment, state, to), to an operation's id where the segment is STEP_END. */
void routes_set(const u64 *segments, const u32 *states, const u32 *to, u32 count)
{
	route_step_count = count;
	for (u32 i = 0; i < count; i++) {
		route_step_entries[i].key = (struct route_step){.segment = segments[i], .state = states[i]};
		route_step_entries[i].to = to[i];
	}
}

/* The operation's id of a request line of HEAD_WINDOW bytes at most. 0: none. The folded text goes to `text`. */
u32 routes_find(const u8 *line, u32 length, u8 routes, u8 *text)
{
	struct l7_connection *l = calloc(1, sizeof(*l));
	struct connection c = {};
	u32 id;

	free(route_value);
	route_value = NULL;
	operation_count = 0;
	settings_value = (struct settings){.routes = routes};
	memcpy(l->streams[0].window, line, length < HEAD_WINDOW ? length : HEAD_WINDOW);
	l->head = 1;
	route_find(&skb, &sk, &c, l, &l->streams[0]);
	id = l->exchanges[0].operation;
	if (route_value)
		memcpy(text, route_value->text, OPERATION_BYTES);
	free(l);
	return id;
}
