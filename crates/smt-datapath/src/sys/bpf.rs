//! bpf(2): programs, maps and links, as far as a datapath needs them.

use std::io;
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd};

// Commands, types and flags of linux/bpf.h.
const MAP_CREATE: libc::c_int = 0;
const MAP_UPDATE_ELEM: libc::c_int = 2;
const PROG_LOAD: libc::c_int = 5;
#[cfg(test)]
const PROG_TEST_RUN: libc::c_int = 10;
const LINK_CREATE: libc::c_int = 28;
const MAP_TYPE_XSKMAP: u32 = 17;
const PROG_TYPE_XDP: u32 = 6;
const ATTACH_XDP: u32 = 37;
const PROG_HAS_FRAGS: u32 = 1 << 5;
/// Bytes of the verifier's words that are worth showing.
const LOG_LEN: usize = 16 << 10;

/// One instruction (`struct bpf_insn`).
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Instruction {
    pub(crate) code: u8,
    /// Destination register in the low four bits, source in the high four.
    pub(crate) registers: u8,
    pub(crate) offset: i16,
    pub(crate) immediate: i32,
}

/// Where in the kernel an XDP program runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Hook {
    /// In the device's driver, before the kernel has made a packet of what came in.
    Driver,
    /// In the stack, with any device.
    Generic,
}

/// Makes a map of AF_XDP sockets by queue number.
pub(crate) fn socket_map(name: &str, len: u32) -> io::Result<OwnedFd> {
    #[repr(C)]
    struct Attributes {
        kind: u32,
        key_size: u32,
        value_size: u32,
        max_entries: u32,
        flags: u32,
        inner_map_fd: u32,
        numa_node: u32,
        name: [u8; 16],
    }
    let attributes = Attributes {
        kind: MAP_TYPE_XSKMAP,
        key_size: 4,
        value_size: 4,
        max_entries: len,
        flags: 0,
        inner_map_fd: 0,
        numa_node: 0,
        name: object_name(name),
    };
    // SAFETY: there is no address among them, and the command makes a descriptor.
    unsafe { create(MAP_CREATE, &attributes) }
}

/// Puts `socket` in a map made by [`socket_map`].
pub(crate) fn set_socket(map: impl AsFd, queue: u32, socket: impl AsFd) -> io::Result<()> {
    #[repr(C)]
    struct Attributes {
        map_fd: u32,
        padding: u32,
        key: u64,
        value: u64,
        flags: u64,
    }
    let value = socket.as_fd().as_raw_fd() as u32;
    let attributes = Attributes {
        map_fd: map.as_fd().as_raw_fd() as u32,
        padding: 0,
        key: (&raw const queue) as u64,
        value: (&raw const value) as u64,
        flags: 0,
    };
    // SAFETY: key and value lead to four bytes each, which is what such a map has, and both outlive
    // the call; the kernel reads them.
    unsafe { call(MAP_UPDATE_ELEM, &attributes) }.map(drop)
}

/// Has the kernel verify and load an XDP program. `frags`: it takes packets that lie in several
/// pieces. On failure the second value is what the verifier said of it.
pub(crate) fn load_xdp(
    name: &str,
    program: &[Instruction],
    frags: bool,
) -> Result<OwnedFd, (io::Error, String)> {
    try_load(name, program, frags, &mut []).or_else(|_| {
        let mut log = vec![0; LOG_LEN];
        try_load(name, program, frags, &mut log).map_err(|error| {
            let end = log.iter().position(|byte| *byte == 0).unwrap_or(log.len());
            (error, String::from_utf8_lossy(&log[..end]).trim().to_owned())
        })
    })
}

fn try_load(
    name: &str,
    program: &[Instruction],
    frags: bool,
    log: &mut [u8],
) -> io::Result<OwnedFd> {
    #[repr(C)]
    struct Attributes {
        kind: u32,
        instruction_count: u32,
        instructions: u64,
        license: u64,
        log_level: u32,
        log_size: u32,
        log: u64,
        kernel_version: u32,
        flags: u32,
        name: [u8; 16],
        ifindex: u32,
        expected_attach_type: u32,
    }
    let license = c"Dual MIT/GPL";
    let attributes = Attributes {
        kind: PROG_TYPE_XDP,
        instruction_count: program.len() as u32,
        instructions: program.as_ptr() as u64,
        license: license.as_ptr() as u64,
        log_level: u32::from(!log.is_empty()),
        log_size: log.len() as u32,
        log: if log.is_empty() { 0 } else { log.as_mut_ptr() as u64 },
        kernel_version: 0,
        flags: if frags { PROG_HAS_FRAGS } else { 0 },
        name: object_name(name),
        ifindex: 0,
        expected_attach_type: ATTACH_XDP,
    };
    // SAFETY: instructions, licence and log lead to as many bytes as the fields beside them say, until
    // the end of this function; the log, the one that is written to, comes from a `&mut`. The command
    // makes a descriptor.
    unsafe { create(PROG_LOAD, &attributes) }
}

/// Attaches `program` to the device `ifindex` until the returned descriptor is closed, by whatever
/// ends this process too.
pub(crate) fn attach_xdp(program: impl AsFd, ifindex: u32, hook: Hook) -> io::Result<OwnedFd> {
    #[repr(C)]
    struct Attributes {
        program_fd: u32,
        ifindex: u32,
        attach_type: u32,
        flags: u32,
    }
    let attributes = Attributes {
        program_fd: program.as_fd().as_raw_fd() as u32,
        ifindex,
        attach_type: ATTACH_XDP,
        flags: match hook {
            Hook::Generic => 1 << 1,
            Hook::Driver => 1 << 2,
        },
    };
    // SAFETY: there is no address among them, and the command makes a descriptor.
    unsafe { create(LINK_CREATE, &attributes) }
}

/// What `program` decides about a frame that came in on queue 0.
#[cfg(test)]
pub(crate) fn run_xdp(program: impl AsFd, frame: &[u8]) -> io::Result<u32> {
    #[repr(C)]
    struct Attributes {
        program_fd: u32,
        verdict: u32,
        len_in: u32,
        len_out: u32,
        data_in: u64,
        data_out: u64,
        repeat: u32,
        duration: u32,
        context: [u32; 2],
        context_pointers: [u64; 2],
        flags: u32,
        cpu: u32,
        batch_size: u32,
        // The kernel wants zeros there.
        padding: u32,
    }
    let mut attributes = Attributes {
        program_fd: program.as_fd().as_raw_fd() as u32,
        verdict: 0,
        len_in: frame.len() as u32,
        len_out: 0,
        data_in: frame.as_ptr() as u64,
        data_out: 0,
        repeat: 1,
        duration: 0,
        context: [0; 2],
        context_pointers: [0; 2],
        flags: 0,
        cpu: 0,
        batch_size: 0,
        padding: 0,
    };
    // SAFETY: `data_in` leads to `len_in` bytes that outlive the call; there is no other pointer.
    // The kernel writes into the attributes, which are borrowed mutably.
    unsafe { call_mut(PROG_TEST_RUN, &mut attributes) }?;
    Ok(attributes.verdict)
}

/// A name as the kernel takes it: what does not fit is cut off, and what it refuses replaced.
fn object_name(name: &str) -> [u8; 16] {
    let mut bytes = [0; 16];
    for (byte, from) in bytes[..15].iter_mut().zip(name.bytes()) {
        *byte = if from.is_ascii_alphanumeric() { from } else { b'_' };
    }
    bytes
}

/// A command whose result is a new descriptor.
///
/// # Safety
/// As [`call`], and `command` must be one that returns a new descriptor.
unsafe fn create<T>(command: libc::c_int, attributes: &T) -> io::Result<OwnedFd> {
    // SAFETY: the caller promises it.
    let fd = unsafe { call(command, attributes) }?;
    // SAFETY: the caller promises that the descriptor is new, and so nobody's yet.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// # Safety
/// Every address among `attributes` must lead to what `command` takes it for.
unsafe fn call<T>(command: libc::c_int, attributes: &T) -> io::Result<libc::c_int> {
    // SAFETY: pointer and length describe `attributes`; these commands do not write there. The
    // caller answers for the addresses in it.
    let result =
        unsafe { libc::syscall(libc::SYS_bpf, command, &raw const *attributes, size_of::<T>()) };
    check(result)
}

/// # Safety
/// As [`call`]; the kernel may write to `attributes`.
#[cfg(test)]
unsafe fn call_mut<T>(command: libc::c_int, attributes: &mut T) -> io::Result<libc::c_int> {
    // SAFETY: as above.
    let result =
        unsafe { libc::syscall(libc::SYS_bpf, command, &raw mut *attributes, size_of::<T>()) };
    check(result)
}

fn check(result: libc::c_long) -> io::Result<libc::c_int> {
    libc::c_int::try_from(result)
        .ok()
        .filter(|result| *result >= 0)
        .ok_or_else(io::Error::last_os_error)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_cut_and_cleaned() {
        assert_eq!(&object_name("smt"), b"smt\0\0\0\0\0\0\0\0\0\0\0\0\0");
        assert_eq!(&object_name("a b.c and much more"), b"a_b_c_and_much_\0");
    }
}
