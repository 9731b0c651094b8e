//! What one turn of an engine does, over a network that holds any number of packets.

use std::collections::VecDeque;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use rustix::event::{EventfdFlags, eventfd};
use smt_datapath::{Caps, Datapath, DatapathStats, PathError, RxMeta, TxMeta};

use super::super::idle::tests::{ADDRESS, engines, join};
use super::super::{CallOptions, Event};
use crate::builder::Wait;

const MTU: usize = 9000;
/// As many packets of that length as a receive takes at once, or fewer.
const BURST: usize = 3;

type Packets = Arc<Mutex<VecDeque<Vec<u8>>>>;

/// One end of a network that loses nothing and holds everything.
struct Hoard {
    local: IpAddr,
    remote: IpAddr,
    inbox: Packets,
    outbox: Packets,
    frame: Vec<u8>,
    burst: Vec<(RxMeta, Vec<u8>)>,
    nothing: OwnedFd,
}

impl Hoard {
    fn new([local, remote]: [IpAddr; 2], inbox: &Packets, outbox: &Packets) -> Box<Hoard> {
        Box::new(Hoard {
            local,
            remote,
            inbox: Arc::clone(inbox),
            outbox: Arc::clone(outbox),
            frame: vec![0; MTU],
            burst: Vec::new(),
            nothing: eventfd(0, EventfdFlags::CLOEXEC).unwrap(),
        })
    }
}

impl Datapath for Hoard {
    fn caps(&self) -> Caps {
        Caps {
            name: "hoard",
            overhead: [20, 40],
            max_packet: MTU,
            tx_segment: 0,
            tx_burst: 64,
            rx_burst: BURST,
            rx_capacity: 64 << 20,
        }
    }

    fn frame(&mut self) -> Option<&mut [u8]> {
        Some(&mut self.frame)
    }

    fn commit(&mut self, meta: TxMeta) {
        let packet = self.frame[..meta.len].to_vec();
        self.outbox.lock().unwrap_or_else(PoisonError::into_inner).push_back(packet);
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }

    fn recv(&mut self) -> io::Result<usize> {
        let mut inbox = self.inbox.lock().unwrap_or_else(PoisonError::into_inner);
        let count = inbox.len().min(BURST);
        let src = SocketAddr::new(self.remote, 0);
        let with_meta = |packet: Vec<u8>| {
            (RxMeta { src, dst: self.local, len: packet.len(), ip_id: None }, packet)
        };
        self.burst = inbox.drain(..count).map(with_meta).collect();
        Ok(count)
    }

    fn packet(&mut self, index: usize) -> (RxMeta, &mut [u8]) {
        let (meta, packet) = &mut self.burst[index];
        (*meta, packet)
    }

    fn path_error(&mut self) -> Option<PathError> {
        None
    }

    fn path_mtu(&mut self, _: IpAddr) -> io::Result<usize> {
        Ok(MTU)
    }

    fn fd(&self) -> BorrowedFd<'_> {
        self.nothing.as_fd()
    }

    fn wait(&mut self, _: Option<Duration>) -> io::Result<()> {
        Ok(())
    }

    fn stats(&self) -> DatapathStats {
        DatapathStats::default()
    }
}

/// Whoever comes late to its packets finds more than some turns take, and timers that are due: what they
/// are about may be among the packets.
#[test]
fn what_is_there_already_does_not_pass_for_lost() {
    const CALLS: u64 = 100;
    let [there, back] = [Packets::default(), Packets::default()];
    let near = Hoard::new(ADDRESS, &back, &there);
    let far = Hoard::new([ADDRESS[1], ADDRESS[0]], &there, &back);
    let (mut client, mut server) = engines(Wait::Spin, (near, None), far);
    let session = join(&mut client, &mut server);
    for user in 0..CALLS {
        client.call(session, vec![1], CallOptions { user, ..CallOptions::default() }).unwrap();
    }
    client.flush().unwrap();
    let mut answered = 0;
    while answered < CALLS || server.core.wants_transmit() {
        server.poll().unwrap();
        while let Some(event) = server.next_event() {
            if let Event::Request { rpc, .. } = event {
                assert!(server.reply(rpc, vec![2; 60_000]));
                answered += 1;
            }
        }
        server.flush().unwrap();
    }
    assert!(back.lock().unwrap().len() > 600);
    thread::sleep(Duration::from_millis(100));
    let mut ended = 0;
    while ended < CALLS {
        client.poll().unwrap();
        while let Some(event) = client.next_event() {
            if let Event::Response { result, .. } = event {
                assert_eq!(result.unwrap().len(), 60_000);
                ended += 1;
            }
        }
    }
    assert_eq!(client.stats().resends_sent, 0);
}
