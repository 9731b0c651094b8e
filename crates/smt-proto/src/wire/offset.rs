//! Where the payload of a DATA packet belongs (spec 4.3).

use super::{Data, RECORD_OVERHEAD};

/// What the IP header of a packet tells about its place in a TSO segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum IpVersion {
    /// IPv4. A NIC that cuts a segment counts the ID.
    V4 {
        /// The identification field.
        id: u16,
    },
    /// IPv4 whose ID the datapath does not show.
    V4Unseen,
    /// IPv6. Nothing counts, so a segment is at most two packets.
    V6,
}

/// The offset in the wire stream of the first payload byte of a packet with `payload_len` bytes of
/// payload. `None` if the payload would reach beyond the message, or it cannot be told where it belongs:
/// such a packet is dropped.
#[inline]
#[must_use]
pub fn payload_offset(data: &Data, payload_len: usize, ip: IpVersion) -> Option<u32> {
    let offset = if data.explicit {
        u64::from(data.sequence)
    } else {
        implicit_offset(data, payload_len, ip)?
    };
    let end = offset.checked_add(u64::try_from(payload_len).ok()?)?;
    if end > u64::from(data.message_len) {
        return None;
    }
    u32::try_from(offset).ok()
}

/// The offset of a packet that a NIC may have cut. It fits 64 bits: both factors have at most 25.
fn implicit_offset(data: &Data, payload_len: usize, ip: IpVersion) -> Option<u64> {
    let base =
        u64::from(data.tso_offset) * u64::from(u32::from(data.record_size) + RECORD_OVERHEAD);
    if u64::from(data.sequence) != base {
        return Some(u64::from(data.sequence));
    }
    let segment_size = u64::from(data.segment_size);
    Some(match ip {
        IpVersion::V4 { id } => base + u64::from(id) * segment_size,
        IpVersion::V4Unseen => {
            // What was not cut is longer than a packet, or reaches from the first byte to the last.
            let uncut = payload_len > usize::from(data.segment_size)
                || (base == 0 && payload_len as u64 == u64::from(data.message_len));
            return uncut.then_some(base);
        }
        IpVersion::V6 => {
            // Only the last packet of a message can be both first of its segment and short.
            let second = payload_len < usize::from(data.segment_size)
                && base + segment_size < u64::from(data.message_len);
            if second { base + segment_size } else { base }
        }
    })
}

#[cfg(test)]
mod tests {
    use super::super::data::tests::example;
    use super::*;
    use proptest::prelude::*;

    /// A message of records of 1000 + 22 bytes, in packets of `segment_size`.
    fn message(len: u32, segment_size: u16) -> Data {
        Data { message_len: len, incoming: len, segment_size, ..example() }
    }

    /// Cuts the segment of `len` bytes at record `first` as a NIC would: (payload length, offset).
    fn cut(data: &Data, first: u32, len: u32) -> impl Iterator<Item = (usize, u32)> {
        let (base, size) = (first * 1022, u32::from(data.segment_size));
        (0..len.div_ceil(size)).map(move |i| ((len - i * size).min(size) as usize, base + i * size))
    }

    proptest! {
        #[test]
        fn software_is_believed(sequence in any::<u32>(), len in 0..2000usize, id in any::<u16>(), v6 in any::<bool>()) {
            let data = Data { explicit: true, sequence, tso_offset: 7, ..message(1_000_000, 600) };
            let ip = if v6 { IpVersion::V6 } else { IpVersion::V4 { id } };
            let fits = sequence as usize + len <= 1_000_000;
            prop_assert_eq!(payload_offset(&data, len, ip), fits.then_some(sequence));
        }

        #[test]
        fn ipv4_id_counts(first in 0..900u32, len in 1..60_000u32, size in 100..1500u16) {
            let data = Data { tso_offset: first, sequence: first * 1022, ..message(1_000_000, size) };
            for (id, (payload, offset)) in cut(&data, first, len).enumerate() {
                let ip = IpVersion::V4 { id: id as u16 };
                prop_assert_eq!(payload_offset(&data, payload, ip), Some(offset));
            }
        }

        #[test]
        fn a_counting_nic_is_believed(first in 0..900u32, len in 1..60_000u32, size in 100..1500u16, v6 in any::<bool>()) {
            let data = Data { tso_offset: first, ..message(1_000_000, size) };
            for (i, (payload, offset)) in cut(&data, first, len).enumerate() {
                // Such a NIC counts IPv4 IDs, too. An IPv6 segment is at most two packets.
                let ip = if v6 { IpVersion::V6 } else { IpVersion::V4 { id: i as u16 } };
                if v6 && i == 0 && payload < usize::from(size) {
                    continue;
                }
                let data = Data { sequence: offset, ..data };
                prop_assert_eq!(payload_offset(&data, payload, ip), Some(offset));
            }
        }

        #[test]
        fn ipv6_segments_are_two_packets(first in 0..900u32, second in 0..1499u32) {
            let size = 1500;
            let data = Data { tso_offset: first, sequence: first * 1022, ..message(1_000_000, size) };
            for (payload, offset) in cut(&data, first, u32::from(size) + second) {
                prop_assert_eq!(payload_offset(&data, payload, IpVersion::V6), Some(offset));
            }
        }

        #[test]
        fn nothing_beyond_the_message(data in any::<(u32, u32, u16, u16)>(), len in 0..100_000usize, id in any::<u16>(), v6 in any::<bool>()) {
            let (sequence, message_len, segment_size, tso) = data;
            let data = Data { sequence, message_len, segment_size, tso_offset: u32::from(tso) << 8, ..example() };
            let ip = if v6 { IpVersion::V6 } else { IpVersion::V4 { id } };
            if let Some(offset) = payload_offset(&data, len, ip) {
                prop_assert!(offset as usize + len <= message_len as usize);
            }
        }
    }

    #[test]
    fn the_end_of_an_ipv6_message() {
        // One short packet is the whole message; the second of two is the short one.
        assert_eq!(payload_offset(&message(300, 1022), 300, IpVersion::V6), Some(0));
        assert_eq!(payload_offset(&message(1300, 1022), 278, IpVersion::V6), Some(1022));
        let last = Data { tso_offset: 1, sequence: 1022, ..message(1300, 1022) };
        assert_eq!(payload_offset(&last, 278, IpVersion::V6), Some(1022));
    }

    #[test]
    fn where_the_id_is_not_seen_only_what_was_not_cut_has_a_place() {
        let unseen = |data: &Data, len| payload_offset(data, len, IpVersion::V4Unseen);
        assert_eq!(unseen(&message(5000, 1022), 2000), Some(0));
        assert_eq!(unseen(&message(5000, 1022), 1022), None);
        assert_eq!(unseen(&message(300, 1022), 300), Some(0));
        assert_eq!(unseen(&message(5000, 1022), 300), None);
        let last = Data { tso_offset: 1, sequence: 1022, ..message(1322, 1022) };
        assert_eq!(unseen(&last, 300), None, "it may follow a packet");
        assert_eq!(unseen(&Data { sequence: 2044, ..message(5000, 1022) }, 1022), Some(2044));
        assert_eq!(unseen(&Data { explicit: true, ..message(5000, 1022) }, 1022), Some(0));
    }

    #[test]
    fn a_super_packet_is_one_packet() {
        assert_eq!(payload_offset(&message(5000, 1022), 5000, IpVersion::V4 { id: 0 }), Some(0));
        assert_eq!(payload_offset(&message(5000, 1022), 5000, IpVersion::V6), Some(0));
    }
}
