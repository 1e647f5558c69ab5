/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/*
 * Commands that wait for their answers, first in, first out, many at once: what databases, caches and queues share. A protocol
 * has a turn over the bytes at hand, which calls these:
 *
 *   commands_line     the line at hand is in the window, or its start is
 *   command_asks      the request side: a command, as far as it is known
 *   command_wait      ... it is whole
 *   command_silent    ... and nobody is to answer it
 *   command_answered  the response side: the next one has its answer, or the oldest one its part of an answer
 *   command_due       ... at the turn's end: that is booked
 *   commands_lose     this side has lost its place
 *
 * Answers that differ in nothing are booked as one, with their sums: what is pipelined costs one look-up a run.
 */
#ifndef SIDELIGHT_COMMANDS_H
#define SIDELIGHT_COMMANDS_H

#include "l7/exchange.h"
#include "turns.h"

#define COMMAND_TURNS (1 << 16) /* of a run: no segment has as many elements */
#define COMMAND_LINE 40		/* bytes looked at of a line: what is longer is told by its start */
#define WORD_BYTES 24
#define STATUS_OK 1    /* of every protocol of commands */
#define STATUS_OTHER 2 /* an error without a number of its own */

/* struct command.flags */
enum command_flags {
	COMMAND_KIND = 15,  /* the protocol's own */
	COMMAND_AGAIN = 32, /* booked, and still the next one: it does more than one thing */
	COMMAND_MARK = 64,  /* nothing that counts: a place in the order of answers */
	COMMAND_DONE = 128  /* booked before its turn */
};

/* struct commands.silent */
enum silence {
	SILENT_NEXT = 1, /* the next command alone */
	SILENT = 2,
};

/* struct commands.due */
enum command_due {
	DUE_NOTHING = 0,
	DUE_NEXT = 1,	/* the next command has its answer */
	DUE_OLDEST = 2, /* the oldest one, whose answer came in a step before */
	DUE_STAY = 3,	/* the next command has an answer, and may have more */
	DUE_DROP = 4	/* the next one is over, and books nothing */
};

/* struct stream.flags of a protocol of commands */
enum commands_flags {
	COMMANDS_AWAITS = 1, /* what was said last waits for its answer */
	COMMANDS_READ = 2,   /* the window holds a line that another protocol had read */
	COMMANDS_WHOLE = 4,  /* the part at hand is: for the turn's end */
	COMMANDS_LONG = 8    /* its line goes on */
};

/* What a run works with, as struct turn. */
struct command_turn {
	void *ctx;
	struct __sk_buff *skb;
	struct bpf_sock *sk;
	struct connection *c;
	struct l7_connection *l;
	struct stream *s;
	struct commands *p;
	u64 now;
	u64 dir;
};

/* -- books -------------------------------------------------------------------------------------------------------------- */

/* Puts what was gathered into the books. The value, null when there was nothing, or no room. */
static __always_inline struct latency_value *answers_flush(struct connection *c, struct answers *a)
{
	struct latency_key key = {.edge = c->key, .protocol = c->l7};
	u32 bucket = a->key >> 16 & 127, count = a->count;
	struct latency_value *value;

	if (!count)
		return 0;
	key.method = a->key;
	key.status = a->key >> 32;
	key.operation = a->operation;
	value = latency_get(&key);
	a->count = 0;
	if (!value)
		return 0;
	if (!(a->key >> 8 & 1)) {
		__sync_fetch_and_add(&value->untimed, count);
		return value;
	}
	if (bucket < LATENCY_BUCKETS)
		__sync_fetch_and_add(&value->buckets[bucket], count);
	__sync_fetch_and_add(&value->sum_ns, a->sum_ns);
	__sync_fetch_and_add(&value->first_ns, a->first_ns);
	__sync_fetch_and_add(&value->first_count, count);
	return value;
}

/* One more. `ns`, and `first` until its answer's first byte: of what is timed. */
static __always_inline void answers_add(struct connection *c, struct answers *a, u8 method, u32 operation, u16 status,
					bool timed, u64 ns, u64 first)
{
	u64 bucket = timed ? latency_bucket(ns) : 0;
	u64 key = method | (u64)timed << 8 | bucket << 16 | (u64)status << 32;

	if (a->count && (a->key != key || a->operation != operation))
		answers_flush(c, a);
	if (!a->count) {
		a->key = key;
		a->operation = operation;
		a->sum_ns = 0;
		a->first_ns = 0;
	}
	a->sum_ns += ns;
	a->first_ns += first;
	a->count++;
}

/* A transaction's duration, or that of its waiting for the next command, beside the commands' own. */
static __always_inline void transaction_record(struct connection *c, u8 protocol, u16 status, u64 ns)
{
	struct latency_key key = {.edge = c->key, .protocol = protocol};

	key.method = c->l7;
	key.status = status;
	latency_record(&key, ns, true);
}

/* -- the request side --------------------------------------------------------------------------------------------------- */

/* The command at hand is to be this one. */
static __always_inline void command_asks(struct commands *p, const struct stream *s, u8 flags, u8 method)
{
	p->fresh.started_ns = s->started_ns;
	p->fresh.seq = s->started_seq;
	p->fresh.operation = 0;
	p->fresh.more = 0;
	p->fresh.method = method;
	p->fresh.flags = flags;
}

/* The command in `fresh` is whole. Beyond the depth they are only counted, in order. */
static __always_inline void command_wait(struct commands *p, struct stream *s)
{
	bool mark = p->fresh.flags & COMMAND_MARK;
	u32 head = p->head;

	if (!mark)
		COUNT(seen_requests);
	s->flags |= COMMANDS_AWAITS;
	if (head - p->tail_seen >= COMMANDS)
		p->tail_seen = *(volatile u32 *)&p->tail;
	if (p->untimed_head != p->untimed_seen)
		p->untimed_seen = *(volatile u32 *)&p->untimed_tail;
	if (p->untimed_marks != p->marks_seen)
		p->marks_seen = *(volatile u32 *)&p->marks_done;
	if (head - p->tail_seen >= COMMANDS || p->untimed_head != p->untimed_seen ||
	    p->untimed_marks != p->marks_seen) {
		if (mark) {
			*(volatile u32 *)&p->untimed_group = p->untimed_head;
			*(volatile u32 *)&p->untimed_marks += 1;
		} else {
			*(volatile u32 *)&p->untimed_head += 1;
		}
		return;
	}
	if (!mark)
		*(volatile u32 *)&p->wanted += 1;
	p->queue[head & (COMMANDS - 1)] = p->fresh;
	if (p->said_text) {
		p->said_text = 0;
		*(volatile u32 *)&p->text_of = head + 1;
	}
	*(volatile u32 *)&p->head = head + 1;
}

static __always_inline void command_silent(struct connection *c, struct commands *p)
{
	COUNT(seen_requests);
	COUNT(seen_responses);
	answers_add(c, &p->oneway, p->fresh.method, p->fresh.operation, STATUS_SILENT, false, 0, 0);
}

/* -- the response side -------------------------------------------------------------------------------------------------- */

static __always_inline bool command_waits(const struct commands *p)
{
	return p->next != *(volatile u32 *)&p->head;
}

/* Of a command that waits: the next one. */
static __always_inline struct command *command_next(struct commands *p)
{
	return &p->queue[p->next & (COMMANDS - 1)];
}

/* What the command said, where that was kept (l7/sql.h). */
static __always_inline void command_text(struct bpf_sock *sk, struct request_event *event, struct commands *p,
					 u32 index)
{
	struct exchange_text *kept;

	event->text[0] = 0;
	event->host[0] = 0;
	event->traceparent[0] = 0;
	if (*(volatile u32 *)&p->text_of != index + 1)
		return;
	kept = exchange_texts.sk_storage_get(sk, 0, 0);
	if (!kept)
		return;
	__builtin_memcpy(event->text, kept->text, TEXT_BYTES);
	event->event.text_length = TEXT_BYTES;
	if (*(volatile u32 *)&p->text_of == index + 1)
		return;
	event->event.text_length = 0; /* the client went on meanwhile */
	event->text[0] = 0;
}

/* Books command `index`, and makes its event. */
static __always_inline void command_book(void *ctx, struct bpf_sock *sk, struct connection *c, struct commands *p,
					 u32 index, u16 status, bool error, u64 now, u64 first_ns, u32 response_seq)
{
	struct command *e = &p->queue[index & (COMMANDS - 1)];
	struct exchange_end end = {
	    .now = now,
	    .duration_ns = now > e->started_ns ? now - e->started_ns : 0,
	    .request_seq = e->seq,
	    .response_seq = response_seq,
	    .operation = e->operation,
	    .status = status,
	    .protocol = c->l7,
	    .method = e->method,
	    .error = error,
	};
	struct request_event *event;

	answers_add(c, &p->answers, e->method, e->operation, status, true, end.duration_ns,
		    first_ns > e->started_ns ? first_ns - e->started_ns : 0);
	event = exchange_event(ctx, c, &end);
	if (!event)
		return;
	command_text(sk, event, p, index);
	events.ringbuf_submit(event, NO_WAKEUP);
	COUNT(sent_events);
}

/* The command has its answer, or its part of one: to be booked at the turn's end, in one place. */
static __always_inline void command_answered(struct commands *p, u8 due, u16 status, bool failed)
{
	p->due = due;
	p->due_method = 0;
	p->due_status = status;
	p->failed = failed;
}

/* Books what the turn has found, and ends it. */
static __always_inline int command_due(struct command_turn *t, struct commands *p, const struct stream *s)
{
	u8 due = REQUEST(s) ? DUE_NOTHING : *(volatile u8 *)&p->due;
	u32 index = due == DUE_OLDEST ? p->tail : p->next;
	struct command *e = &p->queue[index & (COMMANDS - 1)];

	if (due == DUE_NOTHING)
		return 0;
	p->due = 0;
	if (due != DUE_OLDEST && !command_waits(p)) {
		if (due == DUE_DROP)
			return 0;
		if (p->untimed_tail == *(volatile u32 *)&p->untimed_head) {
			COUNT(exchange_unmatched);
			return 0;
		}
		COUNT(seen_responses);
		COUNT(exchange_untimed);
		*(volatile u32 *)&p->untimed_tail += 1;
		answers_add(t->c, &p->answers, p->due_method, 0, p->due_status, false, 0, 0);
		return 0;
	}
	if (due != DUE_DROP && !(e->flags & COMMAND_DONE)) {
		if (p->due_method)
			e->method = p->due_method;
		if (e->flags & (COMMAND_MARK | COMMAND_AGAIN))
			COUNT(seen_requests); /* the answer alone tells of it */
		else
			p->done++;
		COUNT(seen_responses);
		command_book(t->ctx, t->sk, t->c, p, index, p->due_status, p->failed, t->now, p->first_ns,
			     t->s->started_seq);
	}
	if (due == DUE_STAY) {
		e->flags |= COMMAND_AGAIN;
		e->started_ns = t->now;
		return 0;
	}
	if (due != DUE_OLDEST)
		p->next = index + 1;
	if (p->tail == index)
		*(volatile u32 *)&p->tail = index + 1;
	else
		e->flags |= COMMAND_DONE;
	return 0;
}

/* What waits is given up, counted: which answer is whose is not known any more. */
static __always_inline void commands_forget(struct commands *p)
{
	u32 wanted = *(volatile u32 *)&p->wanted, untimed = *(volatile u32 *)&p->untimed_head;

	count_many(COUNTER_lost_exchanges, wanted - p->done + untimed - p->untimed_tail);
	p->done = wanted;
	p->next = p->head;
	*(volatile u32 *)&p->tail = p->head;
	*(volatile u32 *)&p->untimed_tail = untimed;
	*(volatile u32 *)&p->marks_done = p->untimed_marks;
	p->depth = 0;
	p->begun = 0;
}

/* -- streams ------------------------------------------------------------------------------------------------------------ */

static __always_inline void commands_lose(struct connection *c, struct stream *s, struct commands *p, bool request)
{
	s->state = STREAM_RESYNC;
	s->have = 0;
	s->left = 0;
	s->flags = 0;
	COUNT(lost_commands_sync);
	if (!p)
		return;
	if (request) {
		p->parts = 0;
		*(volatile u8 *)&p->lost = 1;
	} else {
		commands_forget(p);
	}
}

/* The gap before a segment, if it is all of a part that nobody looks at. */
static __always_inline bool commands_pass_gap(struct stream *s, u32 gap)
{
	if (s->state == STREAM_DEAD || s->state == STREAM_RESYNC) {
		s->have = 0;
		return true;
	}
	if (s->state != STREAM_BODY || s->remaining <= gap)
		return false;
	s->remaining -= gap;
	return true;
}

/* The connection is none of its protocol, or speaks something else from here on: nobody looks at it any more. */
static __always_inline void commands_leave(struct command_turn *t, struct stream *s)
{
	t->l->opaque = 1;
	s->state = STREAM_DEAD;
	s->left = 0;
}

/* ... but TLS. */
static __always_inline void commands_encrypt(struct command_turn *t, struct stream *s)
{
	commands_leave(t, s);
	t->c->hello_left = 0;
	t->c->hello_events = 0;
	t->c->l7 = L7_TLS;
	COUNT(seen_tls);
}

static __always_inline struct reorder *commands_kept(const struct command_turn *t)
{
	return t->s->slot || t->s->stashed ? reorder_of(t->sk, t->dir, 0) : 0;
}

/* Never: but the verifier does not know what a caller put onto its stack. */
static __always_inline bool commands_lack(const struct command_turn *t)
{
	return !t->s || !t->p || !t->l || !t->c || !t->sk;
}

/* Are there bytes at hand? Takes up the kept segment that follows; false when there is none. */
static __always_inline bool commands_bytes(struct command_turn *t, struct stream *s)
{
	struct reorder *kept;

	if (t->l->opaque)
		s->state = STREAM_DEAD;
	if (s->state == STREAM_DEAD || s->state == STREAM_RESYNC)
		s->left = 0;
	if (s->left || s->flags & COMMANDS_READ) {
		s->flags &= ~COMMANDS_READ;
		return true;
	}
	if (s->state == STREAM_DEAD || s->state == STREAM_RESYNC || !s->stashed)
		return false;
	kept = reorder_of(t->sk, t->dir, 0);
	return kept && reorder_next(kept, s);
}

/* Bytes of a part that nobody looks at. True: it is at its end. */
static __always_inline bool commands_skip(struct stream *s)
{
	u32 n = s->left < s->remaining ? s->left : s->remaining;

	source_skip(s, n);
	s->remaining -= n;
	return !s->remaining;
}

/* Fills the window up to `most` bytes. True: they are there. */
static __always_inline bool commands_fill(struct command_turn *t, struct stream *s, u32 most)
{
	u32 before = HAVE(s);

	if (before >= most || !s->left)
		return before >= most;
	source_fill_to(t->skb, s, commands_kept(t), most);
	if (HAVE(s) == before) /* these bytes were not kept */
		commands_lose(t->c, s, t->p, REQUEST(s));
	return HAVE(s) >= most;
}

/*
 * The line at hand, with its newline at line_end, and the source behind it; or, where line_end is COMMAND_LINE, the start of a longer one.
 * False: more bytes are needed.
 */
static __always_inline bool commands_line(struct command_turn *t, struct stream *s)
{
	u64 end = COMMAND_LINE;
	u32 early;

	s->length = 0;
	commands_fill(t, s, COMMAND_LINE);
#pragma unroll
	for (int i = COMMAND_LINE - 8; i >= 0; i -= 8) {
		u64 found = match_byte(load8(s->window + i), '\n');
		u64 at_end = i + lowest_byte(found + !found);

		end = choose(!found, end, at_end);
	}
	*(volatile u16 *)&s->line_end = end;
	if (end >= HAVE(s)) {
		*(volatile u16 *)&s->line_end = COMMAND_LINE;
		return HAVE(s) >= COMMAND_LINE;
	}
	early = HAVE(s) - end - 1; /* belongs to what comes next */
	s->length = early;
	s->offset -= early;
	s->left += early;
	s->have = 0;
	return true;
}

/* Are the next `n` bytes behind the line at hand in the window as well? Then they are taken, and stand behind line_end. */
static __always_inline bool commands_behind_line(struct stream *s, u64 n)
{
	if (n > s->length || n > COMMAND_LINE)
		return false;
	source_skip(s, n);
	s->length -= n;
	return true;
}

/* -- words -------------------------------------------------------------------------------------------------------------- */

/* Capitals for small letters. */
static __always_inline u64 capitals(u64 word)
{
	u64 low = word & (EVERY_BYTE * 0x7f);
	u64 from_a = low + EVERY_BYTE * (0x80 - 'a'), beyond_z = low + EVERY_BYTE * (0x7f - 'z');
	u64 small = (from_a ^ beyond_z) & ~word & (EVERY_BYTE << 7);

	return word - (small >> 2);
}

/* The number of a word of `length` bytes at `text`, of which WORD_BYTES can be read, and its flags << 8; 0 when it is none that is known. */
static __always_inline u32 word_number(const u8 *text, u64 length, u8 protocol, u8 kind)
{
	struct word_key key = {.protocol = protocol, .kind = kind};
	u32 *known;

	if (length > WORD_BYTES || !length)
		return 0;
	key.text[0] = capitals(load_within(text, 0, length));
	key.text[1] = capitals(load_within(text + 8, 8, length));
	key.text[2] = capitals(load_within(text + 16, 16, length));
	known = words.lookup(&key);
	return known ? *known : 0;
}

/* Do eight bytes begin with a command of the protocol? */
static __always_inline bool commands_begin_with(u64 first, u8 protocol)
{
	u64 end = match_byte(first, ' ') | match_byte(first, '\r') | match_byte(first, '\n');
	struct word_key key = {.protocol = protocol, .kind = WORDS_COMMANDS};

	if (!end)
		return false;
	key.text[0] = capitals(first & ((1ULL << (lowest_byte(end) * 8 & 63)) - 1));
	return words.lookup(&key) != 0;
}

/*
 * Goes on through a line of words: `n` characters at the window's start, COMMAND_LINE at most. The word with index `wanted` is a number.
 * Without branches: each character is one more turn for the verifier.
 */
static __always_inline void words_read(struct line_words *w, const struct stream *s, u64 n, u64 wanted)
{
#pragma clang loop unroll(disable)
	for (u32 i = 0; i < COMMAND_LINE; i++) {
		u64 c = s->window[i], digit = (u8)(c - '0'), within = below(i, n) & below(0, c ^ '\r');
		u64 blank = within & below(c ^ ' ', 1), counts = within & below(w->word ^ wanted, 1) & below(digit, 10);

		w->quiet |= blank & below(w->last >> 48 ^ (' ' | 'q' << 8), 1);
		w->number = choose(counts, w->number * 10 + digit, w->number);
		w->word += blank;
		w->last = choose(within, w->last >> 8 | c << 56, w->last);
	}
}

static __always_inline void words_begin(struct line_words *w)
{
	w->number = 0;
	w->last = 0;
	w->word = 0;
	w->quiet = 0;
}

/* Length of the word at the start of the window's line, as far as it is WORD_BYTES long; up to a space, a CR or an LF. */
static __always_inline u64 word_length(const u8 *text)
{
	u64 length = WORD_BYTES + 1;

#pragma unroll
	for (int i = WORD_BYTES - 8; i >= 0; i -= 8) {
		u64 word = load8(text + i);
		u64 found = match_byte(word, ' ') | match_byte(word, '\r') | match_byte(word, '\n');
		u64 end = i + lowest_byte(found + !found);

		length = choose(!found, length, end);
	}
	return length;
}

/* The decimal number of `digits` digits, eight at most, in the word; BAD_NUMBER where they are none. */
#define BAD_NUMBER (1ULL << 40)
static __always_inline u64 number8(u64 word, u64 digits)
{
	u64 bad;

	if (!digits || digits > 8)
		return BAD_NUMBER;
	/* zeros in front, as characters */
	word = word << ((8 - digits) * 8 & 63);
	word |= choose(below(digits, 8), (EVERY_BYTE * '0') & ((1ULL << ((8 - digits) * 8 & 63)) - 1), 0);
	word ^= EVERY_BYTE * '0';
	bad = (word | (word + EVERY_BYTE * 6)) & (EVERY_BYTE * 0xf0);
	if (bad)
		return BAD_NUMBER;
	word = (word * 10 + (word >> 8)) & 0x00ff00ff00ff00ffULL;
	word = (word * 100 + (word >> 16)) & 0x0000ffff0000ffffULL;
	return (word * 10000 + (word >> 32)) & 0xffffffffULL;
}

/* -- a run -------------------------------------------------------------------------------------------------------------- */

/* Its state; false when there is no room for it, which makes the connection opaque. */
static __always_inline bool commands_begin(struct command_turn *t)
{
	t->p = command_queues.sk_storage_get(t->sk, 0, BPF_SK_STORAGE_GET_F_CREATE);
	if (!t->p)
		t->p = command_queues.sk_storage_get(t->sk, 0, 0); /* the other direction's run was faster */
	if (!t->p) {
		COUNT(lost_l7_storage);
		t->c->l7 = L7_OPAQUE;
		return false;
	}
	t->now = bpf_ktime_get_ns();
	if (!t->s->request && *(volatile u8 *)&t->p->lost) {
		*(volatile u8 *)&t->p->lost = 0;
		commands_forget(t->p);
		t->s->state = STREAM_RESYNC;
		t->s->have = 0;
	}
	return true;
}

/* What the run's answers came to goes into the books, with the bytes at hand. */
static __always_inline void commands_end(struct command_turn *t)
{
	struct latency_value *value;
	struct commands *p = t->p;

	if (t->s->request)
		answers_flush(t->c, &p->oneway);
	else if ((value = answers_flush(t->c, &p->answers)))
		exchange_carry(value, t->c, t->l);
}

/* One that stays without an answer, as a callback: the connection is over. */
int commands_close_turn(struct command_turn *t)
{
	struct commands *p = t->p;
	u32 index;

	if (!p || !t->c || !t->l)
		return 1;
	index = p->tail;
	if (index == p->head)
		return 1;
	if (!(p->queue[index & (COMMANDS - 1)].flags & (COMMAND_DONE | COMMAND_MARK | COMMAND_AGAIN))) {
		COUNT(seen_unanswered);
		command_book(t->ctx, t->sk, t->c, p, index, 0, true, t->now, 0, 0);
	}
	p->tail = index + 1;
	return 0;
}

/* The connection is over: what was asked and not answered has failed. True when there may be more, for another run. */
static __always_inline bool commands_close(void *ctx, struct bpf_sock *sk, struct connection *c,
					   struct l7_connection *l)
{
	struct command_turn t = {.ctx = ctx, .sk = sk, .c = c, .l = l, .now = bpf_ktime_get_ns()};
	struct commands *p = command_queues.sk_storage_get(sk, 0, 0);
	u32 rest;

	if (!p || !l->confirmed)
		return false;
	t.p = p;
	p->next = p->head;
	STEPS(COMMANDS, 8, commands_close_turn, &t);
	answers_flush(c, &p->answers);
	if (p->tail != p->head)
		return true;
	rest = p->untimed_head - p->untimed_tail;
	p->untimed_tail = p->untimed_head;
	untimed_unanswered(c, rest);
	return false;
}

#endif
