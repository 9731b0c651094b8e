//! Ethernet and IP headers.

use std::net::IpAddr;
use std::ops::Range;

use super::Mac;

/// Bytes of an Ethernet header.
pub(crate) const ETHERNET_LEN: usize = 14;
/// Bytes of an IPv4 header without options.
pub(crate) const V4_LEN: usize = 20;
/// Bytes of an IPv6 header.
pub(crate) const V6_LEN: usize = 40;
/// Bytes of the longest headers that a [`Template`] writes.
pub(crate) const MAX_LEN: usize = ETHERNET_LEN + V6_LEN;

/// Ethernet's numbers of the two IP versions.
pub(crate) const TYPE_V4: u16 = 0x0800;
pub(crate) const TYPE_V6: u16 = 0x86dd;

const DONT_FRAGMENT: u8 = 0x40;
/// IPv4: more fragments follow, or this is not the first.
const FRAGMENT: u16 = 0x3fff;

/// The headers of all packets of one path, but for what differs between packets.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Template {
    bytes: [u8; MAX_LEN],
    len: usize,
}

/// What the packets of a path have in common.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Ends {
    pub(crate) src_mac: Mac,
    pub(crate) dst_mac: Mac,
    pub(crate) src: IpAddr,
    pub(crate) dst: IpAddr,
    pub(crate) protocol: u8,
    pub(crate) hop_limit: u8,
}

impl Template {
    /// The headers between `ends`; `None` if their addresses are of different IP versions.
    ///
    /// IPv4 packets have the ID 0 and may not be fragmented.
    pub(crate) fn new(ends: Ends) -> Option<Self> {
        let mut bytes = [0; MAX_LEN];
        bytes[..6].copy_from_slice(&ends.dst_mac);
        bytes[6..12].copy_from_slice(&ends.src_mac);
        let ip = &mut bytes[ETHERNET_LEN..];
        let (ethertype, len) = match (ends.src, ends.dst) {
            (IpAddr::V4(src), IpAddr::V4(dst)) => {
                ip[0] = 0x45;
                ip[6] = DONT_FRAGMENT;
                ip[8] = ends.hop_limit;
                ip[9] = ends.protocol;
                ip[12..16].copy_from_slice(&src.octets());
                ip[16..20].copy_from_slice(&dst.octets());
                (TYPE_V4, ETHERNET_LEN + V4_LEN)
            }
            (IpAddr::V6(src), IpAddr::V6(dst)) => {
                ip[0] = 0x60;
                ip[6] = ends.protocol;
                ip[7] = ends.hop_limit;
                ip[8..24].copy_from_slice(&src.octets());
                ip[24..40].copy_from_slice(&dst.octets());
                (TYPE_V6, ETHERNET_LEN + V6_LEN)
            }
            _ => return None,
        };
        bytes[12..14].copy_from_slice(&ethertype.to_be_bytes());
        Some(Self { bytes, len })
    }

    /// Bytes of the headers.
    pub(crate) fn len(&self) -> usize {
        self.len
    }

    /// Ethernet's number of the IP version.
    pub(crate) fn ethertype(&self) -> u16 {
        if self.len == ETHERNET_LEN + V4_LEN { TYPE_V4 } else { TYPE_V6 }
    }

    /// Writes the headers of a packet with `payload` bytes behind them and the traffic class octet
    /// `class` into `room`.
    ///
    /// # Panics
    /// If `room` is not of [`len`](Self::len) bytes.
    pub(crate) fn write(&self, payload: usize, class: u8, room: &mut [u8]) {
        room.copy_from_slice(&self.bytes[..self.len]);
        let ip = &mut room[ETHERNET_LEN..];
        // Whoever calls has checked the payload against the path MTU or the size of segments.
        let ip_len = |len: usize| u16::try_from(len).unwrap_or(u16::MAX).to_be_bytes();
        if self.len == ETHERNET_LEN + V4_LEN {
            ip[1] = class;
            ip[2..4].copy_from_slice(&ip_len(V4_LEN + payload));
            let sum = checksum(ip);
            ip[10..12].copy_from_slice(&sum.to_be_bytes());
        } else {
            ip[0] |= class >> 4;
            ip[1] |= class << 4;
            ip[4..6].copy_from_slice(&ip_len(payload));
        }
    }
}

/// What a received frame carries.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Parsed {
    pub(crate) src: IpAddr,
    pub(crate) dst: IpAddr,
    pub(crate) protocol: u8,
    /// IPv4 identification field.
    pub(crate) ip_id: Option<u16>,
    /// Where in the frame the payload of IP lies.
    pub(crate) payload: Range<usize>,
}

/// Reads the headers of a received Ethernet frame. `None`: it is not IP, damaged, a fragment, or has
/// IPv6 extension headers (whose number then is the `protocol`, so that it is nobody's).
#[inline]
pub(crate) fn parse(frame: &[u8]) -> Option<Parsed> {
    let ethertype = u16::from_be_bytes(*frame.get(12..)?.first_chunk()?);
    let ip = frame.get(ETHERNET_LEN..)?;
    match ethertype {
        TYPE_V4 => parse_v4(ip),
        TYPE_V6 => parse_v6(ip),
        _ => None,
    }
}

fn parse_v4(ip: &[u8]) -> Option<Parsed> {
    let fixed = ip.first_chunk::<V4_LEN>()?;
    let start = 4 * usize::from(fixed[0] & 15);
    let end = usize::from(u16::from_be_bytes([fixed[2], fixed[3]]));
    let header = ip.get(..start)?;
    let is_whole = u16::from_be_bytes([fixed[6], fixed[7]]) & FRAGMENT == 0;
    let fits = (V4_LEN..=end).contains(&start) && end <= ip.len();
    (fixed[0] >> 4 == 4 && fits && is_whole && checksum(header) == 0).then(|| Parsed {
        src: octets::<4>(fixed, 12),
        dst: octets::<4>(fixed, 16),
        protocol: fixed[9],
        ip_id: Some(u16::from_be_bytes([fixed[4], fixed[5]])),
        payload: ETHERNET_LEN + start..ETHERNET_LEN + end,
    })
}

fn parse_v6(ip: &[u8]) -> Option<Parsed> {
    let fixed = ip.first_chunk::<V6_LEN>()?;
    let end = V6_LEN + usize::from(u16::from_be_bytes([fixed[4], fixed[5]]));
    (fixed[0] >> 4 == 6 && end <= ip.len()).then(|| Parsed {
        src: octets::<16>(fixed, 8),
        dst: octets::<16>(fixed, 24),
        protocol: fixed[6],
        ip_id: None,
        payload: ETHERNET_LEN + V6_LEN..ETHERNET_LEN + end,
    })
}

/// The address of `N` octets at `start` of a header that is long enough.
fn octets<const N: usize>(header: &[u8], start: usize) -> IpAddr
where
    IpAddr: From<[u8; N]>,
{
    let mut address = [0; N];
    address.copy_from_slice(&header[start..start + N]);
    IpAddr::from(address)
}

/// The Internet checksum (RFC 1071) of an even number of bytes: 0 over a header that is right.
fn checksum(bytes: &[u8]) -> u16 {
    let words = bytes.chunks_exact(2).map(|word| u32::from(u16::from_be_bytes([word[0], word[1]])));
    let mut sum: u32 = words.sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !(sum as u16)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ends(src: &str, dst: &str) -> Ends {
        Ends {
            src_mac: [2, 0, 0, 0, 0, 1],
            dst_mac: [2, 0, 0, 0, 0, 2],
            src: src.parse().unwrap(),
            dst: dst.parse().unwrap(),
            protocol: 253,
            hop_limit: 64,
        }
    }

    fn frame(src: &str, dst: &str, payload: usize, class: u8) -> Vec<u8> {
        let template = Template::new(ends(src, dst)).unwrap();
        let mut frame = vec![7; template.len() + payload];
        template.write(payload, class, &mut frame[..template.len()]);
        frame
    }

    #[test]
    fn what_is_written_is_read() {
        for (src, dst, id, ethertype) in [
            ("192.0.2.1", "192.0.2.2", Some(0), TYPE_V4),
            ("2001:db8::1", "2001:db8::2", None, TYPE_V6),
        ] {
            for payload in [0, 1, 52, 1448, 65_495] {
                let mut frame = frame(src, dst, payload, 0xe0);
                let header = frame.len() - payload;
                // Ethernet pads short frames.
                frame.extend([0; 40]);
                let parsed = parse(&frame).unwrap();
                assert_eq!(parsed.src, src.parse::<IpAddr>().unwrap());
                assert_eq!(parsed.dst, dst.parse::<IpAddr>().unwrap());
                assert_eq!((parsed.protocol, parsed.ip_id), (253, id));
                assert_eq!(parsed.payload, header..header + payload);
                assert_eq!(frame[12..14], ethertype.to_be_bytes());
                assert_eq!(frame[..12], [2, 0, 0, 0, 0, 2, 2, 0, 0, 0, 0, 1]);
            }
        }
    }

    #[test]
    fn headers_are_those_of_the_standards() {
        let v4 = frame("192.0.2.1", "192.0.2.2", 64, 0xe0);
        let fields = [0x45, 0xe0, 0, 84, 0, 0, 0x40, 0, 64, 253];
        assert_eq!(v4[14..24], fields);
        assert_eq!(checksum(&v4[14..34]), 0);
        let v6 = frame("2001:db8::1", "2001:db8::2", 64, 0xe0);
        assert_eq!(v6[14..22], [0x6e, 0, 0, 0, 0, 64, 253, 64]);
    }

    #[test]
    fn versions_are_not_mixed() {
        assert_eq!(Template::new(ends("192.0.2.1", "2001:db8::1")), None);
    }

    #[test]
    fn damaged_frames_are_refused() {
        let whole = frame("192.0.2.1", "192.0.2.2", 64, 0);
        for byte in 14..34 {
            let mut damaged = whole.clone();
            damaged[byte] ^= 0x10;
            assert_eq!(parse(&damaged), None, "byte {byte}");
        }
        let v6 = frame("2001:db8::1", "2001:db8::2", 64, 0);
        for frame in [&whole, &v6] {
            for len in 0..frame.len() {
                assert_eq!(parse(&frame[..len]), None, "{len} bytes");
            }
        }
    }

    #[test]
    fn fragments_are_refused() {
        for field in [0x2000u16, 1] {
            let mut frame = frame("192.0.2.1", "192.0.2.2", 64, 0);
            frame[20..22].copy_from_slice(&field.to_be_bytes());
            frame[24..26].fill(0);
            let sum = checksum(&frame[14..34]);
            frame[24..26].copy_from_slice(&sum.to_be_bytes());
            assert_eq!(parse(&frame), None);
        }
    }
}
