//! What the input says: one step at a time, of the network, the clock or an application.

use std::time::Duration;

use smt_proto::SessionId;
use smt_proto::wire::DATA_LEN;

use super::super::input::Input;
use super::{MAX_WIRE, World, address};

impl World {
    pub(super) fn step(&mut self, input: &mut Input<'_>) {
        match input.u8() % 24 {
            0..=2 => self.send(input),
            3..=5 => self.arrive(input),
            6 => self.overtake(input, false),
            7 => self.overtake(input, true),
            8 => self.lose(input),
            9 => self.corrupt(input),
            10 => self.trim(input),
            11 => self.repeat(input),
            12 => {
                self.now = self.now + Duration::from_nanos(1 << (input.u8() % 35));
                self.timeouts();
            }
            13 => {
                self.next_timer();
            }
            14..=16 => self.start(input),
            17 | 18 => {
                let me = usize::from(input.u8() & 1);
                self.answer_some(me, input);
            }
            19 => self.cancel(input.u8()),
            20 => self.connect(usize::from(input.u8() & 1), input),
            21 => self.manage(input),
            22 => self.path_changes(input),
            _ => {
                self.exchange(usize::from(input.u8()));
            }
        }
    }

    /// Some packets of one host leave.
    fn send(&mut self, input: &mut Input<'_>) {
        let choice = input.u8();
        let me = usize::from(choice & 1);
        for _ in 0..=choice >> 1 & 15 {
            if !self.send_one(me) {
                return;
            }
        }
    }

    fn send_one(&mut self, me: usize) -> bool {
        let Some(packet) = self.transmit(me) else { return false };
        self.remember(1 - me, &packet);
        if self.wire.len() < MAX_WIRE {
            self.wire.push_back((1 - me, packet));
        }
        true
    }

    fn remember(&mut self, to: usize, packet: &[u8]) {
        self.seen.push_back((to, packet.to_vec()));
        if self.seen.len() > MAX_WIRE {
            self.seen.pop_front();
        }
    }

    /// The oldest packets arrive.
    fn arrive(&mut self, input: &mut Input<'_>) {
        for _ in 0..=input.u8() % 32 {
            let Some((to, packet)) = self.wire.pop_front() else { return };
            self.deliver(to, packet);
        }
    }

    /// A packet arrives before older ones, and perhaps once more.
    fn overtake(&mut self, input: &mut Input<'_>, twice: bool) {
        let Some(at) = self.pick(input) else { return };
        let (to, packet) = self.wire[at].clone();
        if !twice {
            self.wire.remove(at);
        }
        self.deliver(to, packet);
    }

    fn lose(&mut self, input: &mut Input<'_>) {
        let Some(at) = self.pick(input) else { return };
        let end = self.wire.len().min(at + 1 + usize::from(input.u8() % 8));
        self.wire.drain(at..end);
    }

    fn corrupt(&mut self, input: &mut Input<'_>) {
        let Some(at) = self.pick(input) else { return };
        let packet = &mut self.wire[at].1;
        let choice = usize::from(input.u16()) % packet.len();
        match input.u8() {
            255 => packet.truncate(choice),
            bits => packet[choice] ^= bits.max(1),
        }
    }

    /// A switch cuts off a payload.
    fn trim(&mut self, input: &mut Input<'_>) {
        if let Some(at) = self.pick(input) {
            self.wire[at].1.truncate(DATA_LEN);
        }
    }

    /// A packet of long ago arrives once more.
    fn repeat(&mut self, input: &mut Input<'_>) {
        let at = usize::from(input.u16()) % self.seen.len().max(1);
        if let Some((to, packet)) = self.seen.get(at).cloned() {
            self.deliver(to, packet);
        }
    }

    fn pick(&self, input: &mut Input<'_>) -> Option<usize> {
        let choice = usize::from(input.u8());
        choice.checked_rem(self.wire.len())
    }

    fn some_session(&self, me: usize, input: &mut Input<'_>) -> Option<SessionId> {
        let live = &self.hosts[me].live;
        // Mostly the newest.
        let back = usize::from(input.u8()) / 64 % live.len().max(1);
        live.iter().rev().nth(back).map(|live| live.id)
    }

    fn start(&mut self, input: &mut Input<'_>) {
        let choice = input.u8();
        let me = usize::from(choice & 1);
        let Some(session) = self.some_session(me, input) else { return };
        let len = (input.number() as usize).clamp(4, 50_000);
        let patience = Duration::from_nanos(1 << (16 + choice % 18));
        self.call(me, session, len, patience);
        self.events(me);
    }

    fn manage(&mut self, input: &mut Input<'_>) {
        let choice = input.u8();
        let me = usize::from(choice & 1);
        let Some(session) = self.some_session(me, input) else { return };
        let endpoint = &mut self.hosts[me].endpoint;
        match choice >> 1 {
            0..=89 => {
                endpoint.update_keys(session);
            }
            90..=109 => endpoint.receive_overrun(),
            110..=119 => endpoint.settle(),
            _ => endpoint.close(self.now, session),
        }
        self.events(me);
    }

    /// The network takes other packets than before, and tells or does not.
    fn path_changes(&mut self, input: &mut Input<'_>) {
        let choice = input.u8();
        let me = usize::from(choice & 1);
        match choice >> 1 & 3 {
            0 => self.mtu = 200 + usize::from(input.u16()) % 2000,
            1 | 2 => {
                let Some(session) = self.some_session(me, input) else { return };
                let room = 100 + usize::from(input.u16()) % 2000;
                self.hosts[me].endpoint.set_room(session, room);
            }
            _ => {
                let at = usize::from(input.u16()) % self.seen.len().max(1);
                let Some((to, packet)) = self.seen.get(at) else { return };
                let (from, refused) = (1 - to, choice & 128 != 0);
                let endpoint = &mut self.hosts[from].endpoint;
                endpoint.handle_unreachable(self.now, address(*to), refused, packet);
                self.events(from);
            }
        }
    }
}
