//! How packet memory is divided, which depends on how long packets of a device can be.

use super::RX_BURST;
use crate::link::header::{ETHERNET_LEN, MAX_LEN};

/// Bytes before a received packet that the kernel keeps for itself (`XDP_PACKET_HEADROOM`).
const RX_HEADROOM: usize = 256;
/// Where an SMT packet begins in a frame to send: Ethernet and IPv6 headers fit before it, and its
/// payload is aligned.
pub(super) const TX_HEADROOM: usize = 64;
const SMALL_CHUNK: usize = 2048;
/// The kernel takes no larger ones without huge pages.
const LARGE_CHUNK: usize = 4096;
/// Most pieces that the kernel makes one packet of (`MAX_SKB_FRAGS` + 1).
const MAX_PIECES: usize = 17;
/// Chunks to send from, and places in those rings: of one shard, of all of them together, and of one of
/// very many.
const MAX_TX_CHUNKS: u32 = 2048;
const ALL_TX_CHUNKS: u32 = 8192;
const MIN_TX_CHUNKS: u32 = 512;
/// Places to receive into: of one socket, of all of them together, and of one of very many queues. With
/// several shards there are queues times shards, and each may have fewer.
const MAX_RX_PLACES: u32 = 2048;
const ALL_RX_PLACES: u32 = 8192;
const MIN_RX_PLACES: u32 = 256;
const MIN_SHARED_RX_PLACES: u32 = 64;

/// Longest IP packet in bytes that fits one chunk.
pub(crate) const ONE_CHUNK: usize = LARGE_CHUNK - RX_HEADROOM - ETHERNET_LEN;

const _: () = assert!(MAX_LEN <= TX_HEADROOM);

/// How the packet memory of a queue is divided.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Layout {
    /// Bytes of a chunk.
    pub(super) chunk_len: usize,
    /// Sockets that share the queue, one for each shard; a power of two.
    pub(super) shards: u8,
    /// Places for what one socket receives; a power of two.
    pub(super) rx_places: u32,
    /// Chunks that one shard holds at most, beside those that wait in its places.
    pub(super) held_chunks: usize,
    /// Chunks that one shard sends from; a power of two.
    pub(super) tx_chunks: u32,
    /// Adjacent chunks that one packet is sent from.
    pub(super) chunks_per_frame: usize,
    /// Longest IP packet, in bytes, that can be sent and received.
    pub(super) max_ip_packet: usize,
    /// Packets may come in several chunks.
    pub(super) multi_chunk: bool,
}

impl Layout {
    /// For a device whose IP packets have up to `mtu` bytes, on which `queues` queues are used by
    /// `shards` shards. Without `multi_chunk` each packet has to fit one chunk.
    pub(super) fn new(mtu: usize, queues: usize, shards: u8, multi_chunk: bool) -> Self {
        let fits = |chunk: usize| chunk - RX_HEADROOM - ETHERNET_LEN;
        let chunk_len = if mtu <= fits(SMALL_CHUNK) { SMALL_CHUNK } else { LARGE_CHUNK };
        let most = if multi_chunk { MAX_PIECES * fits(chunk_len) } else { fits(chunk_len) };
        let max_ip_packet = mtu.min(most).min(65_535);
        let count = u32::from(shards.max(1)).next_power_of_two();
        let queues = u32::try_from(queues.clamp(1, 1 << 16)).unwrap_or(1).next_power_of_two();
        let min_rx = if shards > 1 { MIN_SHARED_RX_PLACES } else { MIN_RX_PLACES };
        let rx_places = (ALL_RX_PLACES / (queues * count)).clamp(min_rx, MAX_RX_PLACES);
        let pieces = (max_ip_packet + ETHERNET_LEN).div_ceil(chunk_len - RX_HEADROOM);
        Self {
            chunk_len,
            shards,
            rx_places,
            // A shard that is alone takes nothing from others.
            held_chunks: if shards > 1 { RX_BURST * pieces } else { rx_places as usize },
            tx_chunks: (ALL_TX_CHUNKS / count).clamp(MIN_TX_CHUNKS, MAX_TX_CHUNKS),
            chunks_per_frame: (TX_HEADROOM + max_ip_packet).div_ceil(chunk_len),
            max_ip_packet,
            multi_chunk: max_ip_packet > fits(chunk_len),
        }
    }

    /// Chunks of a queue to receive into. With several shards, as many as all of them can have at once:
    /// one that does not give back what it has takes nothing from the others.
    pub(super) fn rx_chunks(&self) -> usize {
        let shared = if self.shards > 1 { self.held_chunks } else { 0 };
        usize::from(self.shards) * (self.rx_places as usize + shared)
    }

    /// Longest frame that a socket takes.
    pub(super) fn max_frame(&self) -> usize {
        let pieces = if self.multi_chunk { MAX_PIECES } else { 1 };
        pieces * (self.chunk_len - RX_HEADROOM)
    }

    /// Whether packets of `mtu` bytes take several chunks.
    pub(super) fn needs_multi_chunk(mtu: usize) -> bool {
        Self::new(mtu, 1, 1, false).max_ip_packet < mtu.min(65_535)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn packets_fit_their_chunks() {
        let layout = |mtu, multi| Layout::new(mtu, 1, 1, multi);
        assert_eq!(layout(1500, false).chunk_len, 2048);
        assert_eq!(layout(1500, false).chunks_per_frame, 1);
        assert_eq!(layout(1778, false), layout(1778, true));
        assert_eq!(layout(1779, false).chunk_len, 4096);
        assert_eq!(layout(9000, false).max_ip_packet, 3826);
        assert_eq!(layout(9000, true).max_ip_packet, 9000);
        assert_eq!(layout(9000, true).chunks_per_frame, 3);
        assert_eq!(layout(65_536, true).max_ip_packet, 65_042);
        for mtu in [1280, 1500, 1778, 1779, 3826, 3827, 9000, 65_535] {
            let layout = layout(mtu, Layout::needs_multi_chunk(mtu));
            assert!(
                TX_HEADROOM + layout.max_ip_packet <= layout.chunks_per_frame * layout.chunk_len
            );
            assert!(layout.chunks_per_frame <= MAX_PIECES);
            assert!(layout.max_ip_packet + ETHERNET_LEN <= layout.max_frame());
        }
        assert!(!Layout::needs_multi_chunk(3826) && Layout::needs_multi_chunk(3827));
    }

    #[test]
    fn many_queues_share_the_memory() {
        let chunks = |queues| Layout::new(1500, queues, 1, false).rx_chunks();
        assert_eq!((chunks(0), chunks(1), chunks(4), chunks(5)), (2048, 2048, 2048, 1024));
        assert_eq!((chunks(16), chunks(64)), (512, 256));
        assert!(chunks(7).is_power_of_two());
    }

    #[test]
    fn shards_have_chunks_that_no_other_can_take() {
        let layout = |queues, shards, mtu| Layout::new(mtu, queues, shards, true);
        for (queues, shards) in [(1, 2), (4, 2), (64, 8), (8, 64), (1, 64)] {
            for mtu in [1500, 9000, 65_535] {
                let layout = layout(queues, shards, mtu);
                // Whatever the others have, the places of one are free for it.
                let others = usize::from(shards - 1);
                let most = layout.rx_places as usize + layout.held_chunks;
                assert!(layout.rx_chunks() - others * most >= most);
                assert!(layout.rx_places.is_power_of_two() && layout.tx_chunks.is_power_of_two());
                assert!(layout.tx_chunks as usize >= 30 * layout.chunks_per_frame);
            }
        }
        let (one, two, many) = (layout(1, 1, 1500), layout(1, 2, 1500), layout(8, 64, 1500));
        assert_eq!((one.rx_chunks(), two.rx_chunks(), many.rx_chunks()), (2048, 4224, 8192));
        assert_eq!((one.tx_chunks, two.tx_chunks, many.tx_chunks), (2048, 2048, 512));
        assert_eq!(layout(1, 2, 9000).held_chunks, 64 * 3);
    }
}
