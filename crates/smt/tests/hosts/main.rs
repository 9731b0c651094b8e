//! Two hosts in network namespaces, real sockets, real TLS: the transport as its users have it.

mod bed;
mod calls;
mod failures;
mod limits;

use std::process::ExitCode;

fn main() -> ExitCode {
    let mut tests = calls::tests();
    tests.extend(failures::tests());
    tests.extend(limits::tests());
    smt_testbed::main(tests)
}
