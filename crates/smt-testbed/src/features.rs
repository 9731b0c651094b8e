//! Features of network devices, switched on and off by the generic netlink family `ethtool`.

use std::io;

use netlink_sys::protocols::NETLINK_GENERIC;
use netlink_sys::{Socket, SocketAddr};

use crate::Namespace;

/// The family that tells of others, and its request for one.
const CONTROL: (u16, u8) = (0x10, 3);
const CONTROL_FAMILY_ID: u16 = 1;
const CONTROL_FAMILY_NAME: u16 = 2;
/// The request to change features, and its attributes.
const FEATURES_SET: u8 = 12;
const FEATURES_HEADER: u16 = 1;
const HEADER_DEVICE_NAME: u16 = 2;
const FEATURES_WANTED: u16 = 3;
const BITSET_BITS: u16 = 3;
const BITS_BIT: u16 = 1;
const BIT_NAME: u16 = 2;
const BIT_VALUE: u16 = 3;
/// An attribute made of attributes.
const NESTED: u16 = 0x8000;
/// Bytes in front of attributes: those of netlink and of generic netlink.
const HEADERS: usize = 20;
/// The type of an answer that is a verdict.
const VERDICT: u16 = 2;
const FLAGS_REQUEST_ACK: u16 = 0x5;

impl Namespace {
    /// Switches features of the interface `name` on or off, by the names that `ethtool --show-features` knows them
    /// under in the kernel, `tx-tcp-segmentation` for one.
    ///
    /// # Errors
    ///
    /// There is no such interface or feature, or the feature cannot be changed.
    pub fn set_features(&self, name: &str, features: &[(&str, bool)]) -> io::Result<()> {
        self.run(|| {
            let mut socket = Socket::new(NETLINK_GENERIC)?;
            socket.bind_auto()?;
            socket.connect(&SocketAddr::new(0, 0))?;
            let asked = attribute(CONTROL_FAMILY_NAME, b"ethtool\0");
            let family = family_id(&request(&socket, CONTROL, &asked)?)
                .ok_or_else(|| io::Error::other("the kernel has no family ethtool"))?;
            let bits = features.iter().flat_map(|&(feature, on)| bit(feature, on));
            let bits = nested(BITSET_BITS, bits.collect());
            let device = attribute(HEADER_DEVICE_NAME, format!("{name}\0").as_bytes());
            let mut attributes = nested(FEATURES_HEADER, device);
            attributes.extend(nested(FEATURES_WANTED, bits));
            request(&socket, (family, FEATURES_SET), &attributes).map(drop).map_err(|error| {
                let text = format!("cannot change features of {name}: {error}");
                io::Error::new(error.kind(), text)
            })
        })?
    }
}

fn bit(feature: &str, on: bool) -> Vec<u8> {
    let mut bit = attribute(BIT_NAME, format!("{feature}\0").as_bytes());
    if on {
        bit.extend(attribute(BIT_VALUE, &[]));
    }
    nested(BITS_BIT, bit)
}

fn nested(kind: u16, attributes: Vec<u8>) -> Vec<u8> {
    attribute(kind | NESTED, &attributes)
}

/// An attribute: length, kind, value, and zeros up to a multiple of four bytes.
fn attribute(kind: u16, value: &[u8]) -> Vec<u8> {
    let len = u16::try_from(4 + value.len()).unwrap_or(u16::MAX);
    let mut bytes = [len.to_ne_bytes(), kind.to_ne_bytes()].concat();
    bytes.extend_from_slice(value);
    bytes.resize(bytes.len().next_multiple_of(4), 0);
    bytes
}

/// Makes a request of a family; returns the attributes of the last answer before the verdict, if there are any.
fn request(
    socket: &Socket,
    (family, command): (u16, u8),
    attributes: &[u8],
) -> io::Result<Vec<u8>> {
    let len = u32::try_from(HEADERS + attributes.len()).map_err(io::Error::other)?;
    let mut message = len.to_ne_bytes().to_vec();
    message.extend(family.to_ne_bytes());
    message.extend(FLAGS_REQUEST_ACK.to_ne_bytes());
    // Sequence number, port; then command, version.
    message.extend([0; 8]);
    message.extend([command, 1, 0, 0]);
    message.extend_from_slice(attributes);
    socket.send(&message, 0)?;
    let mut answer = Vec::new();
    loop {
        let (bytes, _) = socket.recv_from_full()?;
        let mut rest = &bytes[..];
        while let Some((message, after)) = split(rest) {
            rest = after;
            match message.get(4..6).map(|kind| u16::from_ne_bytes([kind[0], kind[1]])) {
                Some(VERDICT) => {
                    let code = message.get(16..20).and_then(|code| code.try_into().ok());
                    return match code.map(i32::from_ne_bytes) {
                        Some(0) => Ok(answer),
                        Some(code) => Err(io::Error::from_raw_os_error(-code)),
                        None => Err(io::ErrorKind::InvalidData.into()),
                    };
                }
                _ => answer = message.get(HEADERS..).unwrap_or_default().to_vec(),
            }
        }
    }
}

/// The first message of some, and those after it.
fn split(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let len = u32::from_ne_bytes(*bytes.first_chunk()?) as usize;
    let message = bytes.get(..len).filter(|_| len >= 16)?;
    Some((message, bytes.get(len.next_multiple_of(4)..).unwrap_or_default()))
}

/// The number of a family, among the attributes that tell of it.
fn family_id(mut attributes: &[u8]) -> Option<u16> {
    loop {
        let [len, len2, kind, kind2] = *attributes.first_chunk()?;
        let len = usize::from(u16::from_ne_bytes([len, len2])).max(4);
        if u16::from_ne_bytes([kind, kind2]) == CONTROL_FAMILY_ID {
            return Some(u16::from_ne_bytes(attributes.get(4..6)?.try_into().ok()?));
        }
        attributes = attributes.get(len.next_multiple_of(4)..)?;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn attributes_are_found_behind_others() {
        let mut all = attribute(7, &[1, 2, 3]);
        all.extend(attribute(CONTROL_FAMILY_ID, &20_u16.to_ne_bytes()));
        assert_eq!((all.len(), family_id(&all)), (16, Some(20)));
        assert_eq!((family_id(&all[..8]), family_id(&[])), (None, None));
    }

    #[test]
    fn messages_are_cut_by_their_length() {
        let mut two = 17_u32.to_ne_bytes().to_vec();
        two.resize(20, 7);
        two.extend(16_u32.to_ne_bytes());
        two.resize(36, 8);
        let (first, rest) = split(&two).unwrap();
        assert_eq!((first.len(), rest.len()), (17, 16));
        assert!(split(&two[..16]).is_none() && split(&[]).is_none());
    }
}
