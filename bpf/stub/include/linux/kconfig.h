/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/* What BCC expects a kernel tree to bring; the programs themselves use UAPI only. */
#ifndef SIDELIGHT_STUB_KCONFIG_H
#define SIDELIGHT_STUB_KCONFIG_H
#include <linux/types.h>
#define CONFIG_BPF_SYSCALL 1
#define PAGE_SIZE 4096
typedef __u8 u8;
typedef __u16 u16;
typedef __u32 u32;
typedef __u64 u64;
typedef __s8 s8;
typedef __s16 s16;
typedef __s32 s32;
typedef __s64 s64;
typedef unsigned long uintptr_t;
typedef unsigned long size_t;
typedef _Bool bool;
#define true 1
#define false 0
/* Named by prototypes in BCC's helpers.h, never dereferenced here. */
struct pt_regs {
	unsigned long unused;
};
#endif
