//! A network that does everything right, and the end of a world, which it makes calm.

use std::time::Duration;

use super::{MAX_WIRE, World};

/// Longer than any deadline, handshake or probing, which then has an outcome.
const CALM: Duration = Duration::from_secs(60);
const LATENCY: Duration = Duration::from_micros(10);

impl World {
    /// Packets pass to and fro at once, `rounds` times at most. Whether there were any.
    pub(super) fn exchange(&mut self, rounds: usize) -> bool {
        let mut any = false;
        for _ in 0..rounds {
            let mut packets = std::mem::take(&mut self.wire);
            for me in [0, 1] {
                for _ in 0..MAX_WIRE {
                    let Some(packet) = self.transmit(me) else { break };
                    packets.push_back((1 - me, packet));
                }
            }
            if packets.is_empty() {
                break;
            }
            any = true;
            self.now = self.now + LATENCY;
            for (to, packet) in packets {
                self.deliver(to, packet);
            }
        }
        any
    }

    pub(super) fn next_timer(&mut self) -> bool {
        for host in &mut self.hosts {
            host.endpoint.settle();
        }
        let timers = self.hosts.each_ref().map(|host| host.endpoint.poll_timeout());
        let Some(next) = timers.into_iter().flatten().min() else { return false };
        self.now = self.now.max(next);
        self.timeouts();
        true
    }

    fn run_for(&mut self, span: Duration) {
        let end = self.now + span;
        for _ in 0..100_000 {
            if self.exchange(1) {
                self.check();
                continue;
            }
            if self.now >= end || !self.next_timer() {
                return;
            }
        }
        panic!("no rest within {span:?}");
    }

    /// The network is sound again: all calls end, sessions with two ends work, nothing is left of
    /// what was, and sessions that are closed go.
    pub(super) fn end(&mut self) {
        self.mtu = usize::MAX;
        self.prompt = true;
        self.answer_all();
        self.run_for(CALM);
        assert!(self.calls.iter().all(|call| call.ended), "a call without end");
        self.last_calls();
        self.run_for(CALM);
        self.nothing_is_left();
        self.everybody_leaves();
    }

    /// Each end of each session that has two calls the other, with success.
    fn last_calls(&mut self) {
        if self.short_keys {
            return;
        }
        let [one, other] = &self.hosts;
        let mut ends = Vec::new();
        for (a, b) in one.live.iter().flat_map(|a| other.live.iter().map(move |b| (a, b))) {
            if a.digest == b.digest && a.established && b.established {
                ends.extend([(0, a.id), (1, b.id)]);
            }
        }
        for (me, session) in ends {
            let call = self.call(me, session, 5000, CALM).expect("an idle session takes calls");
            self.run_for(Duration::from_secs(1));
            assert!(self.calls[call].succeeded, "a session of two ends does not work");
        }
    }

    fn nothing_is_left(&self) {
        for host in &self.hosts {
            assert!(host.requests.is_empty());
            assert_eq!(host.endpoint.incoming_bytes(), 0, "charge left over");
            assert_eq!(host.endpoint.promised_bytes(), 0, "promises left over");
            for live in &host.live {
                assert_eq!(host.endpoint.in_flight(live.id), 0, "RPCs left over");
            }
        }
    }

    fn everybody_leaves(&mut self) {
        for me in [0, 1] {
            for session in self.hosts[me].endpoint.sessions() {
                self.hosts[me].endpoint.close(self.now, session);
            }
            self.events(me);
        }
        self.run_for(CALM);
        for host in &self.hosts {
            assert_eq!(host.endpoint.session_count(), 0, "a session that does not end");
            assert_eq!(host.endpoint.poll_timeout(), None, "a timer that goes on");
        }
    }
}
