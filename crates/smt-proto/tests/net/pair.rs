//! Two cores back to back, packets handed over in one buffer: the protocol's work and nothing else.

use bytes::Bytes;
use smt_proto::crypto::{SuiteId, aws_lc};
use smt_proto::keys::Secret;
use smt_proto::wire::Params;
use smt_proto::{
    Body, Config, Endpoint, Event, External, PacketMeta, Path, Role, SessionId, Time, Updates,
};

use super::{Seeded, address};

pub struct Pair {
    pub ends: [Endpoint; 2],
    pub sessions: [SessionId; 2],
    frame: Box<[u8; 2048]>,
    pub now: u64,
}

/// One end of session number `port` between two hosts.
pub fn external(me: usize, port: u16, params: [Params; 2]) -> External {
    let ports = [port, 1];
    External {
        path: Path {
            remote: address(1 - me),
            remote_port: ports[1 - me],
            local_port: ports[me],
            local: Some(address(me).ip()),
        },
        role: if me == 0 { Role::Client } else { Role::Server },
        suite: aws_lc::suite(SuiteId::Aes128GcmSha256),
        client_secret: Secret::new(&[1; 32]),
        server_secret: Secret::new(&[2; 32]),
        local: params[me],
        peer: params[1 - me],
        room: 1480,
        updates: Updates::Derived,
    }
}

impl Pair {
    pub fn new() -> Pair {
        let mut ends = [1, 2].map(|seed| Endpoint::new(Config::default(), Box::new(Seeded(seed))));
        let params = [ends[0].parameters(Role::Client), ends[1].parameters(Role::Server)];
        let sessions =
            [0, 1].map(|me| ends[me].add_session(Time::ZERO, external(me, 7, params)).unwrap());
        let mut pair = Pair { ends, sessions, frame: Box::new([0; 2048]), now: 0 };
        pair.exchange();
        pair
    }

    /// Hands over packets until neither end has any.
    fn exchange(&mut self) -> Option<Body> {
        let mut answer = None;
        loop {
            let mut quiet = true;
            for me in [0, 1] {
                self.now += 1000;
                let now = Time::from_nanos(self.now);
                while let Some(sent) = self.ends[me].poll_transmit(now, &mut self.frame[..]) {
                    quiet = false;
                    let meta = PacketMeta {
                        remote: address(me),
                        local: address(1 - me).ip(),
                        ip_id: None,
                    };
                    let packet = &mut self.frame[..sent.len];
                    self.ends[1 - me].handle_packet(now, &meta, packet);
                }
                while let Some(event) = self.ends[1 - me].poll_event() {
                    match event {
                        Event::Request { rpc, body, .. } => {
                            // The answer is the request's own buffer.
                            let body = Bytes::from_owner(body);
                            assert!(self.ends[1 - me].reply(rpc, body));
                        }
                        Event::Response { result, .. } => answer = Some(result.unwrap()),
                        _ => {}
                    }
                }
            }
            if quiet {
                return answer;
            }
        }
    }

    /// Many calls at once, to their end.
    pub fn calls(&mut self, count: usize, body: Bytes) {
        let deadline = Time::from_nanos(self.now + 1_000_000_000);
        for user in 0..count as u64 {
            self.ends[0].start_call(self.sessions[0], body.clone(), deadline, user).unwrap();
        }
        assert!(self.exchange().is_some());
        assert_eq!(self.ends[0].outstanding(self.sessions[0]), 0);
    }

    /// Lets time pass in which nothing is called.
    pub fn idle(&mut self, span: std::time::Duration) {
        let end = Time::from_nanos(self.now) + span;
        loop {
            let next = self.ends.iter().filter_map(Endpoint::poll_timeout).min();
            let Some(next) = next.filter(|next| *next <= end) else { return };
            self.now = self.now.max(next.as_nanos());
            for end in &mut self.ends {
                end.handle_timeout(Time::from_nanos(self.now));
            }
            self.exchange();
        }
    }

    /// One call from start to answer.
    pub fn call(&mut self, body: Bytes) -> Body {
        let deadline = Time::from_nanos(self.now + 1_000_000_000);
        self.ends[0].start_call(self.sessions[0], body, deadline, 0).unwrap();
        let answer = self.exchange().unwrap();
        let now = Time::from_nanos(self.now);
        for end in &mut self.ends {
            if end.poll_timeout().is_some_and(|due| due <= now) {
                end.handle_timeout(now);
            }
        }
        answer
    }
}
