//! Socket options that no safe library covers.

use std::io;
use std::os::fd::{AsFd, AsRawFd};
use std::time::Duration;

/// Sets an option whose value is an `int`.
pub(crate) fn set(socket: impl AsFd, level: i32, name: i32, value: i32) -> io::Result<()> {
    // SAFETY: pointer and length describe `value`, which outlives the call.
    let result = unsafe {
        libc::setsockopt(
            socket.as_fd().as_raw_fd(),
            level,
            name,
            (&raw const value).cast(),
            size_of::<i32>() as libc::socklen_t,
        )
    };
    check(result)
}

/// Reads an option whose value is an `int`.
pub(crate) fn get(socket: impl AsFd, level: i32, name: i32) -> io::Result<i32> {
    let mut value = 0i32;
    let mut len = size_of::<i32>() as libc::socklen_t;
    // SAFETY: pointer and length describe `value`, which outlives the call; the kernel writes at
    // most `len` bytes, and any bytes are an `i32`.
    let result = unsafe {
        libc::getsockopt(
            socket.as_fd().as_raw_fd(),
            level,
            name,
            (&raw mut value).cast(),
            &raw mut len,
        )
    };
    check(result).map(|()| value)
}

/// Sets how long a receive sleeps on a socket that may block.
pub(crate) fn set_receive_timeout(socket: impl AsFd, timeout: Duration) -> io::Result<()> {
    let value = libc::timeval {
        tv_sec: timeout.as_secs() as libc::time_t,
        tv_usec: timeout.subsec_micros() as libc::suseconds_t,
    };
    // SAFETY: there are no addresses in it.
    unsafe { set_struct(socket, libc::SOL_SOCKET, libc::SO_RCVTIMEO, &value) }
}

/// Sets an option whose value is a C structure.
///
/// # Safety
/// Every address in it must lead to what the option takes it for, for as long as the option says.
pub(crate) unsafe fn set_struct<T>(
    socket: impl AsFd,
    level: i32,
    name: i32,
    value: &T,
) -> io::Result<()> {
    // SAFETY: pointer and length describe `value`, which outlives the call; the kernel reads it. The
    // caller answers for addresses in it.
    let result = unsafe {
        libc::setsockopt(
            socket.as_fd().as_raw_fd(),
            level,
            name,
            (&raw const *value).cast(),
            size_of::<T>() as libc::socklen_t,
        )
    };
    check(result)
}

/// Reads an option whose value is a C structure of integers. A kernel that knows fewer fields
/// leaves the last ones as they are.
pub(crate) fn get_struct<T: Integers>(
    socket: impl AsFd,
    level: i32,
    name: i32,
    value: &mut T,
) -> io::Result<()> {
    let mut len = size_of::<T>() as libc::socklen_t;
    // SAFETY: pointer and length describe `value`, which outlives the call; the kernel writes at
    // most `len` bytes, and any bytes are integers.
    let result = unsafe {
        libc::getsockopt(
            socket.as_fd().as_raw_fd(),
            level,
            name,
            (&raw mut *value).cast(),
            &raw mut len,
        )
    };
    check(result)
}

/// C structures of nothing but integers, so that any bytes are a value.
///
/// # Safety
/// They must be.
pub(crate) unsafe trait Integers {}

// SAFETY: linux/if_xdp.h.
unsafe impl Integers for libc::xdp_options {}
// SAFETY: as above.
unsafe impl Integers for libc::xdp_mmap_offsets {}
// SAFETY: as above.
unsafe impl Integers for libc::xdp_statistics {}

/// Bytes of sent packets, by true size, that no device has finished with.
pub(crate) fn unsent(socket: impl AsFd) -> io::Result<usize> {
    let mut bytes: libc::c_int = 0;
    // SAFETY: this request writes one `int` to the pointer, which leads to one.
    let result = unsafe { libc::ioctl(socket.as_fd().as_raw_fd(), libc::TIOCOUTQ, &raw mut bytes) };
    check(result).map(|()| usize::try_from(bytes).unwrap_or(0))
}

/// Lets the socket receive only packets that `program` (classic BPF) accepts.
pub(crate) fn attach_filter(socket: impl AsFd, program: &[libc::sock_filter]) -> io::Result<()> {
    attach(socket, libc::SO_ATTACH_FILTER, program)
}

/// Has `program` (classic BPF) choose among the sockets that share the address of this one
/// (`SO_REUSEPORT`), by the order in which they were bound.
pub(crate) fn attach_choice(socket: impl AsFd, program: &[libc::sock_filter]) -> io::Result<()> {
    attach(socket, libc::SO_ATTACH_REUSEPORT_CBPF, program)
}

fn attach(socket: impl AsFd, name: i32, program: &[libc::sock_filter]) -> io::Result<()> {
    let len = u16::try_from(program.len()).map_err(|_| io::ErrorKind::InvalidInput)?;
    let program = libc::sock_fprog { len, filter: program.as_ptr().cast_mut() };
    // SAFETY: `program` describes `len` instructions that outlive the call; the kernel copies and
    // verifies them and writes nothing.
    let result = unsafe {
        libc::setsockopt(
            socket.as_fd().as_raw_fd(),
            libc::SOL_SOCKET,
            name,
            (&raw const program).cast(),
            size_of::<libc::sock_fprog>() as libc::socklen_t,
        )
    };
    check(result)
}

fn check(result: libc::c_int) -> io::Result<()> {
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}
