//! The XDP datapath over veth, in network namespaces of their own, in both modes.

// Clippy takes functions for tests only under the standard harness.
#![allow(clippy::unwrap_used, clippy::panic)]

mod bed;
mod network;
mod ownership;
mod shards;
mod traffic;

use std::process::ExitCode;

use smt_testbed::Trial;

fn main() -> ExitCode {
    if let Ok(address) = std::env::var(ownership::HOLD) {
        ownership::hold(address.parse().unwrap());
        return ExitCode::SUCCESS;
    }
    let mut tests = traffic::tests();
    tests.extend(network::tests());
    tests.extend(ownership::tests());
    tests.extend(shards::tests());
    if !smt_testbed::may_use_bpf() {
        eprintln!(
            "NOT RUN: the tests of the XDP datapath, which need CAP_BPF and CAP_NET_ADMIN on the \
             machine itself: run them as root"
        );
        tests = tests.into_iter().map(|test| test.with_ignored_flag(true)).collect::<Vec<Trial>>();
    }
    smt_testbed::main(tests)
}
