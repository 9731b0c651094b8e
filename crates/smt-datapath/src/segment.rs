//! Which packets may share one system call's message (UDP segmentation offload).

use crate::TxMeta;

/// Segments that every kernel with `UDP_SEGMENT` takes in one message.
const MAX_SEGMENTS: usize = 64;
/// Bytes of payload that fit one message of either IP version.
const MAX_BYTES: usize = 65_487;

/// Length of the longest run at the start of `queue` that one segmented message can carry: one
/// destination, source, priority and lane, equal lengths, only the last may be shorter. At least 1.
pub(crate) fn run(queue: &[TxMeta]) -> usize {
    let Some(first) = queue.first() else { return 1 };
    let most = MAX_SEGMENTS.min(MAX_BYTES / first.len.max(1)).max(1);
    let mut run = 1;
    for packet in queue.iter().take(most).skip(1) {
        if packet.len > first.len
            || (packet.dst, packet.src) != (first.dst, first.src)
            || (packet.priority, packet.lane) != (first.priority, first.lane)
        {
            break;
        }
        if packet.len == 0 {
            break;
        }
        run += 1;
        if packet.len < first.len {
            break;
        }
    }
    run
}

#[cfg(test)]
mod tests {
    use super::*;

    fn queue(packets: &[(u16, usize)]) -> Vec<TxMeta> {
        let packet = |&(port, len): &(u16, usize)| TxMeta {
            dst: ([192, 0, 2, 1], port).into(),
            src: None,
            len,
            priority: 0,
            segment: None,
            lane: 0,
        };
        packets.iter().map(packet).collect()
    }

    #[test]
    fn equal_packets_and_one_shorter_make_a_run() {
        assert_eq!(run(&queue(&[(1, 100)])), 1);
        assert_eq!(run(&queue(&[(1, 100), (1, 100), (1, 60), (1, 60)])), 3);
        assert_eq!(run(&queue(&[(1, 100), (1, 101)])), 1);
        assert_eq!(run(&queue(&[(1, 100), (2, 100)])), 1);
        assert_eq!(run(&queue(&[(1, 100), (1, 0)])), 1);
        assert_eq!(run(&queue(&[(1, 0), (1, 0)])), 1);
        assert_eq!(run(&[]), 1);
    }

    #[test]
    fn a_run_fits_one_message() {
        assert_eq!(run(&queue(&[(1, 1448); 64])), MAX_BYTES / 1448);
        assert_eq!(run(&queue(&[(1, 64); 100])), MAX_SEGMENTS);
        assert_eq!(run(&queue(&[(1, 65_000), (1, 100)])), 1);
    }

    #[test]
    fn source_addresses_are_not_mixed() {
        let mut packets = queue(&[(1, 100), (1, 100)]);
        packets[1].src = Some([192, 0, 2, 9].into());
        assert_eq!(run(&packets), 1);
    }

    #[test]
    fn priorities_are_not_mixed() {
        let mut packets = queue(&[(1, 100), (1, 100)]);
        packets[1].priority = 1;
        assert_eq!(run(&packets), 1);
    }

    #[test]
    fn lanes_are_not_mixed() {
        let mut packets = queue(&[(1, 100), (1, 100), (1, 100)]);
        packets[2].lane = 1;
        assert_eq!((run(&packets), run(&packets[1..])), (2, 1));
    }
}
