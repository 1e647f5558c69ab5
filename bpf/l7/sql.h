/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/* What the protocols of SQL share: a statement's verb, texts that end with a zero, SQLSTATE. */
#ifndef SIDELIGHT_SQL_H
#define SIDELIGHT_SQL_H

#include "l7/commands.h"

#define SQL_TEXT 64   /* bytes of a statement looked at */
#define SQL_BLANKS 16 /* in front of the verb */

/* Verbs the programs know by themselves; agent/vocabulary.py has the others. */
enum sql_verb {
	SQL_CANCEL = 1,	 /* a connection of its own, to give up a statement */
	SQL_CONNECT = 2, /* a login that failed */
	SQL_FETCH = 3,	 /* more rows of a statement that was done with in part */
	SQL_EXECUTE = 4, /* of a statement whose text is not known */
	SQL_ROLLBACK = 5,
};

/* High bit set in each byte of the word that is no letter. */
static __always_inline u64 no_letters(u64 word)
{
	u64 low = (word | CASE_BITS) & (EVERY_BYTE * 0x7f);
	u64 from_a = low + EVERY_BYTE * (0x80 - 'a'), beyond_z = low + EVERY_BYTE * (0x7f - 'z');

	return ~(from_a & ~beyond_z & ~word) & (EVERY_BYTE << 7);
}

/* Length of the word at `text`: letters alone, up to WORD_BYTES; more when it is longer. */
static __always_inline u64 letters(const u8 *text)
{
	u64 length = WORD_BYTES + 1;

#pragma unroll
	for (int i = WORD_BYTES - 8; i >= 0; i -= 8) {
		u64 found = no_letters(load8(text + i));
		u64 end = i + lowest_byte(found + !found);

		length = choose(!found, length, end);
	}
	return length;
}

/* Where the text ends with a zero, SQL_TEXT when it does not before that. */
static __always_inline u64 text_end(const u8 *text)
{
	u64 length = SQL_TEXT;

#pragma unroll
	for (int i = SQL_TEXT - 8; i >= 0; i -= 8) {
		u64 found = match_byte(load8(text + i), 0);
		u64 end = i + lowest_byte(found + !found);

		length = choose(!found, length, end);
	}
	return length;
}

/* A hash of the text's first bytes, and of its length. */
static __always_inline u32 text_hash(const u8 *text, u64 length)
{
	u64 hash = hash_word(HASH_SEED, length);

#pragma unroll
	for (int i = 0; i < WORD_BYTES; i += 8)
		hash = hash_word(hash, load_within(text + i, i, length));
	return hash >> 32;
}

/* The answer to what a transaction did next: how long had it waited? */
static __always_inline void sql_answer_begins(struct command_turn *t, struct commands *p)
{
	p->begun = 1;
	p->first_ns = t->now;
	p->opened_ns = command_waits(p) ? command_next(p)->started_ns : t->now;
	if (p->idle_ns && p->opened_ns > p->idle_ns)
		transaction_record(t->c, PROTOCOL_DB_IDLE, 0, p->opened_ns - p->idle_ns);
	p->idle_ns = 0;
}

/* Bytes of a message that are looked at: of statements as many as an event shows, where it is to show them. */
static __always_inline u64 sql_wants(void)
{
	struct settings *set = current_settings();

	return set && set->query_text ? SQL_TEXT + TEXT_BYTES : SQL_TEXT;
}

/* Keeps a statement's start, `length` bytes of it in the window from `from` on, for the event of the command that carries it out. */
static __always_inline void sql_text_keep(struct command_turn *t, struct commands *p, struct stream *s, u64 from,
					  u64 length)
{
	struct settings *set = current_settings();
	struct exchange_text *kept;

	if (!set || !set->query_text)
		return;
	kept = exchange_texts.sk_storage_get(t->sk, 0, BPF_SK_STORAGE_GET_F_CREATE);
	if (!kept) {
		COUNT(lost_exchange_text);
		return;
	}
	*(volatile u32 *)&p->text_of = 0;
#pragma clang loop unroll(disable)
	for (u64 i = 0; i < TEXT_BYTES; i += 8)
		*(u64 *)(kept->text + i) = load_within(s->window + at(from + i), from + i, length);
	p->said_text = 1;
}

/* The number of a statement's verb: its first word, behind blanks and parentheses. */
static __always_inline u32 sql_verb_of(const u8 *text, u8 protocol)
{
	u64 start = 0, blank = 1;

#pragma unroll
	for (int i = 0; i < SQL_BLANKS; i++) {
		blank &= below(text[i], '!') | below(text[i] ^ '(', 1);
		start += blank;
	}
	BOUND_MASK(start, 31);
	return word_number(text + start, letters(text + start), protocol, WORDS_COMMANDS) & 255;
}

/* Where SQLSTATE begins in the fields of an error: behind a zero and the letter C. */
static __always_inline u64 sql_state(const u8 *fields)
{
	u64 found = 0;

#pragma clang loop unroll(disable)
	for (u64 i = 0; i < 32; i++) {
		u64 here = below(fields[i], 1) & below(fields[i + 1] ^ 'C', 1) & below(found, 1);

		found += mask_of(here) & (i + 2);
	}
	return found;
}

#endif
