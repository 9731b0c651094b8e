//! Writes packets to a capture file, with the time of the simulation, as they would look over IPv4.
//!
//! The format is classic pcap with nanoseconds and raw IP packets; Wireshark and tcpdump read it.
//! Integers are little-endian wherever it is written, so that the same run gives the same file.

use std::io::{self, Write};
use std::net::IpAddr;

use smt_proto::Time;

use crate::net::address;
use crate::packet::{HostId, Packet};
use crate::world::{Moment, Observer};

/// Says that times are in nanoseconds.
const MAGIC: u32 = 0xa1b2_3c4d;
const SNAP_LEN: u32 = 262_144;
/// LINKTYPE_RAW: packets begin with an IP header.
const LINK_TYPE: u32 = 101;
const HOP_LIMIT: u8 = 64;
/// The protocol number that captures show: one for experiments.
const PROTOCOL: u8 = 253;
const IP_LEN: usize = 20;
/// ECN: the sender can do it, and congestion was met.
const ECT: u8 = 2;
const CE: u8 = 3;

/// A capture file.
pub struct Capture<W> {
    output: W,
    record: Vec<u8>,
}

impl<W: Write> Capture<W> {
    /// Begins a capture.
    ///
    /// # Errors
    /// If the file header cannot be written.
    pub fn new(mut output: W) -> io::Result<Self> {
        let mut header = MAGIC.to_le_bytes().to_vec();
        header.extend([2, 0, 4, 0]);
        // Time zone and accuracy, which nobody uses.
        header.extend([0; 8]);
        header.extend(SNAP_LEN.to_le_bytes());
        header.extend(LINK_TYPE.to_le_bytes());
        output.write_all(&header)?;
        Ok(Self { output, record: Vec::new() })
    }

    /// Adds a packet. Its priority is shown as a class selector (DSCP 0, 8, .. 56); a mark as ECN.
    ///
    /// # Errors
    /// If it cannot be written.
    pub fn packet(&mut self, now: Time, packet: &Packet) -> io::Result<()> {
        let nanos = now.as_nanos();
        let len = (IP_LEN + packet.bytes.len()) as u32;
        self.record.clear();
        for field in [(nanos / 1_000_000_000) as u32, (nanos % 1_000_000_000) as u32, len, len] {
            self.record.extend(field.to_le_bytes());
        }
        self.record.extend(ip_header(packet));
        self.record.extend(&packet.bytes);
        self.output.write_all(&self.record)
    }

    /// Captures every packet as it leaves its sender, before taps and switches touch it, and what
    /// taps add. The first failure ends the capture.
    #[must_use]
    pub fn into_observer(self) -> Observer
    where
        W: 'static,
    {
        let mut capture = Some(self);
        Box::new(move |now, moment, packet| {
            if let (Moment::Sent | Moment::Added, Some(open)) = (moment, &mut capture)
                && open.packet(now, packet).is_err()
            {
                capture = None;
            }
        })
    }
}

fn ip_header(packet: &Packet) -> [u8; IP_LEN] {
    let mut header = [0; IP_LEN];
    let len = u16::try_from(IP_LEN + packet.bytes.len()).unwrap_or(0);
    header[0] = 0x45;
    header[1] = packet.priority.min(7) << 5 | if packet.marked { CE } else { ECT };
    header[2..4].copy_from_slice(&len.to_be_bytes());
    header[4..6].copy_from_slice(&packet.ip_id.to_be_bytes());
    // Don't fragment.
    header[6] = 0x40;
    header[8] = HOP_LIMIT;
    header[9] = PROTOCOL;
    header[12..16].copy_from_slice(&octets(packet.src));
    header[16..20].copy_from_slice(&octets(packet.dst));
    let checksum = internet_checksum(&header);
    header[10..12].copy_from_slice(&checksum.to_be_bytes());
    header
}

fn octets(host: HostId) -> [u8; 4] {
    match address(host).ip() {
        IpAddr::V4(addr) => addr.octets(),
        IpAddr::V6(_) => [0; 4],
    }
}

/// RFC 1071.
fn internet_checksum(header: &[u8; IP_LEN]) -> u16 {
    let words =
        header.chunks_exact(2).map(|pair| u32::from(u16::from_be_bytes([pair[0], pair[1]])));
    let sum: u32 = words.sum();
    let sum = (sum & 0xffff) + (sum >> 16);
    !((sum & 0xffff) + (sum >> 16)) as u16
}

#[cfg(test)]
mod tests {
    use super::*;

    fn packet() -> Packet {
        let bytes = b"ping".to_vec();
        Packet { bytes, src: 0, dst: 1, priority: 5, ..Packet::default() }
    }

    #[test]
    fn a_capture_is_what_readers_expect() {
        let mut file = Vec::new();
        let mut capture = Capture::new(&mut file).unwrap();
        capture.packet(Time::from_nanos(3_000_000_007), &packet()).unwrap();
        let head = [0x4d, 0x3c, 0xb2, 0xa1, 2, 0, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 4, 0];
        assert_eq!(file[..20], head);
        assert_eq!(file[20..24], [101, 0, 0, 0]);
        assert_eq!(file[24..40], [3, 0, 0, 0, 7, 0, 0, 0, 24, 0, 0, 0, 24, 0, 0, 0]);
        assert_eq!(file[40..50], [0x45, 0xa2, 0, 24, 0, 0, 0x40, 0, 64, 253]);
        assert_eq!(file[52..60], [10, 0, 0, 1, 10, 0, 0, 2]);
        assert_eq!(&file[60..], b"ping");
        // A header with its checksum sums up to nothing.
        assert_eq!(internet_checksum(file[40..60].first_chunk().unwrap()), 0);
    }

    #[test]
    fn marks_are_shown() {
        assert_eq!(ip_header(&Packet { marked: true, ..packet() })[1], 0xa3);
    }
}
