//! Where C's pointers are read and written, and where panics end.

use std::ffi::{CStr, c_char, c_void};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV6};
use std::panic::{AssertUnwindSafe, catch_unwind};

use crate::abi::Versioned;
use crate::status::{Failure, Status, remember};

/// Runs the inside of an exported function: a failure becomes its status, and so does a panic.
pub(crate) fn run(work: impl FnOnce() -> Result<(), Failure>) -> i32 {
    // What `work` was changing when it panicked is behind the lock of a handle, which is poisoned.
    match catch_unwind(AssertUnwindSafe(work)) {
        Ok(Ok(())) => Status::Ok as i32,
        Ok(Err(failure)) => remember(failure),
        Err(panic) => {
            let words = panic
                .downcast_ref::<&str>()
                .map(|text| (*text).to_owned())
                .or_else(|| panic.downcast_ref::<String>().cloned())
                .unwrap_or_default();
            // A payload may panic when it is dropped.
            std::mem::forget(panic);
            remember(Failure::new(Status::Bug, format!("a mistake of the library: {words}")))
        }
    }
}

/// The bytes that C lends.
///
/// # Errors
/// `SMT_ERR_INVALID`: no pointer but a length, or more bytes than memory has.
///
/// # Safety
/// If `data` is not null, `len` bytes can be read there, and nobody writes them for `'a`.
pub(crate) unsafe fn bytes<'a>(
    what: &str,
    data: *const u8,
    len: usize,
) -> Result<&'a [u8], Failure> {
    if len == 0 {
        return Ok(&[]);
    }
    if data.is_null() {
        return Err(Failure::invalid(format!("{what} is NULL, but its length is {len}")));
    }
    if isize::try_from(len).is_err() {
        return Err(Failure::invalid(format!("{what} cannot be {len} bytes long")));
    }
    // SAFETY: not null, as many bytes as the caller promises and a slice can have; bytes are
    // aligned anywhere.
    Ok(unsafe { std::slice::from_raw_parts(data, len) })
}

/// The text that C lends; none if the pointer is null.
///
/// # Errors
/// `SMT_ERR_INVALID`: not UTF-8.
///
/// # Safety
/// If `text` is not null, it ends with 0, and nobody writes it for `'a`.
pub(crate) unsafe fn text<'a>(what: &str, text: *const c_char) -> Result<&'a str, Failure> {
    if text.is_null() {
        return Ok("");
    }
    // SAFETY: not null, and ends with 0 as the caller promises.
    let text = unsafe { CStr::from_ptr(text) };
    text.to_str().map_err(|_| Failure::invalid(format!("{what} is not UTF-8")))
}

/// Reads a structure that may be older or newer than this library: members that it lacks are 0;
/// those that we lack must be 0.
///
/// # Errors
/// `SMT_ERR_INVALID`: null, of no known size, or with members of a later version.
///
/// # Safety
/// If `from` is not null, a `usize` can be read there, and as many bytes as it says.
pub(crate) unsafe fn read<T: Versioned>(what: &str, from: *const T) -> Result<T, Failure> {
    // SAFETY: what the caller promises.
    let given = unsafe { given_size(what, from)? };
    let ours = size_of::<T>();
    let mut value = T::ZERO;
    // SAFETY: `given` bytes can be read at `from`, as the caller promises; `value` has room for
    // `ours`, is elsewhere, and takes any bytes as its value.
    unsafe {
        std::ptr::copy_nonoverlapping(
            from.cast::<u8>(),
            (&raw mut value).cast::<u8>(),
            given.min(ours),
        );
    }
    if given > ours {
        // SAFETY: the bytes from `ours` to `given` are the caller's, too.
        let rest = unsafe { bytes(what, from.cast::<u8>().add(ours), given - ours)? };
        if rest.iter().any(|&byte| byte != 0) {
            let text = format!("{what} has members that this version of the library does not know");
            return Err(Failure::invalid(text));
        }
    }
    Ok(value)
}

/// Writes a structure that may be older or newer than this library: as much of it as both know. Its
/// size stays what the caller said.
///
/// # Errors
/// `SMT_ERR_INVALID`: null, or of no known size.
///
/// # Safety
/// If `to` is not null, a `usize` can be read there, as many bytes as it says can be written, and
/// nobody else uses them meanwhile.
pub(crate) unsafe fn write<T: Versioned>(what: &str, to: *mut T, value: &T) -> Result<(), Failure> {
    // SAFETY: what the caller promises.
    let given = unsafe { given_size(what, to)? };
    let size = size_of::<usize>();
    let end = given.min(size_of::<T>());
    // SAFETY: both have `end` bytes, which is more than `size`; `value` has no padding, and it is
    // not where C's structure is, which the caller alone uses.
    unsafe {
        let from = std::ptr::from_ref(value).cast::<u8>().add(size);
        std::ptr::copy_nonoverlapping(from, to.cast::<u8>().add(size), end - size);
    }
    Ok(())
}

/// The size that a structure says it has.
///
/// # Safety
/// If `from` is not null, a `usize` can be read there.
unsafe fn given_size<T: Versioned>(what: &str, from: *const T) -> Result<usize, Failure> {
    /// More than any version will have; larger sizes are memory that was not initialised.
    const MAX: usize = 4096;
    if from.is_null() {
        return Err(Failure::invalid(format!("{what} is NULL")));
    }
    // SAFETY: not null, and readable as the caller promises; read without regard to alignment.
    let given = unsafe { from.cast::<usize>().read_unaligned() };
    if !(T::FIRST..=MAX).contains(&given) {
        let text = format!("{what} has size {given}: set it to its sizeof");
        return Err(Failure::invalid(text));
    }
    Ok(given)
}

/// A place where C wants a result.
pub(crate) struct Out<T>(*mut T);

impl<T> Out<T> {
    /// # Errors
    /// `SMT_ERR_INVALID`: null.
    ///
    /// # Safety
    /// If `to` is not null, a `T` can be written there as long as this value lives, and nobody else
    /// uses that memory meanwhile.
    pub(crate) unsafe fn new(what: &str, to: *mut T) -> Result<Self, Failure> {
        if to.is_null() {
            return Err(Failure::invalid(format!("{what} is NULL")));
        }
        Ok(Out(to))
    }

    pub(crate) fn set(self, value: T) {
        // SAFETY: not null, and writable as promised to `new`; written without regard to
        // alignment, and without dropping what was never a value.
        unsafe { self.0.write_unaligned(value) }
    }
}

/// The IP address in a `sockaddr`.
///
/// # Errors
/// `SMT_ERR_INVALID`: neither a `sockaddr_in` nor a `sockaddr_in6`.
///
/// # Safety
/// Those of [`bytes`].
pub(crate) unsafe fn address(
    what: &str,
    data: *const c_void,
    len: usize,
) -> Result<SocketAddr, Failure> {
    // SAFETY: what the caller promises.
    let raw = unsafe { bytes(what, data.cast(), len)? };
    decode(raw).ok_or_else(|| {
        Failure::invalid(format!("{what} is neither a sockaddr_in nor a sockaddr_in6"))
    })
}

/// Reads a `sockaddr_in` or `sockaddr_in6` of Linux; ports are left out.
fn decode(raw: &[u8]) -> Option<SocketAddr> {
    const INET: u16 = 2;
    const INET6: u16 = 10;
    match u16::from_ne_bytes(*raw.first_chunk()?) {
        INET => {
            let ip = Ipv4Addr::from(*raw.get(4..)?.first_chunk::<4>()?);
            Some(SocketAddr::new(IpAddr::V4(ip), 0))
        }
        INET6 => {
            let ip = Ipv6Addr::from(*raw.get(8..)?.first_chunk::<16>()?);
            let scope = u32::from_ne_bytes(*raw.get(24..)?.first_chunk()?);
            Some(SocketAddrV6::new(ip, 0, 0, scope).into())
        }
        _ => None,
    }
}
