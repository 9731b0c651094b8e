//! Kernels that lack something, in the guise of this one: system calls are refused as such a kernel
//! would (seccomp).

// Clippy takes functions for tests only under the standard harness.
#![allow(clippy::unwrap_used, clippy::panic)]

use std::io;
use std::process::ExitCode;

use smt_datapath::auto::{Obstacle, Usability};
use smt_datapath::{Kind, OpenError, OpenOptions, open, probe};
use smt_testbed::{PairOptions, pair, test};

fn main() -> ExitCode {
    smt_testbed::main(vec![
        test("without_bpf", without_bpf),
        test("without_xdp_sockets", without_xdp_sockets),
        test("without_packet_sockets", without_packet_sockets),
        test("without_raw_sockets", without_raw_sockets),
    ])
}

fn without_bpf() {
    without(&[(libc::SYS_bpf, None, libc::ENOSYS)], || {
        no_xdp();
        assert_eq!(opened(Kind::Auto { allow_xdp: true }), "packet");
    });
}

fn without_xdp_sockets() {
    // As root a program can be loaded all the same; without, its refusal would come first.
    let bpf = (libc::SYS_bpf, None, libc::ENOSYS);
    let socket = (libc::SYS_socket, Some(libc::AF_XDP), libc::EAFNOSUPPORT);
    let all = if smt_testbed::may_use_bpf() { vec![socket] } else { vec![socket, bpf] };
    without(&all, || {
        no_xdp();
        assert_eq!(opened(Kind::Auto { allow_xdp: true }), "packet");
    });
}

fn no_xdp() {
    let error = refused(Kind::Xdp);
    assert!(matches!(error, OpenError::NoXdp), "{error:?}");
    let text = error.to_string();
    assert!(text.contains("CONFIG_XDP_SOCKETS") && text.contains("--datapath"), "{text}");
    assert_eq!(obstacle(Kind::Xdp), Obstacle::NoXdp);
}

fn without_packet_sockets() {
    without(&[(libc::SYS_socket, Some(libc::AF_PACKET), libc::EAFNOSUPPORT)], || {
        let error = refused(Kind::Packet);
        assert!(matches!(error, OpenError::NoPacketSockets), "{error:?}");
        let text = error.to_string();
        assert!(text.contains("CONFIG_PACKET") && text.contains("--datapath raw"), "{text}");
        assert_eq!(obstacle(Kind::Packet), Obstacle::NoPacketSockets);
        assert_eq!(opened(Kind::Auto { allow_xdp: false }), "raw");
    });
}

/// As in a container without `CAP_NET_RAW`.
fn without_raw_sockets() {
    let refusals =
        [libc::AF_INET, libc::AF_INET6].map(|family| (RAW_SOCKET, Some(family), libc::EPERM));
    without(&refusals, || {
        for kind in [Kind::Raw, Kind::Packet, Kind::Xdp] {
            let error = refused(kind);
            assert!(matches!(error, OpenError::MissingPrivilege { .. }), "{kind:?}: {error:?}");
            assert!(error.to_string().contains("setcap cap_net_raw+ep"), "{error}");
            assert_eq!(obstacle(kind), Obstacle::NoRawPrivilege);
        }
        assert_eq!(opened(Kind::Auto { allow_xdp: true }), "udp");
    });
}

/// `socket` for type `SOCK_RAW`; no number that the kernel has.
const RAW_SOCKET: libc::c_long = -1;

/// Runs `work` in a host of a pair whose kernel refuses system calls: number, first argument if only with
/// that one, error.
fn without(refusals: &[(libc::c_long, Option<i32>, i32)], work: impl FnOnce() + Send) {
    let pair = pair(PairOptions::default()).unwrap();
    // The thread ends with the work, and the filter with it.
    let done = pair.a.run(|| {
        refuse(refusals).unwrap();
        work();
    });
    done.unwrap();
}

fn refused(kind: Kind) -> OpenError {
    open(OpenOptions { kind, bind: [10, 0, 0, 1].into(), ..OpenOptions::default() }).err().unwrap()
}

fn opened(kind: Kind) -> &'static str {
    let options = OpenOptions { kind, bind: [10, 0, 0, 1].into(), ..OpenOptions::default() };
    open(options).unwrap().datapath.caps().name
}

/// What `smt doctor` says of a datapath.
fn obstacle(kind: Kind) -> Obstacle {
    let host = probe::Host::probe(smt_datapath::DEFAULT_PROTOCOL).unwrap();
    let choice = smt_datapath::auto::choose(&host.facts([10, 0, 0, 1].into(), true));
    match &choice.of(kind).unwrap().usability {
        Usability::No(obstacle) => obstacle.clone(),
        other => panic!("{other:?}"),
    }
}

/// Has the kernel refuse system calls to the calling thread, for good.
#[allow(unsafe_code)]
fn refuse(refusals: &[(libc::c_long, Option<i32>, i32)]) -> io::Result<()> {
    // Offsets in `struct seccomp_data`: the number, and the arguments' low halves.
    const NUMBER: u32 = 0;
    const ARGUMENT: [u32; 2] = if cfg!(target_endian = "little") { [16, 24] } else { [20, 28] };
    let statement = |code: u32, k: u32| libc::sock_filter { code: code as u16, jt: 0, jf: 0, k };
    let load = |offset| statement(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, offset);
    let unless = |value: u32, skip: usize| libc::sock_filter {
        code: (libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K) as u16,
        jt: 0,
        jf: skip as u8,
        k: value,
    };
    let and = |mask: u32| statement(libc::BPF_ALU | libc::BPF_AND | libc::BPF_K, mask);
    let answer = |verdict: u32| statement(libc::BPF_RET | libc::BPF_K, verdict);
    let mut program = Vec::new();
    for &(number, argument, error) in refusals {
        let is_raw = number == RAW_SOCKET;
        let number = if is_raw { libc::SYS_socket } else { number };
        let mut rest = Vec::new();
        if is_raw {
            rest.extend([load(ARGUMENT[1]), and(0xf), unless(libc::SOCK_RAW as u32, 0)]);
        }
        if let Some(argument) = argument {
            rest.extend([load(ARGUMENT[0]), unless(argument as u32, 0)]);
        }
        rest.push(answer(libc::SECCOMP_RET_ERRNO | error as u32));
        // What does not match skips to behind the answer.
        let len = rest.len();
        for (at, instruction) in rest.iter_mut().enumerate() {
            if u32::from(instruction.code) == libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K {
                instruction.jf = (len - at - 1) as u8;
            }
        }
        program.extend([load(NUMBER), unless(number as u32, len)]);
        program.extend(rest);
    }
    program.push(answer(libc::SECCOMP_RET_ALLOW));
    let filter = libc::sock_fprog { len: program.len() as u16, filter: program.as_mut_ptr() };
    // SAFETY: neither call keeps what it is given: the kernel copies the program, whose length is that
    // of the vector, which lives until the end of this function.
    let result = unsafe {
        match libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) {
            0 => libc::prctl(libc::PR_SET_SECCOMP, libc::SECCOMP_MODE_FILTER, &raw const filter),
            error => error,
        }
    };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}
