//! What a network device can do, by the `ethtool` request.

use std::io;
use std::net::UdpSocket;
use std::os::fd::AsRawFd;

const SIOCETHTOOL: u64 = 0x8946;
const GET_DRIVER: u32 = 0x03;
const GET_SET_INFO: u32 = 0x37;
const GET_STRINGS: u32 = 0x1b;
const GET_FEATURES: u32 = 0x3a;
const GET_CHANNELS: u32 = 0x3c;
/// The string set with the names of features.
const FEATURES: u32 = 4;
/// Bytes of a name, in words.
const NAME_WORDS: usize = 8;
/// Words of what a device tells of its driver (`struct ethtool_drvinfo`).
const DRIVER_WORDS: usize = 49;
/// Most features a kernel may name, or they are not asked for; those of today have some sixty.
const MAX_FEATURES: usize = 4096;

/// Receive queues that the device called `name` in the network namespace of `socket` uses; 1 if it
/// does not tell.
pub(crate) fn rx_queues(socket: &UdpSocket, name: &str) -> u32 {
    // The command, four maxima, then how many there are: receive, send, other and combined ones.
    let mut channels = [GET_CHANNELS, 0, 0, 0, 0, 0, 0, 0, 0];
    // SAFETY: the kernel writes nine words.
    match unsafe { request(socket, name, &mut channels) } {
        Ok(()) => channels[5].saturating_add(channels[8]).max(1),
        Err(_) => 1,
    }
}

/// The driver of the device called `name` in the network namespace of `socket`, if it has one.
pub(crate) fn driver(socket: &UdpSocket, name: &str) -> Option<String> {
    // The command, then names: of the driver first.
    let mut info = [0; DRIVER_WORDS];
    info[0] = GET_DRIVER;
    // SAFETY: the kernel writes the structure, which has as many words.
    unsafe { request(socket, name, &mut info) }.ok()?;
    Some(text(&info[1..1 + NAME_WORDS])).filter(|driver| !driver.is_empty())
}

/// Names of the features that are switched on at the device called `name` in the network namespace of
/// `socket`, which may be any.
///
/// # Errors
/// There is no such device, or it does not tell.
pub(crate) fn active_features(socket: &UdpSocket, name: &str) -> io::Result<Vec<String>> {
    let mut info = [GET_SET_INFO, 0, 1 << FEATURES, 0, 0];
    // SAFETY: the kernel writes one word behind the mask for each of its bits, which is one.
    unsafe { request(socket, name, &mut info) }?;
    let count = info[4] as usize;
    if count > MAX_FEATURES {
        return Err(io::ErrorKind::Unsupported.into());
    }
    let mut names = vec![0; 3 + count * NAME_WORDS];
    (names[0], names[1], names[2]) = (GET_STRINGS, FEATURES, count as u32);
    // SAFETY: the kernel writes all names it has, whose number is compiled into it and was just told.
    unsafe { request(socket, name, &mut names) }?;
    let blocks = count.div_ceil(32);
    let mut features = vec![0; 2 + blocks * 4];
    (features[0], features[1]) = (GET_FEATURES, blocks as u32);
    // SAFETY: the kernel writes no more blocks than the second word says.
    unsafe { request(socket, name, &mut features) }?;
    let active = |index: usize| {
        features.get(2 + index / 32 * 4 + 2).is_some_and(|word| word >> (index % 32) & 1 == 1)
    };
    let name = |index: usize| {
        let words = names.get(3 + index * NAME_WORDS..)?.get(..NAME_WORDS)?;
        Some(text(words))
    };
    Ok((0..count).filter(|index| active(*index)).filter_map(name).collect())
}

/// A name in words, up to its zero.
fn text(words: &[u32]) -> String {
    let bytes: Vec<u8> = words.iter().flat_map(|word| word.to_ne_bytes()).collect();
    let len = bytes.iter().position(|byte| *byte == 0).unwrap_or(bytes.len());
    String::from_utf8_lossy(&bytes[..len]).into_owned()
}

/// Makes the ethtool request that `words` begins with, of the device called `name`.
///
/// # Safety
/// There must be as many words as the kernel writes in answer to the request.
unsafe fn request(socket: &UdpSocket, name: &str, words: &mut [u32]) -> io::Result<()> {
    // SAFETY: a plain C structure for which all zeros is a value.
    let mut request = unsafe { std::mem::zeroed::<libc::ifreq>() };
    if name.len() >= request.ifr_name.len() {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    for (place, byte) in request.ifr_name.iter_mut().zip(name.bytes()) {
        *place = byte as libc::c_char;
    }
    request.ifr_ifru.ifru_data = words.as_mut_ptr().cast();
    // SAFETY: the name ends with a zero, and the data leads to `words`, which outlive the call, and
    // which the caller promises to be enough.
    let result = unsafe { libc::ioctl(socket.as_raw_fd(), SIOCETHTOOL as _, &raw mut request) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}
