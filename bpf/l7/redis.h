/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/*
 * Redis and its kin: RESP2 and RESP3 (redis.io, "Redis serialization protocol specification").
 *
 * A turn deals with one element: a line, or the bytes that it announces. Commands are arrays of strings, or words on a line; an
 * answer is one element with all that it holds. Commands between MULTI and EXEC have their answers in EXEC's array, in their order:
 * they stay in the queue until then.
 */
#ifndef SIDELIGHT_REDIS_H
#define SIDELIGHT_REDIS_H

#include "l7/commands.h"

enum redis_state {
	REDIS_LINE = STREAM_OWN, /* a longer line's rest */
	REDIS_WORD,		 /* a string that says something */
	REDIS_FINISH,		 /* what was queued for a transaction that is over, one by one */
};

/* Flags of a command in the words' map; struct command.flags has them too. */
enum redis_command {
	REDIS_PLAIN = 0,
	REDIS_SUBSCRIBES = 1,	/* answered once a channel */
	REDIS_UNSUBSCRIBES = 2, /* likewise */
	REDIS_EXEC = 3,
	REDIS_DISCARDS = 4,  /* ends a transaction without its commands */
	REDIS_CLIENT = 5,    /* CLIENT REPLY turns answers off */
	REDIS_MONITORS = 6,  /* lines without end follow */
	REDIS_REPLICATES = 7 /* the connection is a replica's from here on */
};

/* struct commands.mode */
enum redis_mode { REDIS_SUBSCRIBED = 1, REDIS_MONITORING = 2, REDIS_EXECUTING = 4 };

/* struct commands.kind: what the answer at hand is */
enum redis_answer { REDIS_ANSWER = 0, REDIS_PUSHED = 1, REDIS_CONFIRMS = 2, REDIS_MAY_BE_PUSHED = 3 };

/* Statuses the programs know by themselves; agent/vocabulary.py has the others. */
#define REDIS_DISCARDED 3

#define WORD_QUEUED WORD('+', 'Q', 'U', 'E', 'U', 'E', 'D', '\r')
#define REDIS_ATTRIBUTE (1U << 31) /* of commands.left: these are none of the answer's elements */
#define REDIS_NULL (1ULL << 41)	   /* a length of -1 */

static __always_inline bool redis_begins(u64 first)
{
	u64 c = first >> 8 & 255, end = match_byte(first, '\r'), blank = match_byte(first, ' ');

	/* *<digits>\r\n$: an array of strings; or its first byte alone */
	if ((first & 255) == '*')
		return !c || (c >= '1' && c <= '9');
	/* a command alone on its line: HTTP has more on its first one */
	return end && (end & -end) - 1 < (blank & -blank) - 1 && commands_begin_with(first, PROTOCOL_REDIS);
}

/* Could these be the first bytes of a command, or of an answer? */
static __always_inline bool redis_resumes(u64 first, bool request)
{
	u64 c = first & 255;

	if (request)
		return c == '*' && redis_begins(first) && match_byte(first, '$');
	return c == '+' || c == '-' || c == ':' || c == '$' || c == '*' || c == '%' || c == '~' || c == '_' || c == '#';
}

/* The number in the line at hand, behind its first byte. */
static __always_inline u64 redis_number(const struct stream *s)
{
	u64 end = s->line_end, digits = end - 2, word = load8(s->window + 1), number;

	if (end < 2 || end > 11 || s->window[at(end - 1)] != '\r')
		return BAD_NUMBER;
	if ((word & LOW(2)) == ('-' | '1' << 8))
		return REDIS_NULL;
	if (digits <= 8)
		return number8(word, digits);
	/* a ninth digit: 512 MB are nine */
	number = number8(word, 8);
	return number >= BAD_NUMBER ? number : number * 10 + ((s->window[9] - '0') & 15);
}

/* -- commands ----------------------------------------------------------------------------------------------------------- */

/* The command at hand is known by its first word. */
static __always_inline void redis_named(struct command_turn *t, struct commands *p, const u8 *text, u64 length)
{
	u32 known = word_number(text, length, PROTOCOL_REDIS, WORDS_COMMANDS);

	p->fresh.method = known;
	p->fresh.flags = known >> 8;
	if (p->fresh.method)
		t->l->confirmed = 1;
}

/* A further word of CLIENT. */
static __always_inline void redis_client_word(struct commands *p, const u8 *text, u64 length)
{
	u64 word = capitals(load_within(text, 0, length));

	if (p->part == 1)
		p->asked = word == WORD('R', 'E', 'P', 'L', 'Y', 0, 0, 0);
	else if (p->part == 2 && p->asked && word == WORD('O', 'F', 'F', 0, 0, 0, 0, 0))
		p->asked = 2;
	else if (p->part == 2 && p->asked && word == WORD('S', 'K', 'I', 'P', 0, 0, 0, 0))
		p->asked = 3;
	else if (p->part == 2 && p->asked && word == WORD('O', 'N', 0, 0, 0, 0, 0, 0))
		p->asked = 4;
}

static __always_inline void redis_command_begins(struct commands *p, struct stream *s)
{
	command_asks(p, s, REDIS_PLAIN, 0);
	p->part = 0;
	p->asked = 0;
}

/* The command at hand is whole. */
static __always_inline void redis_command_ends(struct command_turn *t, struct commands *p, struct stream *s)
{
	u8 kind = p->fresh.flags & COMMAND_KIND, silent = p->silent;

	p->silent &= ~SILENT_NEXT;
	if (kind == REDIS_CLIENT && p->asked > 1) {
		p->silent = p->asked == 2 ? SILENT : p->asked == 3 ? SILENT_NEXT : 0;
		silent = p->silent;
	}
	if (silent) {
		command_silent(t->c, p);
		return;
	}
	if (kind == REDIS_SUBSCRIBES || kind == REDIS_UNSUBSCRIBES)
		p->fresh.more = p->part > 1 ? p->part - 1 : 1;
	command_wait(p, s);
}

/* An argument is at its end. */
static __always_inline void redis_argument_ends(struct command_turn *t, struct commands *p, struct stream *s)
{
	s->state = s->flags & COMMANDS_LONG ? REDIS_LINE : STREAM_START;
	s->flags &= ~COMMANDS_LONG;
	p->part++;
	p->parts--;
	if (!p->parts)
		redis_command_ends(t, p, s);
}

/* A line of the client's. */
static __always_inline void redis_request_line(struct command_turn *t, struct commands *p, struct stream *s)
{
	u64 n, length;
	bool whole = s->line_end < COMMAND_LINE, said;

	if (!p->parts) {
		redis_command_begins(p, s);
		if (s->window[0] == '*' && whole) {
			n = redis_number(s);
			if (n == BAD_NUMBER)
				commands_lose(t->c, s, p, true);
			else if (n != REDIS_NULL)
				p->parts = n;
			return;
		}
		/* words on a line */
		length = word_length(s->window);
		if (!length)
			return; /* an empty line is none */
		p->parts = whole ? 1 : 2;
		s->flags |= COMMANDS_WHOLE | (whole ? 0 : COMMANDS_LONG);
		s->remaining = length + 2;
		s->line_end = -1;
		s->state = REDIS_WORD;
		return;
	}
	n = whole && s->window[0] == '$' ? redis_number(s) : BAD_NUMBER;
	if (n >= BAD_NUMBER) {
		commands_lose(t->c, s, p, true);
		return;
	}
	said = n <= WORD_BYTES && (!p->part || ((p->fresh.flags & COMMAND_KIND) == REDIS_CLIENT && p->part < 3));
	s->remaining = n + 2;
	s->state = said ? REDIS_WORD : STREAM_BODY;
	if (commands_behind_line(s, n + 2))
		s->flags |= COMMANDS_WHOLE;
}

/* -- answers ------------------------------------------------------------------------------------------------------------ */

/* The answer at hand is whole. */
static __always_inline void redis_answer_ends(struct command_turn *t, struct commands *p, struct stream *s)
{
	u8 kind = p->kind, what = command_next(p)->flags & COMMAND_KIND;
	bool waits = command_waits(p);

	p->begun = 0;
	p->mode &= ~REDIS_EXECUTING;
	if (kind == REDIS_CONFIRMS && !p->more && waits && (what == REDIS_SUBSCRIBES || what == REDIS_UNSUBSCRIBES)) {
		p->more = command_next(p)->more - 1; /* more of them for this command */
	} else if (kind != REDIS_ANSWER) {
		p->more -= kind == REDIS_CONFIRMS && p->more;
		COUNT(commands_pushed);
		return;
	}
	if (waits && what == REDIS_MONITORS && p->status == STATUS_OK)
		p->mode |= REDIS_MONITORING;
	if (p->due || (waits && (what == REDIS_EXEC || what == REDIS_DISCARDS) && p->tail != p->next))
		s->state = REDIS_FINISH;
	else
		command_answered(p, DUE_NEXT, p->status, p->status != STATUS_OK);
}

/* A turn in which commands of a transaction that is over are done with; at last the one that ended it. */
static __always_inline void redis_finish(struct command_turn *t, struct commands *p, struct stream *s)
{
	if (p->tail != p->next) {
		command_answered(p, DUE_OLDEST, REDIS_DISCARDED, false);
		return;
	}
	s->state = STREAM_START;
	command_answered(p, DUE_NEXT, p->status, p->status != STATUS_OK);
}

/* An element is at its end, and with it perhaps what holds it. */
static __always_inline void redis_element_ends(struct command_turn *t, struct commands *p, struct stream *s)
{
	u32 before = p->left[0], depth = p->depth, rest;

	s->state = STREAM_START;
	p->first = 0;
#pragma clang loop unroll(disable)
	for (int i = 0; i < REPLY_DEPTH; i++) {
		u32 inner = *(volatile u32 *)&p->depth - 1;
		u32 *left = &p->left[inner & (REPLY_DEPTH - 1)];

		if (inner >= REPLY_DEPTH)
			break;
		*left -= 1;
		if (*left & ~REDIS_ATTRIBUTE)
			break;
		*(volatile u32 *)&p->depth = inner;
		if (*left)
			return; /* what the attributes are of comes next */
	}
	rest = p->left[0];
	if (p->mode & REDIS_EXECUTING && rest != before && p->next - p->tail > rest) {
		/* the first ones may be older than the programs */
		u16 status = depth == 1 ? p->part_status : STATUS_OK;

		command_answered(p, DUE_OLDEST, status, status != STATUS_OK);
	}
	if (!p->depth)
		redis_answer_ends(t, p, s);
}

/* The first word of an array that nobody may have asked for: a message, or what confirms a subscription? */
static __always_inline void redis_first_word(struct commands *p, const u8 *text, u64 length)
{
	u64 word = capitals(load_within(text, 0, length)), behind = word >> 8 & LOW(6);

	if (word == WORD('M', 'E', 'S', 'S', 'A', 'G', 'E', 0) || behind == WORD('M', 'E', 'S', 'S', 'A', 'G', 0, 0)) {
		p->kind = REDIS_PUSHED;
	} else if (word == WORD('S', 'U', 'B', 'S', 'C', 'R', 'I', 'B') ||
		   behind == WORD('S', 'U', 'B', 'S', 'C', 'R', 0, 0) ||
		   word == WORD('U', 'N', 'S', 'U', 'B', 'S', 'C', 'R') ||
		   behind == WORD('U', 'N', 'S', 'U', 'B', 'S', 0, 0)) {
		p->mode |= p->kind == REDIS_MAY_BE_PUSHED ? REDIS_SUBSCRIBED : 0;
		p->kind = REDIS_CONFIRMS;
	} else if (p->kind == REDIS_MAY_BE_PUSHED) {
		p->kind = REDIS_ANSWER;
	}
}

/* The server's line is none of RESP, or too deep. */
static __always_inline void redis_bad_answer(struct command_turn *t, struct commands *p, struct stream *s)
{
	if (t->l->confirmed) {
		commands_lose(t->c, s, p, false);
		return;
	}
	COUNT(commands_refuted);
	commands_forget(p);
	commands_leave(t, s);
}

/* The element at hand is at its end: the turn's end deals with that, in one place. */
static __always_inline void redis_whole(struct stream *s)
{
	s->flags |= COMMANDS_WHOLE;
	s->state = STREAM_BODY;
}

/* An array, a map, a set, attributes or a push begin: `n` elements are to come. */
static __always_inline void redis_array(struct command_turn *t, struct commands *p, struct stream *s, u8 type, u64 n)
{
	u32 depth = p->depth;

	if (type == '%' || type == '|')
		n *= 2;
	if (depth >= REPLY_DEPTH) {
		redis_bad_answer(t, p, s);
		return;
	}
	p->part_status = STATUS_OK;
	p->first = !depth;
	if (!depth && type == '>') {
		p->kind = REDIS_PUSHED;
	} else if (!depth && type == '*') {
		u8 what = command_next(p)->flags & COMMAND_KIND;

		if (!command_waits(p) || p->mode & REDIS_SUBSCRIBED || what == REDIS_SUBSCRIBES ||
		    what == REDIS_UNSUBSCRIBES)
			p->kind = REDIS_MAY_BE_PUSHED;
		else if (what == REDIS_EXEC)
			p->mode |= REDIS_EXECUTING;
	}
	if (!n) {
		if (type != '|')
			redis_whole(s);
		return;
	}
	p->left[depth & (REPLY_DEPTH - 1)] = n | (type == '|' ? REDIS_ATTRIBUTE : 0);
	p->depth = depth + 1;
}

/* A line of the server's. */
static __always_inline void redis_response_line(struct command_turn *t, struct commands *p, struct stream *s)
{
	u8 c = s->window[0];
	bool whole = s->line_end < COMMAND_LINE, top = !p->depth;
	u64 n;

	if (!p->begun) {
		p->begun = 1;
		p->first_ns = t->now;
		p->status = STATUS_OK;
		p->kind = REDIS_ANSWER;
		if (c != '-' && command_waits(p) && (command_next(p)->flags & COMMAND_KIND) == REDIS_REPLICATES) {
			command_answered(p, DUE_NEXT, STATUS_OK, false);
			commands_leave(t, s);
			return;
		}
	}
	if (c == '$' || c == '=' || c == '!' || c == '*' || c == '%' || c == '~' || c == '>' || c == '|') {
		n = whole ? redis_number(s) : BAD_NUMBER;
		if (n == BAD_NUMBER) {
			redis_bad_answer(t, p, s);
			return;
		}
		if (c != '$' && c != '=' && c != '!' && n != REDIS_NULL) {
			redis_array(t, p, s, c, n);
			return;
		}
		p->part_status = c == '!' ? STATUS_OTHER : STATUS_OK;
		if (top)
			p->status = p->part_status;
		if (n == REDIS_NULL) {
			redis_whole(s);
			return;
		}
		s->remaining = n + 2;
		if (commands_behind_line(s, n + 2))
			s->flags |= COMMANDS_WHOLE;
		s->state = p->first && n <= WORD_BYTES && p->kind != REDIS_ANSWER ? REDIS_WORD : STREAM_BODY;
		return;
	}
	p->part_status = STATUS_OK;
	if (c == '-') {
		p->part_status = word_number(s->window + 1, word_length(s->window + 1), PROTOCOL_REDIS, WORDS_STATUSES)
				     ?: STATUS_OTHER;
		if (top)
			p->status = p->part_status;
	} else if (c == '+') {
		if (top && p->mode & REDIS_MONITORING && s->window[1] >= '0' && s->window[1] <= '9') {
			p->kind = REDIS_PUSHED;
		} else if (top && load8(s->window) == WORD_QUEUED && whole && command_waits(p)) {
			/* its answer is in EXEC's */
			p->begun = 0;
			p->next++;
			return;
		}
	} else if (c != ':' && c != '_' && c != '#' && c != ',' && c != '(') {
		redis_bad_answer(t, p, s);
		return;
	}
	if (whole)
		redis_whole(s);
	else
		s->state = REDIS_LINE;
}

/* -- turns -------------------------------------------------------------------------------------------------------------- */

/* An argument, or an element, is at its end. Where it says something its bytes stand behind line_end. */
static __always_inline void redis_part_ends(struct command_turn *t, struct commands *p, struct stream *s)
{
	const u8 *text = s->window + at(s->line_end + 1);
	bool said = s->state == REDIS_WORD;

	*(volatile u8 *)&s->flags &= ~COMMANDS_WHOLE;
	if (!REQUEST(s)) {
		if (said)
			redis_first_word(p, text, s->remaining - 2);
		redis_element_ends(t, p, s);
		return;
	}
	if (said && !p->part)
		redis_named(t, p, text, s->remaining - 2);
	else if (said)
		redis_client_word(p, text, s->remaining - 2);
	redis_argument_ends(t, p, s);
}

/* One turn, as a callback. 1 when the bytes at hand, and the kept ones behind them, are used up. */
int redis_turn(struct command_turn *t)
{
	struct commands *p;
	struct stream *s;

	if (commands_lack(t))
		return 1;
	s = t->s;
	p = t->p;
	if (s->state != REDIS_FINISH && !commands_bytes(t, s))
		return 1;
	switch (s->state) {
	case REDIS_FINISH:
		redis_finish(t, p, s);
		break;
	case STREAM_START:
		if (!HAVE(s) && !p->parts && REQUEST(s)) {
			s->started_ns = t->now;
			s->started_seq = s->next - s->left;
		} else if (!HAVE(s) && !p->begun && !REQUEST(s)) {
			s->started_seq = s->next - s->left;
		}
		if (!commands_line(t, s))
			break;
		if (s->line_end >= COMMAND_LINE)
			s->have = 0;
		if (REQUEST(s))
			redis_request_line(t, p, s);
		else
			redis_response_line(t, p, s);
		break;
	case REDIS_LINE:
		if (!commands_line(t, s))
			break;
		if (s->line_end >= COMMAND_LINE)
			s->have = 0;
		else
			redis_whole(s);
		break;
	case REDIS_WORD:
		if (!commands_fill(t, s, s->remaining < WORD_BYTES + 2 ? s->remaining : WORD_BYTES + 2))
			break;
		s->have = 0;
		s->line_end = -1; /* the word is at the window's start */
		s->flags |= COMMANDS_WHOLE;
		break;
	case STREAM_BODY:
		if (commands_skip(s))
			redis_whole(s);
		break;
	default:
		commands_lose(t->c, s, p, REQUEST(s));
	}
	if (*(volatile u8 *)&s->flags & COMMANDS_WHOLE)
		redis_part_ends(t, p, s);
	return command_due(t, p, s);
}

static __always_inline void redis_run(struct command_turn *t)
{
	STEPS(COMMAND_TURNS, 32, redis_turn, t);
}

#endif
