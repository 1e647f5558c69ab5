/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/* The one translation unit: BCC compiles modules, and the programs share their maps. */
#include <linux/bpf.h>

#include "sock_ops.c"

#include "ingress.c"

#include "egress.c"

#include "sock_release.c"
