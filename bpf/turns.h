/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/*
 * Loops that no verifier has to walk: bpf_loop() (5.17) calls a function until it returns 1, and the function is verified once.
 *
 * BCC compiles functions one by one and knows none as a value. So a constant stands for it, which agent/compiler.py replaces:
 * the functions of enum callback, in its order, are put behind each program that names them.
 */
#ifndef SIDELIGHT_TURNS_H
#define SIDELIGHT_TURNS_H

#include "types.h"

enum callback {
	CALLBACK_http2_turn = 0,
	CALLBACK_http2_close_turn = 1,
	CALLBACK_path_turn = 2,
	CALLBACK_commands_close_turn = 3,
	CALLBACK_redis_turn = 4,
	CALLBACK_memcached_turn = 5,
	CALLBACK_postgresql_turn = 6,
	CALLBACK_mysql_turn = 7,
	CALLBACK_kafka_turn = 8,
};

#ifndef SIDELIGHT_HOST
static long (*loop_)(u32 times, void *callback, void *state, u64 flags) = (void *)181;

/* Calls `callback(state)` until it returns 1, `times` times at most. */
#define TURNS(times, callback, state) loop_(times, (void *)(0x51deULL << 32 | CALLBACK_##callback), state, 0)

/*
 * Likewise; but on a kernel without bpf_loop() a plain loop of `walked` turns stands in its place, which its verifier walks: as many as
 * 5.10's takes with room to spare.
 */
#define STEPS(times, walked, callback, state)                                                                          \
	loop_(times, (void *)(0x51dfULL << 32 | (walked) << 8 | CALLBACK_##callback), state, 0)
#else
#define TURNS(times, callback, state)                                                                                  \
	for (u32 turn_ = 0; turn_ < (times); turn_++)                                                                  \
		if (callback(state))                                                                                   \
	break
#define STEPS(times, walked, callback, state) TURNS(times, callback, state)
#endif

#endif
