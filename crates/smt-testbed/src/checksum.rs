//! Transport checksums of captured frames. A host that believes its interface will compute them leaves them undone; who
//! takes such a frame off the wire and puts it on another has to do it.

const ETHERNET_BYTES: usize = 14;
const TCP: u8 = 6;
const UDP: u8 = 17;

/// Computes the checksum of the TCP segment or UDP datagram in an Ethernet frame anew; leaves other frames, fragments
/// and what is cut short as they are.
pub(crate) fn complete(frame: &mut [u8]) {
    let Some(found) = find(frame) else { return };
    let Some(segment) = frame.get_mut(found.start..found.end) else { return };
    let field = if found.protocol == TCP { 16..18 } else { 6..8 };
    let Some(checksum) = segment.get_mut(field.clone()) else { return };
    checksum.fill(0);
    let sum = add(found.pseudo_header, segment);
    let value = match !fold(sum) {
        // In UDP 0 means that there is none.
        0 if found.protocol == UDP => 0xffff,
        value => value,
    };
    if let Some(checksum) = segment.get_mut(field) {
        checksum.copy_from_slice(&value.to_be_bytes());
    }
}

/// Where in a frame a segment is, and the sum of its pseudo-header (RFC 9293, 3.1; RFC 8200, 8.1).
struct Found {
    protocol: u8,
    start: usize,
    end: usize,
    pseudo_header: u64,
}

fn find(frame: &[u8]) -> Option<Found> {
    let packet = frame.get(ETHERNET_BYTES..)?;
    let (protocol, header, total, addresses) = match frame.get(12..ETHERNET_BYTES)? {
        [0x08, 0x00] => {
            let header = usize::from(packet.first()? & 0xf) * 4;
            // More fragments, or not the first.
            if word(packet, 6)? & 0x3fff != 0 {
                return None;
            }
            (*packet.get(9)?, header, usize::from(word(packet, 2)?), packet.get(12..20)?)
        }
        [0x86, 0xdd] => {
            let total = 40 + usize::from(word(packet, 4)?);
            (*packet.get(6)?, 40, total, packet.get(8..40)?)
        }
        _ => return None,
    };
    if !matches!(protocol, TCP | UDP) || total < header || total > packet.len() {
        return None;
    }
    let pseudo_header = add(u64::from(protocol) + (total - header) as u64, addresses);
    let (start, end) = (ETHERNET_BYTES + header, ETHERNET_BYTES + total);
    Some(Found { protocol, start, end, pseudo_header })
}

fn word(bytes: &[u8], at: usize) -> Option<u16> {
    bytes.get(at..at + 2)?.try_into().ok().map(u16::from_be_bytes)
}

/// Adds `bytes` as big-endian words, the last padded with a zero.
fn add(sum: u64, bytes: &[u8]) -> u64 {
    let (words, rest) = bytes.as_chunks::<2>();
    let sum = words.iter().fold(sum, |sum, word| sum + u64::from(u16::from_be_bytes(*word)));
    rest.first().map_or(sum, |last| sum + (u64::from(*last) << 8))
}

fn fold(mut sum: u64) -> u16 {
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    sum as u16
}

#[cfg(test)]
mod tests {
    use super::*;

    /// An Ethernet frame with an IPv4 packet of this protocol and content, whose checksum field is wrong.
    fn frame(protocol: u8, fragment: u16, content: &[u8]) -> Vec<u8> {
        let mut frame = vec![0; 12];
        frame.extend([0x08, 0x00, 0x45, 0]);
        frame.extend((20 + content.len() as u16).to_be_bytes());
        frame.extend([0, 0]);
        frame.extend(fragment.to_be_bytes());
        frame.extend([64, protocol, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2]);
        frame.extend(content);
        frame
    }

    #[test]
    fn a_udp_checksum_is_completed() {
        // 10.0.0.1:1 to 10.0.0.2:2, 9 bytes with one byte of content.
        let mut one = frame(UDP, 0, &[0, 1, 0, 2, 0, 9, 0xab, 0xcd, 7]);
        complete(&mut one);
        let sum = 0x0a00 + 1 + 0x0a00 + 2 + 17 + 9 + 1 + 2 + 9 + 0x0700_u32;
        assert_eq!(one[40..42], (!(sum as u16)).to_be_bytes());
        let whole = add(17 + 9 + 0x0a00 + 1 + 0x0a00 + 2, &one[34..]);
        assert_eq!(fold(whole), 0xffff);
    }

    #[test]
    fn what_is_no_whole_segment_stays_as_it_is() {
        let segment = [0, 1, 0, 2, 0, 9, 0xab, 0xcd, 7];
        for kept in [frame(UDP, 0x2000, &segment), frame(253, 0, &segment), vec![0; 7], Vec::new()]
        {
            let mut frame = kept.clone();
            complete(&mut frame);
            assert_eq!(frame, kept);
        }
        let mut cut = frame(TCP, 0, &[1; 20]);
        cut.truncate(40);
        let kept = cut.clone();
        complete(&mut cut);
        assert_eq!(cut, kept);
    }
}
