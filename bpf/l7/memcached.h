/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/*
 * memcached's text protocol (doc/protocol.txt): lines, and blocks of data whose length the line before them tells. The proof that a
 * protocol of commands is a header and a table: bpf/README.md.
 */
#ifndef SIDELIGHT_MEMCACHED_H
#define SIDELIGHT_MEMCACHED_H

#include "l7/commands.h"

enum memcached_state {
	MEMCACHED_LINE = STREAM_OWN, /* goes on in a line whose start has been read */
};

/* Flags of a command in the words' map. */
enum memcached_command {
	MEMCACHED_PLAIN = 0,	   /* answered by a line */
	MEMCACHED_STORES = 1,	   /* <key> <flags> <exptime> <bytes>, and a block */
	MEMCACHED_META_STORES = 2, /* <key> <bytes>, and a block */
	MEMCACHED_READS = 3,	   /* answered by lines, and blocks, up to END */
	MEMCACHED_ENDS = 4,	   /* quit: no answer */
	MEMCACHED_NOOP = 5,	   /* mn: answers behind those of quiet commands */
};

/* Flags of a status. */
enum memcached_status {
	MEMCACHED_FAILS = 1,	  /* it is an error */
	MEMCACHED_VALUE = 2,	  /* VALUE <key> <flags> <bytes>, and a block; more lines follow */
	MEMCACHED_META_VALUE = 3, /* VA <bytes>, and a block */
	MEMCACHED_GOES_ON = 4,	  /* more lines follow */
	MEMCACHED_NOOPS = 5,
};

#define MEMCACHED_MISS 3 /* END, and no value before it; agent/vocabulary.py has the others */
#define WORD_NOREPLY WORD(' ', 'n', 'o', 'r', 'e', 'p', 'l', 'y')

/* A client's first bytes: one of its verbs, in small letters, which no other text protocol begins with. */
static __always_inline bool memcached_begins(u64 first)
{
	return (u8)(first - 'a') <= 25 && commands_begin_with(first, PROTOCOL_MEMCACHED);
}

static __always_inline bool memcached_resumes(u64 first, bool request)
{
	u64 c = first & 255;

	return request ? memcached_begins(first) : (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9');
}

/* The command at hand is whole, its block too. */
static __always_inline void memcached_command_ends(struct command_turn *t, struct commands *p, struct stream *s)
{
	u8 kind = p->fresh.flags & COMMAND_KIND;

	s->state = STREAM_START;
	p->parts = 0;
	if (kind == MEMCACHED_ENDS || p->asked_words.quiet || p->asked_words.last == WORD_NOREPLY)
		command_silent(t->c, p);
	else
		command_wait(p, s);
}

/* A line of the client's, or one more piece of it: `first`, `whole`. */
static __always_inline void memcached_request_line(struct command_turn *t, struct commands *p, struct stream *s,
						   bool first)
{
	u64 n = s->line_end < COMMAND_LINE ? s->line_end : COMMAND_LINE, kind;
	struct line_words *w = &p->asked_words;

	if (first) {
		u32 known = word_number(s->window, word_length(s->window), PROTOCOL_MEMCACHED, WORDS_COMMANDS);

		command_asks(p, s, known >> 8, known);
		words_begin(w);
		p->parts = 1;
	}
	kind = p->fresh.flags & COMMAND_KIND;
	words_read(w, s, n, kind == MEMCACHED_STORES ? 4 : kind == MEMCACHED_META_STORES ? 2 : 0);
	s->have = 0;
	if (n == COMMAND_LINE) {
		s->state = MEMCACHED_LINE;
		return;
	}
	w->quiet |= w->last >> 48 == (' ' | 'q' << 8);
	if (kind == MEMCACHED_STORES || kind == MEMCACHED_META_STORES) {
		s->remaining = (w->number & 0xffffffff) + 2;
		s->state = STREAM_BODY;
		return;
	}
	memcached_command_ends(t, p, s);
}

static __always_inline void memcached_answer_ends(struct commands *p)
{
	bool noop = (command_next(p)->flags & COMMAND_KIND) == MEMCACHED_NOOP;

	p->begun = 0;
	if (command_waits(p) && noop && p->kind != MEMCACHED_NOOPS)
		COUNT(commands_pushed); /* a quiet command had something to say */
	else
		command_answered(p, DUE_NEXT, p->status, p->kind == MEMCACHED_FAILS);
}

/* A line of the server's, or one more piece of it. */
static __always_inline void memcached_response_line(struct command_turn *t, struct commands *p, struct stream *s,
						    bool first)
{
	u64 n = s->line_end < COMMAND_LINE ? s->line_end : COMMAND_LINE;
	struct line_words *w = &p->answered_words;
	u8 c = s->window[0], what = command_next(p)->flags & COMMAND_KIND;

	if (first) {
		u32 known = word_number(s->window, word_length(s->window), PROTOCOL_MEMCACHED, WORDS_STATUSES);

		if (!known && c >= '0' && c <= '9' && word_length(s->window) + 1 == n)
			known = STATUS_OK; /* a counter's value */
		if ((!known || (n < COMMAND_LINE && s->window[at(n - 1)] != '\r')) && !t->l->confirmed) {
			COUNT(commands_refuted);
			commands_forget(p);
			commands_leave(t, s);
			return;
		}
		if (!p->begun) {
			p->begun = 1;
			p->first_ns = t->now;
			p->status = what == MEMCACHED_READS ? MEMCACHED_MISS : 0;
		}
		p->part_status = known & 255;
		p->kind = known >> 8;
		words_begin(w);
	}
	words_read(w, s, n, p->kind == MEMCACHED_VALUE ? 3 : p->kind == MEMCACHED_META_VALUE ? 1 : 0);
	s->have = 0;
	if (n == COMMAND_LINE) {
		s->state = MEMCACHED_LINE;
		return;
	}
	s->state = STREAM_START;
	if (p->kind == MEMCACHED_VALUE || p->kind == MEMCACHED_META_VALUE) {
		p->status = STATUS_OK;
		s->remaining = (w->number & 0xffffffff) + 2;
		s->state = STREAM_BODY;
		return;
	}
	if (p->kind == MEMCACHED_GOES_ON) {
		p->status = STATUS_OK;
		return;
	}
	if (!p->status || p->part_status != STATUS_OK)
		p->status = p->part_status ?: STATUS_OK;
	memcached_answer_ends(p);
}

/* One turn, as a callback. 1 when the bytes at hand, and the kept ones behind them, are used up. */
int memcached_turn(struct command_turn *t)
{
	struct commands *p;
	struct stream *s;
	bool first;

	if (commands_lack(t))
		return 1;
	s = t->s;
	p = t->p;
	if (!commands_bytes(t, s))
		return 1;
	first = s->state == STREAM_START;
	if (first && !HAVE(s) && (REQUEST(s) || !p->begun)) {
		s->started_ns = t->now;
		s->started_seq = s->next - s->left;
	}
	if (s->state == STREAM_BODY) {
		if (!commands_skip(s))
			return 0;
		s->state = STREAM_START;
		if (REQUEST(s))
			memcached_command_ends(t, p, s);
		else if (p->kind == MEMCACHED_META_VALUE)
			memcached_answer_ends(p);
	} else if (commands_line(t, s)) {
		if (REQUEST(s))
			memcached_request_line(t, p, s, first);
		else
			memcached_response_line(t, p, s, first);
	}
	return command_due(t, p, s);
}

static __always_inline void memcached_run(struct command_turn *t)
{
	STEPS(COMMAND_TURNS, 12, memcached_turn, t);
}

#endif
