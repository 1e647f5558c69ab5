/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/* The one translation unit: BCC compiles modules, and the programs share their maps. */
#include <linux/bpf.h>

#include "hooks/sock_ops.c"

#include "hooks/ingress.c"

#include "hooks/egress.c"

#include "hooks/sock_release.c"
