/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/*
 * PostgreSQL's protocol 3 (postgresql.org, "Frontend/Backend Protocol"), simple and extended, pipelines too.
 *
 * What counts is a statement: the server tells its verb as it completes it (CommandComplete), so that one prepared before the programs
 * came has its name as well. A simple query stays in the queue until ReadyForQuery, for it may hold several statements; of the extended
 * protocol each Execute is one, and Sync a mark between groups. After an error the server passes over what is left of its group.
 */
#ifndef SIDELIGHT_POSTGRESQL_H
#define SIDELIGHT_POSTGRESQL_H

#include "l7/commands.h"
#include "l7/sql.h"

enum postgresql_state {
	POSTGRESQL_LOOK = STREAM_OWN, /* the start of a message that says something */
	POSTGRESQL_READY,	      /* ReadyForQuery: what is left of the group, one by one */
};

/* struct command.flags */
enum postgresql_command {
	POSTGRESQL_QUERY = 1,
	POSTGRESQL_EXECUTE = 2,
	POSTGRESQL_SYNC = 3,
	POSTGRESQL_START = 4,
	POSTGRESQL_FLUSH = 5,
};

/* struct commands.mode */
enum postgresql_mode { POSTGRESQL_ROLLED_BACK = 1 };

#define POSTGRESQL_ABORTED 3 /* its group had failed before: not carried out */
#define POSTGRESQL_HEADER 5
#define POSTGRESQL_TAG 32    /* bytes of CommandComplete looked at */
#define POSTGRESQL_FIELDS 40 /* ... of ErrorResponse: severity twice, then the code */
#define POSTGRESQL_VERSION (3 << 16)
#define POSTGRESQL_CANCEL 80877102
#define POSTGRESQL_TLS 80877103
#define POSTGRESQL_GSS 80877104

/* A startup packet's first eight bytes: its length, and what it asks for. */
static __always_inline bool postgresql_begins(const u8 *first)
{
	u32 length = be32(first), code = be32(first + 4);

	return length >= 8 && length <= 10000 &&
	       (code == POSTGRESQL_VERSION || code == POSTGRESQL_VERSION + 2 ||
		(code >= POSTGRESQL_CANCEL && code <= POSTGRESQL_GSS));
}

static __always_inline bool postgresql_type(u8 type, bool request)
{
	/* bit c - 'A' of the types there are */
	u64 frontend = 1ULL << ('Q' - 'A') | 1ULL << ('P' - 'A') | 1ULL << ('B' - 'A') | 1ULL << ('E' - 'A') |
		       1ULL << ('D' - 'A') | 1ULL << ('C' - 'A') | 1ULL << ('S' - 'A') | 1ULL << ('H' - 'A') |
		       1ULL << ('F' - 'A') | 1ULL << ('X' - 'A') | 1ULL << ('d' - 'A') | 1ULL << ('c' - 'A') |
		       1ULL << ('f' - 'A') | 1ULL << ('p' - 'A');
	u64 backend = 1ULL << ('R' - 'A') | 1ULL << ('K' - 'A') | 1ULL << ('S' - 'A') | 1ULL << ('Z' - 'A') |
		      1ULL << ('C' - 'A') | 1ULL << ('E' - 'A') | 1ULL << ('N' - 'A') | 1ULL << ('A' - 'A') |
		      1ULL << ('T' - 'A') | 1ULL << ('D' - 'A') | 1ULL << ('I' - 'A') | 1ULL << ('G' - 'A') |
		      1ULL << ('H' - 'A') | 1ULL << ('W' - 'A') | 1ULL << ('V' - 'A') | 1ULL << ('n' - 'A') |
		      1ULL << ('t' - 'A') | 1ULL << ('s' - 'A') | 1ULL << ('d' - 'A') | 1ULL << ('c' - 'A') |
		      1ULL << ('v' - 'A');
	u64 bit = (u8)(type - 'A');

	if (!request && (type == '1' || type == '2' || type == '3'))
		return true;
	return bit < 64 && (request ? frontend : backend) >> bit & 1;
}

/* Is there a message's header at `offset`? Its length in all, else 0. */
static __always_inline u32 postgresql_message(struct __sk_buff *skb, u32 offset, bool request)
{
	u8 header[POSTGRESQL_HEADER];
	u32 length;

	if (bpf_skb_load_bytes(skb, offset, header, POSTGRESQL_HEADER))
		return 0;
	length = be32(header + 1);
	return length < 4 || length > 1 << 24 || !postgresql_type(header[0], request) ? 0 : length + 1;
}

/* Does a segment of `left` bytes begin with a message? Of the client's: with one that begins something, and where it ends is another, or nothing. */
static __always_inline bool postgresql_resumes(struct __sk_buff *skb, u32 offset, u32 left, u64 first, bool request)
{
	u8 type = first;
	u32 length = left < POSTGRESQL_HEADER ? 0 : postgresql_message(skb, offset, request);

	if (!length || !request)
		return length;
	if ((type != 'Q' || length < 7) && type != 'P' && (type != 'B' || length < 13))
		return false;
	if (length == left)
		return type == 'Q';
	return length + POSTGRESQL_HEADER <= left && postgresql_message(skb, offset + length, true);
}

/* -- what is asked ------------------------------------------------------------------------------------------------------ */

static __always_inline void postgresql_asks(struct commands *p, struct stream *s, u8 flags, u8 method, u64 started_ns)
{
	command_asks(p, s, flags, method);
	p->fresh.started_ns = started_ns;
	command_wait(p, s);
}

/* The packet before all others, which has no type. */
static __always_inline void postgresql_startup(struct command_turn *t, struct commands *p, struct stream *s)
{
	u32 length = be32(s->window), code = be32(s->window + 4);

	s->have = 0;
	if (!postgresql_begins(s->window)) {
		COUNT(commands_refuted);
		commands_leave(t, s);
	} else if (code == POSTGRESQL_CANCEL) {
		p->fresh.method = SQL_CANCEL;
		p->fresh.operation = 0;
		command_silent(t->c, p);
		commands_leave(t, s);
	} else if (code != POSTGRESQL_TLS && code != POSTGRESQL_GSS) {
		p->asked = 1;
		postgresql_asks(p, s, POSTGRESQL_START | COMMAND_MARK, SQL_CONNECT, s->started_ns);
		s->remaining = length - 8;
		s->state = s->remaining ? STREAM_BODY : STREAM_START;
	} else {
		*(volatile u32 *)&p->part += 1; /* a byte is the answer */
	}
}

/* A message of the client's: its header is in the window. */
static __always_inline void postgresql_request(struct command_turn *t, struct commands *p, struct stream *s)
{
	u8 type = s->window[0];
	u32 length = be32(s->window + 1);

	s->have = 0;
	if (length < 4 || !postgresql_type(type, true)) {
		commands_lose(t->c, s, p, true);
		return;
	}
	s->remaining = length - 4;
	s->state = s->remaining ? STREAM_BODY : STREAM_START;
	p->parts = type;
	if (!p->group_ns && type != 'Q')
		p->group_ns = s->started_ns;
	if (type == 'Q' || type == 'P' || type == 'B') {
		s->state = POSTGRESQL_LOOK;
	} else if (type == 'E') {
		postgresql_asks(p, s, POSTGRESQL_EXECUTE, p->bound_method, s->started_ns);
		p->bound_method = SQL_FETCH; /* of the same portal, unless another one is bound */
	} else if (type == 'F') {
		postgresql_asks(p, s, POSTGRESQL_QUERY, 0, s->started_ns);
	} else if (type == 'H') {
		postgresql_asks(p, s, POSTGRESQL_FLUSH | COMMAND_MARK, p->group_method, p->group_ns);
	} else if (type == 'S') {
		postgresql_asks(p, s, POSTGRESQL_SYNC | COMMAND_MARK, p->group_method, p->group_ns);
		p->group_ns = 0;
		p->group_method = 0;
	}
}

/* The start of Query, Parse or Bind is in the window. */
static __always_inline void postgresql_request_look(struct command_turn *t, struct commands *p, struct stream *s)
{
	u64 first = text_end(s->window), second = at(first + 1);
	u64 from = p->parts == 'B' ? second : 0, verb = p->parts == 'P' ? second : 0;
	struct statement *known;
	u32 name = 0;
	u8 method = 0;

	if (p->parts != 'Q')
		name = text_hash(s->window + from, text_end(s->window + from));
	known = &p->statements[name & (STATEMENTS - 1)];
	if (p->parts == 'B') {
		p->bound_method = known->name == name && known->method ? known->method : SQL_EXECUTE;
		return;
	}
	method = sql_verb_of(s->window + verb, PROTOCOL_POSTGRESQL);
	sql_text_keep(t, p, s, verb, s->length);
	if (p->parts == 'P') {
		known->name = name;
		known->method = method;
		p->group_method = method;
		return;
	}
	postgresql_asks(p, s, POSTGRESQL_QUERY, method, s->started_ns);
	p->group_ns = 0;
}

/* -- what is answered --------------------------------------------------------------------------------------------------- */

/* What was asked for before more was: nothing tells where its answers end. */
static __always_inline void postgresql_pass_flushes(struct commands *p)
{
#pragma clang loop unroll(disable)
	for (int i = 0; i < 4; i++) {
		u32 next = p->next;

		if ((s32)(*(volatile u32 *)&p->head - next) < 2 ||
		    (p->queue[next & (COMMANDS - 1)].flags & COMMAND_KIND) != POSTGRESQL_FLUSH)
			break;
		p->next = next + 1;
		*(volatile u32 *)&p->tail = next + 1;
	}
}

/* A statement is done: of a simple query there may be more. */
static __always_inline void postgresql_completes(struct commands *p, u8 method, u16 status)
{
	bool waits = command_waits(p);
	u8 kind;

	postgresql_pass_flushes(p);
	kind = command_next(p)->flags & COMMAND_KIND;
	p->begun = 0;
	if (waits && status == STATUS_OK && kind != POSTGRESQL_QUERY && kind != POSTGRESQL_EXECUTE)
		return;
	command_answered(p, waits && kind != POSTGRESQL_EXECUTE ? DUE_STAY : DUE_NEXT, status, status != STATUS_OK);
	/* the tag of what is fetched is its statement's, which has counted before */
	p->due_method = command_next(p)->method == SQL_FETCH && kind == POSTGRESQL_EXECUTE ? 0 : method;
}

/* A message of the server's: its header is in the window. */
static __always_inline void postgresql_response(struct command_turn *t, struct commands *p, struct stream *s)
{
	u8 type = s->window[0];
	u32 length = be32(s->window + 1);

	s->have = 0;
	if (length < 4 || !postgresql_type(type, false)) {
		if (t->l->confirmed) {
			commands_lose(t->c, s, p, false);
		} else {
			COUNT(commands_refuted);
			commands_forget(p);
			commands_leave(t, s);
		}
		return;
	}
	t->l->confirmed = 1;
	s->remaining = length - 4;
	s->state = s->remaining ? STREAM_BODY : STREAM_START;
	p->kind = type;
	if (type == 'N' || type == 'A' || type == 'S') {
		if (type != 'S')
			COUNT(commands_pushed);
		return;
	}
	if (!p->begun)
		sql_answer_begins(t, p);
	if (type == 'C' || type == 'E' || type == 'Z')
		s->state = POSTGRESQL_LOOK;
	else if (type == 'I' || type == 's' || type == 'V')
		postgresql_completes(p, 0, STATUS_OK);
}

/* The start of CommandComplete, ErrorResponse or ReadyForQuery is in the window. */
static __always_inline void postgresql_response_look(struct command_turn *t, struct commands *p, struct stream *s)
{
	u8 type = p->kind;

	if (type != 'Z') {
		u64 from = type == 'C' ? 0 : at(sql_state(s->window)), length = type == 'C' ? letters(s->window) : 5;
		u32 known = word_number(s->window + from, length, PROTOCOL_POSTGRESQL,
					type == 'C' ? WORDS_COMMANDS : WORDS_STATUSES);

		if (type == 'C')
			p->mode = known >> 8 ? POSTGRESQL_ROLLED_BACK : 0;
		postgresql_completes(p, type == 'C' ? known : 0,
				     type == 'C' ? STATUS_OK
				     : known	 ? known
						 : STATUS_OTHER);
	} else {
		u8 now = s->window[0];

		p->begun = 0;
		if (now == 'I' && p->transaction_ns) {
			transaction_record(t->c, PROTOCOL_DB_TRANSACTION,
					   p->mode & POSTGRESQL_ROLLED_BACK ? TRANSACTION_ROLLED_BACK
									    : TRANSACTION_COMMITTED,
					   t->now - p->transaction_ns);
			p->transaction_ns = 0;
		} else if (now != 'I') {
			p->idle_ns = t->now;
			if (!p->transaction_ns)
				p->transaction_ns = p->opened_ns;
		}
		s->state = POSTGRESQL_READY;
	}
}

/* A turn at ReadyForQuery: what was passed over is booked as such, then the group's mark goes. */
static __always_inline void postgresql_ready(struct commands *p, struct stream *s)
{
	u8 kind = command_next(p)->flags & COMMAND_KIND;

	if (command_waits(p) && (kind == POSTGRESQL_EXECUTE || kind == POSTGRESQL_FLUSH)) {
		command_answered(p, kind == POSTGRESQL_FLUSH ? DUE_DROP : DUE_NEXT, POSTGRESQL_ABORTED, false);
		return;
	}
	s->state = STREAM_START;
	if (command_waits(p)) {
		command_answered(p, DUE_DROP, 0, false);
	} else if (p->marks_done != *(volatile u32 *)&p->untimed_marks) {
		/* a group beyond the queue's depth: what it left has been passed over */
		u32 rest = *(volatile u32 *)&p->untimed_group - p->untimed_tail;

		*(volatile u32 *)&p->marks_done += 1;
		if (p->marks_done == *(volatile u32 *)&p->untimed_marks && rest && !(rest >> 31)) {
			s->state = POSTGRESQL_READY;
			*(volatile u32 *)&p->marks_done -= 1;
			command_answered(p, DUE_NEXT, POSTGRESQL_ABORTED, false);
		}
	}
}

/* The server's byte says whether TLS follows. */
static __always_inline void postgresql_tls(struct command_turn *t, struct commands *p, struct stream *s)
{
	s->have = 0;
	p->more++;
	if (s->window[0] == 'N')
		return;
	if (s->window[0] == 'S')
		commands_encrypt(t, s);
	else
		commands_leave(t, s);
}

/* -- turns -------------------------------------------------------------------------------------------------------------- */

/* One turn, as a callback. 1 when the bytes at hand, and the kept ones behind them, are used up. */
int postgresql_turn(struct command_turn *t)
{
	struct commands *p;
	struct stream *s;
	u64 want;

	if (commands_lack(t))
		return 1;
	s = t->s;
	p = t->p;
	if (s->state != POSTGRESQL_READY && !(s->state == POSTGRESQL_LOOK && !s->remaining) && !commands_bytes(t, s))
		return 1;
	switch (s->state) {
	case POSTGRESQL_READY:
		postgresql_ready(p, s);
		break;
	case STREAM_START:
		if (!HAVE(s)) {
			s->started_ns = t->now;
			s->started_seq = s->next - s->left;
		}
		if (!REQUEST(s) && p->more != *(volatile u32 *)&p->part) {
			if (commands_fill(t, s, 1))
				postgresql_tls(t, p, s);
		} else if (REQUEST(s) && !p->asked) {
			if (commands_fill(t, s, 8))
				postgresql_startup(t, p, s);
		} else if (commands_fill(t, s, POSTGRESQL_HEADER)) {
			if (REQUEST(s))
				postgresql_request(t, p, s);
			else
				postgresql_response(t, p, s);
		}
		break;
	case POSTGRESQL_LOOK:
		want = REQUEST(s)	? sql_wants()
		       : p->kind == 'C' ? POSTGRESQL_TAG
		       : p->kind == 'E' ? POSTGRESQL_FIELDS
					: 1;
		if (s->remaining < want)
			want = s->remaining;
		if (!commands_fill(t, s, want))
			break;
		s->remaining -= HAVE(s);
		s->window[at(HAVE(s))] = 0;
		s->length = HAVE(s);
		s->have = 0;
		s->state = s->remaining ? STREAM_BODY : STREAM_START;
		if (REQUEST(s))
			postgresql_request_look(t, p, s);
		else
			postgresql_response_look(t, p, s);
		break;
	case STREAM_BODY:
		if (commands_skip(s))
			s->state = STREAM_START;
		break;
	default:
		commands_lose(t->c, s, p, REQUEST(s));
	}
	return command_due(t, p, s);
}

static __always_inline void postgresql_run(struct command_turn *t)
{
	if (t->c->flags & CONN_ADOPTED)
		t->p->asked = 1; /* its startup is over */
	STEPS(COMMAND_TURNS, 24, postgresql_turn, t);
}

#endif
