//! A decorator that writes every packet to a capture file, as it would look straight over IP.
//!
//! The format is classic pcap with nanoseconds and raw IP packets; Wireshark and tcpdump read it.
//! IP headers are synthesised from the packets' addresses and SMT's protocol number, whatever
//! carries the packets in truth.

use std::io::{self, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::fd::BorrowedFd;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use crate::{Caps, Datapath, DatapathStats, PathError, RxMeta, TxMeta};

/// Says that times are in nanoseconds and integers in the writer's byte order.
const MAGIC: u32 = 0xa1b2_3c4d;
const VERSION: [u16; 2] = [2, 4];
const SNAP_LEN: u32 = 262_144;
/// LINKTYPE_RAW: packets begin with an IPv4 or IPv6 header.
const LINK_TYPE: u32 = 101;
const HOP_LIMIT: u8 = 64;

/// A datapath whose packets are captured.
pub struct PcapWriter<D> {
    inner: D,
    /// `None` after it failed.
    output: Option<Box<dyn Write + Send>>,
    protocol: u8,
    local: IpAddr,
    record: Vec<u8>,
}

impl<D: Datapath> PcapWriter<D> {
    /// Captures the packets of `inner` into `output`, under IP protocol number `protocol`. Packets
    /// sent without a source address of their own are shown to come from `local`.
    ///
    /// A capture that fails later ends with a warning; the packets still flow.
    ///
    /// # Errors
    /// If the file header cannot be written.
    pub fn new(
        inner: D,
        mut output: Box<dyn Write + Send>,
        protocol: u8,
        local: IpAddr,
    ) -> io::Result<Self> {
        output.write_all(&file_header())?;
        Ok(Self { inner, output: Some(output), protocol, local, record: Vec::new() })
    }
}

impl<D: Datapath> Datapath for PcapWriter<D> {
    fn caps(&self) -> Caps {
        self.inner.caps()
    }

    fn frame(&mut self) -> Option<&mut [u8]> {
        self.inner.frame()
    }

    fn commit(&mut self, meta: TxMeta) {
        if let Some(frame) = self.inner.frame() {
            let headers = Headers {
                src: meta.src.unwrap_or(self.local),
                dst: meta.dst.ip(),
                protocol: self.protocol,
                id: 0,
            };
            write(&mut self.output, &mut self.record, &headers, &frame[..meta.len]);
        }
        self.inner.commit(meta);
    }

    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }

    fn backlog(&self) -> usize {
        self.inner.backlog()
    }

    fn recv(&mut self) -> io::Result<usize> {
        let count = self.inner.recv()?;
        for index in 0..count {
            let (meta, bytes) = self.inner.packet(index);
            let headers = Headers {
                src: meta.src.ip(),
                dst: meta.dst,
                protocol: self.protocol,
                id: meta.ip_id.unwrap_or(0),
            };
            write(&mut self.output, &mut self.record, &headers, bytes);
        }
        Ok(count)
    }

    fn packet(&mut self, index: usize) -> (RxMeta, &mut [u8]) {
        self.inner.packet(index)
    }

    fn path_error(&mut self) -> Option<PathError> {
        self.inner.path_error()
    }

    fn path_mtu(&mut self, dst: IpAddr) -> io::Result<usize> {
        self.inner.path_mtu(dst)
    }

    fn tso(&mut self, dst: IpAddr) -> usize {
        self.inner.tso(dst)
    }

    fn fd(&self) -> BorrowedFd<'_> {
        self.inner.fd()
    }

    fn next_due(&self) -> Option<Instant> {
        self.inner.next_due()
    }

    fn wait(&mut self, timeout: Option<Duration>) -> io::Result<()> {
        self.inner.wait(timeout)
    }

    fn stats(&self) -> DatapathStats {
        self.inner.stats()
    }
}

/// What goes into a synthesised IP header.
struct Headers {
    src: IpAddr,
    dst: IpAddr,
    protocol: u8,
    id: u16,
}

impl Headers {
    fn append(&self, payload: usize, out: &mut Vec<u8>) {
        match (self.src, self.dst) {
            (IpAddr::V4(src), IpAddr::V4(dst)) => self.append_v4(src, dst, payload, out),
            (src, dst) => self.append_v6(v6(src), v6(dst), payload, out),
        }
    }

    fn append_v4(&self, src: Ipv4Addr, dst: Ipv4Addr, payload: usize, out: &mut Vec<u8>) {
        let start = out.len();
        out.extend([0x45, 0]);
        out.extend(length(20 + payload));
        out.extend(self.id.to_be_bytes());
        // Don't fragment; no offset.
        out.extend([0x40, 0, HOP_LIMIT, self.protocol, 0, 0]);
        out.extend(src.octets());
        out.extend(dst.octets());
        let checksum = internet_checksum(&out[start..]);
        out[start + 10..start + 12].copy_from_slice(&checksum.to_be_bytes());
    }

    fn append_v6(&self, src: Ipv6Addr, dst: Ipv6Addr, payload: usize, out: &mut Vec<u8>) {
        out.extend([0x60, 0, 0, 0]);
        out.extend(length(payload));
        out.extend([self.protocol, HOP_LIMIT]);
        out.extend(src.octets());
        out.extend(dst.octets());
    }
}

/// Writes one packet; the first failure ends the capture.
fn write(
    output: &mut Option<Box<dyn Write + Send>>,
    record: &mut Vec<u8>,
    headers: &Headers,
    payload: &[u8],
) {
    let Some(writer) = output else { return };
    let time = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    record.clear();
    record.extend((time.as_secs() as u32).to_ne_bytes());
    record.extend(time.subsec_nanos().to_ne_bytes());
    record.extend([0; 8]);
    headers.append(payload.len(), record);
    record.extend(payload);
    let len = ((record.len() - 16) as u32).to_ne_bytes();
    record[8..12].copy_from_slice(&len);
    record[12..16].copy_from_slice(&len);
    if let Err(error) = writer.write_all(record) {
        tracing::warn!(%error, "packet capture ends: its file cannot be written");
        *output = None;
    }
}

fn file_header() -> Vec<u8> {
    let mut header = MAGIC.to_ne_bytes().to_vec();
    header.extend(VERSION.iter().flat_map(|part| part.to_ne_bytes()));
    // Time zone and accuracy, which nobody uses.
    header.extend([0; 8]);
    header.extend(SNAP_LEN.to_ne_bytes());
    header.extend(LINK_TYPE.to_ne_bytes());
    header
}

fn v6(address: IpAddr) -> Ipv6Addr {
    match address {
        IpAddr::V4(v4) => v4.to_ipv6_mapped(),
        IpAddr::V6(v6) => v6,
    }
}

/// A length field; what does not fit is shown as 0, as for jumbograms.
fn length(len: usize) -> [u8; 2] {
    u16::try_from(len).unwrap_or(0).to_be_bytes()
}

/// RFC 1071.
fn internet_checksum(header: &[u8]) -> u16 {
    let mut sum: u32 =
        header.chunks_exact(2).map(|pair| u32::from(u16::from_be_bytes([pair[0], pair[1]]))).sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !(sum as u16)
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;
    use std::sync::{Arc, Mutex};

    use super::*;
    use crate::memory::pair;

    #[derive(Clone, Default)]
    struct Shared(Arc<Mutex<Vec<u8>>>);

    impl Write for Shared {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().write(bytes)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    struct Full;

    impl Write for Full {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            if bytes.len() == 24 { Ok(24) } else { Err(io::ErrorKind::StorageFull.into()) }
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    fn exchange(a: IpAddr, b: IpAddr, output: Box<dyn Write + Send>) {
        let (left, mut right) = pair(a, b, 1500).unwrap();
        let mut left = PcapWriter::new(left, output, 253, a).unwrap();
        left.frame().unwrap()[..4].copy_from_slice(b"ping");
        left.commit(TxMeta {
            dst: SocketAddr::new(b, 0),
            src: None,
            len: 4,
            priority: 7,
            segment: None,
            lane: 0,
        });
        left.flush().unwrap();
        assert_eq!(right.recv().unwrap(), 1);
        assert_eq!(right.packet(0).1, b"ping");
        right.frame().unwrap()[..3].copy_from_slice(b"ack");
        right.commit(TxMeta {
            dst: SocketAddr::new(a, 0),
            src: None,
            len: 3,
            priority: 7,
            segment: None,
            lane: 0,
        });
        right.flush().unwrap();
        assert_eq!(left.recv().unwrap(), 1);
        assert_eq!(left.packet(0).1, b"ack");
    }

    /// Packets of a capture, without their times.
    fn packets(mut file: &[u8]) -> Vec<Vec<u8>> {
        let mut packets = Vec::new();
        while let Some(len) = file.get(8..12) {
            let len = u32::from_ne_bytes(len.try_into().unwrap()) as usize;
            assert_eq!(file[12..16], file[8..12]);
            packets.push(file[16..16 + len].to_vec());
            file = &file[16 + len..];
        }
        packets
    }

    #[test]
    fn both_directions_are_captured_over_ipv4() {
        let output = Shared::default();
        exchange([192, 0, 2, 1].into(), [192, 0, 2, 2].into(), Box::new(output.clone()));
        let file = output.0.lock().unwrap().clone();
        assert_eq!(file[..4], 0xa1b2_3c4d_u32.to_ne_bytes());
        assert_eq!(file[20..24], 101u32.to_ne_bytes());
        let packets = packets(&file[24..]);
        let header =
            [0x45, 0, 0, 24, 0, 0, 0x40, 0, 64, 253, 0xb5, 0xe5, 192, 0, 2, 1, 192, 0, 2, 2];
        assert_eq!(packets[0], [&header[..], b"ping"].concat());
        assert_eq!(internet_checksum(&packets[0][..20]), 0);
        assert_eq!(packets[1][12..20], [192, 0, 2, 2, 192, 0, 2, 1]);
        assert_eq!(&packets[1][20..], b"ack");
        assert_eq!(packets.len(), 2);
    }

    #[test]
    fn ipv6_has_its_own_header() {
        let output = Shared::default();
        let [a, b]: [Ipv6Addr; 2] =
            [[0x2001, 0xdb8, 0, 0, 0, 0, 0, 1].into(), [0x2001, 0xdb8, 0, 0, 0, 0, 0, 2].into()];
        exchange(a.into(), b.into(), Box::new(output.clone()));
        let file = output.0.lock().unwrap().clone();
        let first = &packets(&file[24..])[0];
        assert_eq!(first[..8], [0x60, 0, 0, 0, 0, 4, 253, 64]);
        assert_eq!(first[8..24], a.octets());
        assert_eq!(first[24..40], b.octets());
        assert_eq!(&first[40..], b"ping");
    }

    #[test]
    fn packets_flow_on_when_the_file_is_full() {
        exchange([192, 0, 2, 1].into(), [192, 0, 2, 2].into(), Box::new(Full));
    }
}
