/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/*
 * Bytes in words of eight, and arithmetic in the place of branches: each branch in a loop doubles what the verifier may have to
 * walk, and the older ones give up at 8192 branches not yet walked.
 */
#ifndef SIDELIGHT_WORDS_H
#define SIDELIGHT_WORDS_H

#include "types.h"

#define CASE_BITS 0x2020202020202020ULL
#define EVERY_BYTE 0x0101010101010101ULL

/* A little-endian word of eight characters. */
#define WORD(a, b, c, d, e, f, g, h)                                                                                   \
	((u64)(a) | (u64)(b) << 8 | (u64)(c) << 16 | (u64)(d) << 24 | (u64)(e) << 32 | (u64)(f) << 40 |                \
	 (u64)(g) << 48 | (u64)(h) << 56)
#define LOW(n) ((1ULL << ((n)*8)) - 1) /* the first n characters */

/*
 * For the verifier's sake, and nothing at all on the host, where the headers are fuzzed (tests/fuzz/host):
 *
 *   OPAQUE      hides from the compiler what it knows of a value: it would make branches of arithmetic, or one loop of two
 *   BOUND_MASK  value &= mask, where the verifier sees it; the compiler would drop it once it knows better
 *   BOUND_SIZE  1 <= size <= mask likewise, for helpers; the caller has made sure that it holds. `size` is a u64
 *   BOUND_MOST  1 <= size <= most, where `most` is no mask
 *   BOUND_INDEX index <= most
 */
#ifndef SIDELIGHT_HOST
#define OPAQUE(value) asm volatile("" : "+r"(value))
#define BOUND_MASK(value, mask) asm volatile("%0 &= " #mask : "+r"(value))
#define BOUND_SIZE(size, mask) asm volatile("%0 &= " #mask "\n\tif %0 s> 0 goto +1\n\t%0 = 1" : "+r"(size))
#define BOUND_MOST(size, most)                                                                                         \
	asm volatile("if %0 <= " #most " goto +1\n\t%0 = " #most "\n\tif %0 s> 0 goto +1\n\t%0 = 1" : "+r"(size))
#define BOUND_INDEX(index, most) asm volatile("if %0 <= " #most " goto +1\n\t%0 = " #most : "+r"(index))
#else
#define OPAQUE(value)
#define BOUND_INDEX(index, most) ((index) = (index) > (most) ? (most) : (index))
#define BOUND_MASK(value, mask) ((value) &= (mask))
#define BOUND_SIZE(size, mask) ((size) = ((size) & (mask)) ? ((size) & (mask)) : 1)
#define BOUND_MOST(size, most) ((size) = (size) > (most) ? (most) : (size) ? (size) : 1)
#endif

static __always_inline u64 load8(const u8 *p)
{
	return *(const u64 *)p;
}

/* 1 where a < b, else 0; both below 2^63. */
static __always_inline u64 below(u64 a, u64 b)
{
	u64 difference = a - b;

	OPAQUE(difference);
	return difference >> 63;
}

/* All ones where `truth` is 1, nothing where it is 0. */
static __always_inline u64 mask_of(u64 truth)
{
	u64 mask = -truth;

	OPAQUE(mask);
	return mask;
}

/* `yes` where `truth` is 1, `no` where it is 0. */
static __always_inline u64 choose(u64 truth, u64 yes, u64 no)
{
	u64 mask = mask_of(truth);

	return (yes & mask) + (no & ~mask);
}

/* High bit set in each byte of `w` equal to `c`; bytes above the first match may be wrong. */
static __always_inline u64 match_byte(u64 w, u8 c)
{
	w ^= EVERY_BYTE * c;
	return (w - EVERY_BYTE) & ~w & (EVERY_BYTE << 7);
}

/* Index of the lowest byte set in a result of match_byte(), which is not zero. */
static __always_inline u32 lowest_byte(u64 t)
{
	return (((((t & -t) >> 7) - 1) & EVERY_BYTE) * EVERY_BYTE) >> 56;
}

/* The word at `p`, index `i` of a text of `length` bytes, with zeros for those that do not belong to it: none to eight do. */
static __always_inline u64 load_within(const u8 *p, u64 i, u64 length)
{
	u64 n = choose(below(i, length), length - i, 0), word;

	n = choose(below(n, 8), n, 8);
	word = load8(p);
	return choose(below(n, 8), word & ((1ULL << (n * 8 & 63)) - 1), word);
}

static __always_inline u16 be16(const u8 *p)
{
	return (u16)p[0] << 8 | p[1];
}

static __always_inline u32 be32(const u8 *p)
{
	return (u32)p[0] << 24 | (u32)p[1] << 16 | (u32)p[2] << 8 | p[3];
}

/* The value of a hexadecimal digit; 16 for what is none. */
static __always_inline u64 hex_digit(u8 c)
{
	u64 digit = (u8)(c - '0'), letter = (u8)((c | 0x20) - 'a');
	u64 is_digit = below(digit, 10), is_letter = below(letter, 6);

	return (digit & mask_of(is_digit)) + ((letter + 10) & mask_of(is_letter)) + 16 * (1 - is_digit - is_letter);
}

#endif
