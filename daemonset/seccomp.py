"""The agent's seccomp profile: what it, its loader and `kubectl exec` of its commands call, and no more. `make docs` writes seccomp.json.

Found with `strace -f` of the agent under load with every exporter, of each command, and of the shell; grouped by what they are for.
"""

from __future__ import annotations

import json

GROUPS: dict[str, str] = {
    "the programs and their maps": "bpf",
    "sockets: metrics, gRPC, OTLP, netlink": "accept accept4 bind connect getpeername getsockname getsockopt listen recvfrom recvmmsg recvmsg sendmmsg sendmsg sendto setsockopt shutdown socket socketpair",
    "following cgroups, waiting": "epoll_create1 epoll_ctl epoll_pwait epoll_pwait2 epoll_wait eventfd2 inotify_add_watch inotify_init1 inotify_rm_watch poll ppoll pselect6 select pipe pipe2",
    "files": "access chdir chmod close close_range copy_file_range dup dup2 dup3 faccessat faccessat2 fadvise64 fallocate fchmod fchmodat fchmodat2 fcntl fdatasync flock fstat fstatfs fsync ftruncate getcwd getdents64 ioctl lseek lstat mkdir mkdirat newfstatat open openat openat2 pread64 preadv pwrite64 pwritev read readlink readlinkat readv rename renameat renameat2 rmdir stat statfs statx symlink symlinkat truncate umask unlink unlinkat utimensat write writev",
    "memory": "brk madvise mbind membarrier memfd_create mincore mlock mlock2 mmap mprotect mremap msync munlock munmap",
    "processes and threads": "arch_prctl capget clone clone3 execve execveat exit exit_group fork futex futex_waitv get_robust_list getegid geteuid getgid getgroups getpgid getpgrp getpid getppid getpriority getresgid getresuid getrlimit getrusage getsid gettid getuid kill prctl prlimit64 restart_syscall rseq sched_getaffinity sched_getattr sched_getparam sched_getscheduler sched_setaffinity sched_yield set_robust_list set_tid_address setpgid setsid tgkill tkill vfork wait4 waitid",
    "signals": "rt_sigaction rt_sigpending rt_sigprocmask rt_sigqueueinfo rt_sigreturn rt_sigsuspend rt_sigtimedwait rt_tgsigqueueinfo sigaltstack pause pidfd_open pidfd_send_signal",
    "time": "clock_getres clock_gettime clock_nanosleep gettimeofday nanosleep time timer_create timer_delete timer_settime timerfd_create timerfd_settime timerfd_gettime times",
    "the machine, asked": "getcpu getrandom sysinfo uname get_mempolicy",
    "a container's start, by the runtime": "setgid setgroups setuid setresgid setresuid capset setns",
}  # fmt: skip
"""setns is conntrack's, for a namespace other than the pod's; without CAP_SYS_ADMIN the kernel refuses it anyway."""


def profile() -> str:
    names = sorted({name for group in GROUPS.values() for name in group.split()})
    return (
        json.dumps(
            {
                "defaultAction": "SCMP_ACT_ERRNO",
                "defaultErrnoRet": 1,
                "archMap": [
                    {"architecture": "SCMP_ARCH_X86_64", "subArchitectures": ["SCMP_ARCH_X86", "SCMP_ARCH_X32"]},
                    {"architecture": "SCMP_ARCH_AARCH64", "subArchitectures": ["SCMP_ARCH_ARM"]},
                ],
                "syscalls": [{"names": names, "action": "SCMP_ACT_ALLOW"}],
            },
            indent=1,
        )
        + "\n"
    )
