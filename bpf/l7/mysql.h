/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/*
 * MySQL's and MariaDB's protocol (dev.mysql.com, "MySQL Client/Server Protocol"; mariadb.com, "Client/Server Protocol").
 *
 * Packets have a length and a number that begins at 0 with each command. A result is a count of columns, so many definitions, rows and
 * an end, and perhaps another result; whether an EOF stands behind the definitions (CLIENT_DEPRECATE_EOF) shows in the packets: EOF has
 * five bytes, the OK that ends a result has seven or more. So connections that are older than the programs are read as well.
 */
#ifndef SIDELIGHT_MYSQL_H
#define SIDELIGHT_MYSQL_H

#include "l7/sql.h"

enum mysql_state {
	MYSQL_LOOK = STREAM_OWN, /* the start of a packet that says something */
};

/* struct command.flags: how it is answered */
enum mysql_command {
	MYSQL_RESULT = 1,  /* OK, an error, a file's name, or results */
	MYSQL_PREPARE = 2, /* OK, and definitions */
	MYSQL_PLAIN = 3,   /* a packet */
	MYSQL_ROWS = 4,	   /* packets up to an end */
	MYSQL_LOGIN = 5,   /* OK or an error, behind what is said of passwords */
	MYSQL_SILENT = 6,  /* not at all */
	MYSQL_QUIT = 7,	   /* not at all, and it is no operation */
	MYSQL_STREAM = 8,  /* without end */
};

/* struct commands.kind: where in the answer */
enum mysql_phase {
	MYSQL_FIRST = 0,
	MYSQL_COLUMNS = 1, /* `more` definitions are to come */
	MYSQL_BEHIND = 2,  /* an EOF may follow them */
	MYSQL_ROW = 3,
	MYSQL_DEFINITIONS = 4, /* of a prepared statement: of its parameters, then of its columns */
};

/* struct commands.mode */
enum mysql_mode { MYSQL_CONTINUES = 1 /* a packet of 16 MB goes on in the next one */ };

#define MYSQL_HEADER 4
#define MYSQL_PACKET 0xffffff
#define MYSQL_ANSWER 24 /* bytes looked at of an answer */
#define CLIENT_COMPRESS 0x20
#define CLIENT_SSL 0x800
#define CLIENT_ZSTD 0x4000000
#define SERVER_IN_TRANSACTION 0x0001
#define SERVER_MORE_RESULTS 0x0008
#define SERVER_CURSOR 0x0040
#define SERVER_IN_READONLY_TRANSACTION 0x2000
#define MYSQL_FIRST_ERROR 1000
#define MYSQL_OK 0x00
#define MYSQL_FILE 0xfb
#define MYSQL_END 0xfe
#define MYSQL_ERROR 0xff

static __always_inline u32 le24(const u8 *p)
{
	return p[0] | (u32)p[1] << 8 | (u32)p[2] << 16;
}

static __always_inline u32 le32(const u8 *p)
{
	return le24(p) | (u32)p[3] << 24;
}

static __always_inline u16 le16(const u8 *p)
{
	return p[0] | (u16)p[1] << 8;
}

/* Could a server's first segment be its greeting? Version 10, then the server's own, which begins with a digit. */
static __always_inline bool mysql_server_begins(struct __sk_buff *skb, u32 offset, u32 left)
{
	u8 first[8];

	if (left < 40 || bpf_skb_load_bytes(skb, offset, first, sizeof(first)))
		return false;
	return le24(first) + MYSQL_HEADER == left && first[3] == 0 && first[4] == 10 && first[5] >= '1' &&
	       first[5] <= '9';
}

/* Is a segment of `left` bytes a command, alone in it? One of those that carry SQL, or carry it out. Of the server: the first packet of an answer. */
static __always_inline bool mysql_resumes(u64 first, u32 left, bool request)
{
	u32 length = first & MYSQL_PACKET, command = first >> 32 & 255, number = first >> 24 & 255;

	if (!request)
		return number == 1 && length && length + MYSQL_HEADER <= left;
	if (number || length + MYSQL_HEADER != left)
		return false;
	return (command == 0x03 && length > 5 && (first >> 40 & 0xdf) >= 'A' && (first >> 40 & 0xdf) <= 'Z') ||
	       (command == 0x16 && length > 5) || (command == 0x17 && length >= 10) || (command == 0x0e && length == 1);
}

/* -- what is asked ------------------------------------------------------------------------------------------------------ */

/* The client's first packet: what the connection will be. */
static __always_inline void mysql_login(struct command_turn *t, struct commands *p, struct stream *s)
{
	u32 flags = le32(s->window);

	p->asked = 1;
	if (flags & CLIENT_SSL && s->remaining <= 32) {
		commands_encrypt(t, s);
	} else if (flags & (CLIENT_COMPRESS | CLIENT_ZSTD)) {
		COUNT(commands_compressed);
		commands_leave(t, s);
	} else {
		command_asks(p, s, MYSQL_LOGIN | COMMAND_MARK, SQL_CONNECT);
		command_wait(p, s);
	}
}

/* The start of a command is in the window. */
static __always_inline void mysql_request(struct command_turn *t, struct commands *p, struct stream *s)
{
	struct word_key key = {.text = {s->window[0]}, .protocol = PROTOCOL_MYSQL, .kind = WORDS_CODES};
	u32 *known = words.lookup(&key), id = le32(s->window + 1);
	struct statement *statement = &p->statements[id & (STATEMENTS - 1)];
	u8 kind = known ? *known >> 8 : MYSQL_PLAIN, method = known ? *known : 0, verb = 0;

	if (s->window[0] == 0x03 || s->window[0] == 0x16)
		verb = sql_verb_of(s->window + 1, PROTOCOL_MYSQL);
	else if (s->window[0] == 0x17 || s->window[0] == 0xfa)
		verb = id == 0xffffffff ? p->group_method : statement->name == id + 1 ? statement->method : SQL_EXECUTE;
	command_asks(p, s, kind, verb && s->window[0] != 0x16 ? verb : method);
	p->fresh.more = verb;
	if (s->window[0] == 0x16)
		p->group_method = verb;
	if (kind == MYSQL_STREAM)
		commands_leave(t, s);
	else if (kind == MYSQL_SILENT)
		command_silent(t->c, p);
	else if (kind != MYSQL_QUIT)
		command_wait(p, s);
}

/* -- what is answered --------------------------------------------------------------------------------------------------- */

/* The answer is whole. `flags`: of the server's status, where it has told it. */
static __always_inline void mysql_answer_ends(struct command_turn *t, struct commands *p, u16 status, bool told,
					      u16 flags)
{
	struct command *e = command_next(p);
	bool login = (e->flags & COMMAND_KIND) == MYSQL_LOGIN && e->flags & COMMAND_MARK;

	p->begun = 0;
	p->kind = MYSQL_FIRST;
	if (!command_waits(p) && p->untimed_tail == *(volatile u32 *)&p->untimed_head) {
		COUNT(commands_pushed);
		return;
	}
	if (told && flags & (SERVER_IN_TRANSACTION | SERVER_IN_READONLY_TRANSACTION)) {
		p->idle_ns = t->now;
		if (!p->transaction_ns)
			p->transaction_ns = p->opened_ns;
	} else if (told && p->transaction_ns) {
		transaction_record(t->c, PROTOCOL_DB_TRANSACTION,
				   e->method == SQL_ROLLBACK ? TRANSACTION_ROLLED_BACK : TRANSACTION_COMMITTED,
				   t->now - p->transaction_ns);
		p->transaction_ns = 0;
	} else if (p->transaction_ns) {
		p->idle_ns = t->now;
	}
	command_answered(p, login && status == STATUS_OK ? DUE_DROP : DUE_NEXT, status, status != STATUS_OK);
}

/* Bytes of the number with a length before it that begins with `first`. */
static __always_inline u64 mysql_number_bytes(u8 first)
{
	return first < 0xfb ? 1 : first == 0xfc ? 3 : first == 0xfd ? 4 : 9;
}

/* OK, or EOF, is in the window: the server's status in it. */
static __always_inline u16 mysql_status(const struct stream *s, u32 length)
{
	u64 from = 1;

	if (length == 5)
		return le16(s->window + 3);
	from += mysql_number_bytes(s->window[1]);
	from += mysql_number_bytes(s->window[at(from) & 31]);
	return le16(s->window + (at(from) & 31));
}

/* The start of a packet that decides something is in the window; `length`: of all of it. */
static __always_inline void mysql_response(struct command_turn *t, struct commands *p, struct stream *s, u32 length)
{
	struct command *e = command_next(p);
	u8 first = s->window[0], kind = command_waits(p) ? e->flags & COMMAND_KIND : MYSQL_PLAIN;
	u16 flags;

	if (first == MYSQL_ERROR) {
		u16 error = le16(s->window + 1);

		mysql_answer_ends(t, p, error < MYSQL_FIRST_ERROR ? STATUS_OTHER : error, false, 0);
		return;
	}
	if (p->kind != MYSQL_FIRST || (kind == MYSQL_ROWS && first == MYSQL_END)) {
		flags = mysql_status(s, length);
		if (p->kind == MYSQL_BEHIND && length == 5 && !(flags & SERVER_CURSOR))
			p->kind = MYSQL_ROW;
		else if (flags & SERVER_MORE_RESULTS)
			p->kind = MYSQL_FIRST;
		else
			mysql_answer_ends(t, p, STATUS_OK, true, flags);
		return;
	}
	if (kind == MYSQL_LOGIN && first != MYSQL_OK)
		return; /* of passwords */
	if (kind == MYSQL_ROWS) {
		p->kind = MYSQL_ROW;
	} else if (kind == MYSQL_PREPARE) {
		struct statement *known = &p->statements[s->window[1] & (STATEMENTS - 1)];

		known->name = le32(s->window + 1) + 1;
		known->method = e->more;
		p->more = le16(s->window + 5) + le16(s->window + 7);
		p->kind = MYSQL_DEFINITIONS;
		if (!p->more)
			mysql_answer_ends(t, p, STATUS_OK, false, 0);
	} else if (kind == MYSQL_RESULT && first == MYSQL_FILE) {
		return; /* the client sends it, and OK follows */
	} else if (kind == MYSQL_RESULT && first != MYSQL_OK) {
		u64 bytes = mysql_number_bytes(first);

		p->more = first < 0xfb ? first : le16(s->window + 1);
		/* MariaDB's clients may keep the definitions they know: one more byte says whether they come */
		if (length == bytes + 1 && !s->window[at(bytes) & 15]) {
			p->kind = MYSQL_BEHIND;
			return;
		}
		p->kind = MYSQL_COLUMNS;
	} else {
		flags = first == MYSQL_OK && length >= 7 ? mysql_status(s, length) : 0;
		if (flags & SERVER_MORE_RESULTS && kind == MYSQL_RESULT)
			return;
		mysql_answer_ends(t, p, STATUS_OK, first == MYSQL_OK && length >= 7, flags);
	}
}

/* The header of a packet of the server's, and its first byte: does it decide something? */
static __always_inline bool mysql_decides(struct command_turn *t, struct commands *p, u32 length, u8 number, u8 first)
{
	if (p->mode & MYSQL_CONTINUES || !length)
		return false;
	if (!p->begun) {
		if (number == 0 && !t->l->confirmed)
			return false; /* the greeting */
		if (number > 1 && first == MYSQL_END && length == 5 && number == p->first)
			return false; /* behind the definitions of what was prepared */
		sql_answer_begins(t, p);
	}
	if (p->kind == MYSQL_COLUMNS) {
		p->more--;
		if (!p->more)
			p->kind = MYSQL_BEHIND;
		return first == MYSQL_ERROR;
	}
	if (p->kind == MYSQL_DEFINITIONS) {
		if (first == MYSQL_END && length == 5)
			return false; /* between parameters and columns */
		p->more--;
		p->first = number + 1;
		if (!p->more)
			mysql_answer_ends(t, p, STATUS_OK, false, 0);
		return false;
	}
	return p->kind == MYSQL_FIRST || first == MYSQL_ERROR ||
	       (first == MYSQL_END && length < MYSQL_PACKET && (p->kind == MYSQL_ROW || p->kind == MYSQL_BEHIND));
}

/* -- turns -------------------------------------------------------------------------------------------------------------- */

/* A packet's header is in the window, and its first byte, where it has one. */
static __always_inline void mysql_packet(struct command_turn *t, struct commands *p, struct stream *s)
{
	u32 length = le24(s->window);
	u8 number = s->window[3], first = s->window[4];

	s->remaining = length;
	s->state = STREAM_START;
	if (!length) {
		s->have = 0;
		return;
	}
	s->offset--; /* the first byte is read again, with those behind it */
	s->left++;
	s->have = 0;
	if (REQUEST(s)) {
		if (number == 0 || !p->asked)
			s->state = MYSQL_LOOK;
		else
			s->state = STREAM_BODY;
		return;
	}
	s->length = length;
	s->state = mysql_decides(t, p, length, number, first) ? MYSQL_LOOK : STREAM_BODY;
	p->mode = length == MYSQL_PACKET ? MYSQL_CONTINUES : 0;
	t->l->confirmed = 1;
}

/* One turn, as a callback. 1 when the bytes at hand, and the kept ones behind them, are used up. */
int mysql_turn(struct command_turn *t)
{
	struct commands *p;
	struct stream *s;
	u64 want;

	if (commands_lack(t))
		return 1;
	s = t->s;
	p = t->p;
	if (!commands_bytes(t, s))
		return 1;
	switch (s->state) {
	case STREAM_START:
		if (!HAVE(s)) {
			s->started_ns = t->now;
			s->started_seq = s->next - s->left;
		}
		if (commands_fill(t, s, MYSQL_HEADER) && (!le24(s->window) || commands_fill(t, s, MYSQL_HEADER + 1)))
			mysql_packet(t, p, s);
		break;
	case MYSQL_LOOK:
		want = REQUEST(s) ? (p->asked ? sql_wants() : 4) : MYSQL_ANSWER;
		if (s->remaining < want)
			want = s->remaining;
		if (!commands_fill(t, s, want))
			break;
		*(volatile u8 *)&s->window[at(HAVE(s))] = 0;
		s->remaining -= REQUEST(s) && !p->asked ? 0 : HAVE(s);
		s->state = s->remaining ? STREAM_BODY : STREAM_START;
		if (REQUEST(s) && !p->asked) {
			mysql_login(t, p, s);
			s->remaining -= HAVE(s);
		} else if (REQUEST(s)) {
			if (s->window[0] == 0x03 || s->window[0] == 0x16)
				sql_text_keep(t, p, s, 1, HAVE(s));
			mysql_request(t, p, s);
		} else {
			mysql_response(t, p, s, s->length);
		}
		s->have = 0;
		if (s->state == STREAM_BODY && !s->remaining)
			s->state = STREAM_START;
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

static __always_inline void mysql_run(struct command_turn *t)
{
	if (t->c->flags & CONN_ADOPTED)
		t->p->asked = 1; /* its login is over */
	STEPS(COMMAND_TURNS, 32, mysql_turn, t);
}

#endif
