//! Two hosts in network namespaces, real sockets, real TLS: the transport as its users have it.

// The helpers of a test are not recognised as tests.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod bed;
mod caller;
mod calls;
mod devices;
mod early;
mod endpoints;
mod external;
mod failures;
mod lifecycle;
mod limits;
mod shards;
mod shared;
mod tso;
mod udp_shards;

use std::process::ExitCode;

fn main() -> ExitCode {
    let mut tests = calls::tests();
    tests.extend(devices::tests());
    tests.extend(early::tests());
    tests.extend(endpoints::tests());
    tests.extend(external::tests());
    tests.extend(failures::tests());
    tests.extend(lifecycle::tests());
    tests.extend(limits::tests());
    tests.extend(shards::tests());
    tests.extend(shared::tests());
    tests.extend(tso::tests());
    tests.extend(udp_shards::tests());
    smt_testbed::main(tests)
}
