//! Attackers between the hosts.

use std::collections::VecDeque;
use std::time::Duration;

use smt_proto::Time;
use smt_proto::wire::{DATA_LEN, Data};

use super::alter::{Likeness, likeness};
use super::first::{self, Firsts};
use super::forge::{self, Trailer};
use super::memory::Memory;
use super::plan::{Act, OnPathPlan, Place};
use super::sight::{Sight, see};
use super::{Change, Tally, What};
use crate::packet::{Origin, Packet};
use crate::rng::Rng;
use crate::tap::{Tap, Verdict};

/// The most packets an attacker remembers.
const MEMORY: usize = 256;
/// The most handshakes an attacker remembers having seen.
const HANDSHAKES: usize = 64;
/// How long it takes at most until a packet follows that is sent to race or to trail another.
const CLOSE: Duration = Duration::from_micros(5);
/// How long a haunted handshake is haunted.
const HAUNTING: Duration = Duration::from_millis(2);

/// Packets to be added, and after which time.
type Extra = Vec<(Duration, Packet)>;

/// One attacker between the hosts. It acts upon genuine packets that honest hosts send each other,
/// and lets all others pass.
#[derive(Debug)]
pub struct OnPath {
    act: Act,
    until: Time,
    honest: u32,
    /// How many packets it may still add.
    left: u32,
    rng: Rng,
    memory: Memory,
    /// The last control packet, and how it ended.
    control: Option<(Packet, Trailer)>,
    /// The first flights it has seen.
    firsts: Firsts,
    /// The tokens of the handshakes it has seen.
    tokens: VecDeque<u64>,
    due: Option<Time>,
    tally: Tally,
}

impl OnPath {
    pub(super) fn new(
        plan: OnPathPlan,
        until_us: u64,
        honest: u32,
        rng: Rng,
        tally: Tally,
    ) -> Self {
        OnPath {
            act: plan.act,
            until: at_us(until_us),
            honest,
            left: plan.max_packets,
            rng,
            memory: Memory::new(MEMORY),
            control: None,
            firsts: Firsts::default(),
            tokens: VecDeque::new(),
            due: None,
            tally,
        }
    }

    fn attack(
        &mut self,
        now: Time,
        packet: &mut Packet,
        sight: &Sight,
        extra: &mut Extra,
    ) -> Verdict {
        match self.act {
            Act::Drop { what, permille, from_us, to_us } => {
                let active = now >= at_us(from_us) && now < at_us(to_us);
                if active && what.is(sight, &packet.bytes) && self.strikes(permille) {
                    self.count();
                    return Verdict::Drop;
                }
            }
            Act::Hold { what, permille, up_to_us } => {
                if what.is(sight, &packet.bytes) && self.strikes(permille) {
                    self.count();
                    let delay = self.delay(Duration::from_micros(up_to_us));
                    return Verdict::Delay(delay.min(self.until.since(now)));
                }
            }
            Act::Trim { permille } => self.trim(packet, sight, permille),
            Act::Rewrite { permille } => self.rewrite(packet, permille),
            Act::Repeat { what, permille, copies, up_to_us } => {
                if what.is(sight, &packet.bytes) && self.strikes(permille) {
                    for _ in 0..copies {
                        let delay = self.delay(Duration::from_micros(up_to_us));
                        self.replay(now, delay, packet.clone(), extra);
                    }
                }
            }
            Act::Recall { what, every_us } => self.remember(now, packet, sight, what, every_us),
            Act::ReplayFirst { every_us } => {
                self.firsts.show(packet, sight);
                if self.due.is_none() {
                    self.due = self.next_recall(now, every_us);
                }
            }
            Act::AlterOffer { permille } => self.alter_offer(packet, sight, permille),
            Act::Haunt { burst } => self.haunt(now, packet, sight, burst, extra),
            Act::Alter { what, permille, change, place } => {
                return self.alter(now, packet, sight, (what, permille, change, place), extra);
            }
            Act::ForgeControl { permille } => {
                self.forge_control(now, packet, sight, permille, extra);
            }
            Act::ForgeData { permille } => self.forge_data(now, packet, sight, permille, extra),
            Act::ForgeFlight { permille } => self.forge_flight(now, packet, sight, permille, extra),
            Act::ForgeRetry { permille } => self.forge_retry(now, packet, sight, permille, extra),
            Act::ForgeNoSession { permille } => {
                self.forge_no_session(now, packet, sight, permille, extra);
            }
            Act::Reflect { permille } => self.reflect(now, packet, permille, extra),
            Act::Cross { permille } => self.cross(now, packet, permille, extra),
        }
        Verdict::Pass
    }

    fn trim(&mut self, packet: &mut Packet, sight: &Sight, permille: u32) {
        let has_payload = matches!(sight, Sight::Data(_)) && packet.bytes.len() > DATA_LEN;
        if has_payload && self.strikes(permille) {
            self.count();
            packet.bytes.truncate(DATA_LEN);
            packet.trimmed = true;
        }
    }

    fn rewrite(&mut self, packet: &mut Packet, permille: u32) {
        if self.strikes(permille) {
            self.count();
            let noise = self.rng.next_u64().to_be_bytes();
            forge::set(&mut packet.bytes, 13, &noise[..1]);
            forge::set(&mut packet.bytes, 16, &noise[1..3]);
        }
    }

    fn remember(&mut self, now: Time, packet: &Packet, sight: &Sight, what: What, every_us: u64) {
        if what.is(sight, &packet.bytes) {
            self.memory.show(packet, &mut self.rng);
            if self.due.is_none() {
                self.due = self.next_recall(now, every_us);
            }
        }
    }

    fn alter_offer(&mut self, packet: &mut Packet, sight: &Sight, permille: u32) {
        let Sight::Data(data) = sight else { return };
        let begins = data.header.epoch == 0 && data.header.message_id < 2 && data.sequence == 0;
        if begins
            && self.strikes(permille)
            && let Some(bytes) = first::alter_offer(&packet.bytes, &mut self.rng)
        {
            self.count();
            take_place(packet, bytes);
        }
    }

    /// Sends a first flight again.
    fn replay_first(&mut self, now: Time, extra: &mut Extra) {
        let another = self.rng.chance(0.5).then(|| self.rng.next_u64());
        let elsewhere = self.rng.chance(0.3).then(|| self.rng.below(self.honest.into()) as u32);
        for (index, old) in self.firsts.any(&mut self.rng).into_iter().enumerate() {
            let mut again = old;
            let is_flight = again.bytes.get(8) == Some(&0);
            if let Some(token) = another.filter(|_| is_flight) {
                forge::set(&mut again.bytes, 36, &token.to_be_bytes());
                again.origin = Origin::Forged;
            }
            if let Some(dst) = elsewhere.filter(|dst| *dst != again.src && *dst != again.dst) {
                again.dst = dst;
                again.origin = Origin::Forged;
            }
            if again.origin != Origin::Forged {
                again.origin = Origin::Replayed;
            }
            let delay = Duration::from_nanos(200 * index as u64);
            self.add(now, delay, again, extra);
        }
    }

    fn next_recall(&mut self, now: Time, every_us: u64) -> Option<Time> {
        let nanos = self.rng.exponential(every_us as f64 * 1000.0).max(1.0) as u64;
        let due = now + Duration::from_nanos(nanos);
        (self.left > 0 && due < self.until).then_some(due)
    }

    fn haunt(&mut self, now: Time, packet: &Packet, sight: &Sight, burst: u32, extra: &mut Extra) {
        let Sight::Data(data) = sight else { return };
        let begins = data.header.epoch == 0 && data.header.message_id == 0;
        if begins && !self.tokens.contains(&data.tag) {
            self.tokens.push_back(data.tag);
            if self.tokens.len() > HANDSHAKES {
                self.tokens.pop_front();
            }
            let ends = [packet.src, packet.dst];
            for _ in 0..burst {
                let of_them = |old: &Packet| ends.contains(&old.dst);
                let old = self.memory.any_fit(&mut self.rng, of_them).cloned();
                if let Some(old) = old {
                    let delay = self.delay(HAUNTING);
                    self.replay(now, delay, old, extra);
                }
            }
        }
        self.memory.show(packet, &mut self.rng);
    }

    fn alter(
        &mut self,
        now: Time,
        packet: &mut Packet,
        sight: &Sight,
        (what, permille, change, place): (What, u32, Change, Place),
        extra: &mut Extra,
    ) -> Verdict {
        let struck = what.is(sight, &packet.bytes) && self.strikes(permille);
        let changed =
            struck.then(|| change.apply(&packet.bytes, &self.memory, &mut self.rng)).flatten();
        if change == Change::Splice && matches!(sight, Sight::Data(_)) {
            self.memory.show(packet, &mut self.rng);
        }
        let Some(bytes) = changed else {
            return Verdict::Pass;
        };
        if place == Place::Instead {
            self.count();
            take_place(packet, bytes);
            return Verdict::Pass;
        }
        let mut made = Packet { bytes: packet.bytes.clone(), ..*packet };
        take_place(&mut made, bytes);
        if made.origin == Origin::Genuine {
            made.origin = Origin::Replayed;
        }
        if place == Place::Ahead {
            self.add(now, Duration::ZERO, made, extra);
            return Verdict::Delay(self.delay(CLOSE) + Duration::from_nanos(1));
        }
        let delay = self.delay(CLOSE);
        self.add(now, delay, made, extra);
        Verdict::Pass
    }

    fn forge_control(
        &mut self,
        now: Time,
        packet: &Packet,
        sight: &Sight,
        permille: u32,
        extra: &mut Extra,
    ) {
        if let Sight::Control(control, tag) = sight {
            let trailer = Trailer { number: control.number, tag: *tag };
            self.control = Some((packet.clone(), trailer));
        }
        let mut header = sight.header();
        if header.epoch == 0 || !self.strikes(permille) {
            return;
        }
        let message_len = match sight {
            Sight::Data(data) => data.message_len,
            Sight::Control(..) | Sight::Retry(_) => 1 << 16,
        };
        let body = forge::body(header.message_id, message_len, &mut self.rng);
        if self.rng.chance(0.1) {
            header.epoch = if header.epoch == 1 { 3 } else { 1 };
        }
        header.message_id = forge::id_near(header.message_id, &mut self.rng);
        let (mut made, back) = self.blank(packet);
        let header = if back { forge::turned(header) } else { header };
        let seen = self.control.as_ref().map(|(_, trailer)| *trailer);
        let trailer = Trailer::like(seen, &mut self.rng);
        made.bytes = forge::control(header, body, trailer, &mut self.rng);
        if let Some((genuine, _)) = &self.control {
            liken(genuine, &mut made);
        }
        let delay = self.delay(CLOSE);
        self.add(now, delay, made, extra);
    }

    fn forge_data(
        &mut self,
        now: Time,
        packet: &Packet,
        sight: &Sight,
        permille: u32,
        extra: &mut Extra,
    ) {
        let Sight::Data(data) = sight else { return };
        if data.header.epoch == 0 || !self.strikes(permille) {
            return;
        }
        let (mut made, back) = self.blank(packet);
        let header = if back { forge::turned(data.header) } else { data.header };
        made.bytes = forge::data_like(Data { header, ..*data }, &mut self.rng);
        liken(packet, &mut made);
        let delay = self.delay(CLOSE);
        self.add(now, delay, made, extra);
    }

    fn forge_flight(
        &mut self,
        now: Time,
        packet: &Packet,
        sight: &Sight,
        permille: u32,
        extra: &mut Extra,
    ) {
        let Sight::Data(data) = sight else { return };
        if data.header.epoch != 0 || !self.strikes(permille) {
            return;
        }
        let (mut made, back) = self.blank(packet);
        let mut header = if back { forge::turned(data.header) } else { data.header };
        header.message_id = header.message_id.wrapping_add(self.rng.below(4));
        made.bytes = forge::flight_like(*data, header, &mut self.rng);
        let delay = self.delay(CLOSE);
        self.add(now, delay, made, extra);
    }

    fn forge_retry(
        &mut self,
        now: Time,
        packet: &Packet,
        sight: &Sight,
        permille: u32,
        extra: &mut Extra,
    ) {
        let Sight::Data(data) = sight else { return };
        if data.header.epoch != 0 || !self.strikes(permille) {
            return;
        }
        let mut made = Packet { bytes: Vec::new(), ..forged(packet) };
        let mut header = data.header;
        if data.header.message_id % 2 == 0 {
            // Towards the client.
            (made.src, made.dst) = (packet.dst, packet.src);
            header = forge::turned(header);
        }
        let seen = self.tokens.back().copied();
        made.bytes = forge::retry(header, data.tag, seen, &mut self.rng);
        self.tokens.push_back(data.tag);
        if self.tokens.len() > HANDSHAKES {
            self.tokens.pop_front();
        }
        let delay = self.delay(CLOSE);
        self.add(now, delay, made, extra);
    }

    fn forge_no_session(
        &mut self,
        now: Time,
        packet: &Packet,
        sight: &Sight,
        permille: u32,
        extra: &mut Extra,
    ) {
        let mut header = sight.header();
        if header.epoch == 0 || !self.strikes(permille) {
            return;
        }
        header.message_id = match self.rng.below(3) {
            0 => 0,
            1 => header.message_id & !1,
            _ => header.message_id,
        };
        let (mut made, back) = self.blank(packet);
        let header = if back { forge::turned(header) } else { header };
        made.bytes = forge::no_session(header);
        let delay = self.delay(CLOSE);
        self.add(now, delay, made, extra);
    }

    fn reflect(&mut self, now: Time, packet: &Packet, permille: u32, extra: &mut Extra) {
        if !self.strikes(permille) {
            return;
        }
        let mut made = forged(packet);
        (made.src, made.dst) = (packet.dst, packet.src);
        if self.rng.chance(0.7) {
            turn_ports(&mut made.bytes);
        }
        let delay = self.delay(CLOSE);
        self.add(now, delay, made, extra);
    }

    fn cross(&mut self, now: Time, packet: &Packet, permille: u32, extra: &mut Extra) {
        if self.strikes(permille) {
            let elsewhere = |other: &Packet| place_of(other) != place_of(packet);
            let other = self.memory.any_fit(&mut self.rng, elsewhere).map(place_of);
            if let Some((src, dst, ports)) = other {
                let mut made = forged(packet);
                let flavour = self.rng.below(4);
                if flavour != 1 {
                    forge::set(&mut made.bytes, 0, &ports);
                }
                match flavour {
                    0 => {}
                    2 => made.src = src,
                    _ => (made.src, made.dst) = (src, dst),
                }
                if place_of(&made) == place_of(packet) {
                    made.origin = Origin::Replayed;
                }
                let delay = self.delay(CLOSE);
                self.add(now, delay, made, extra);
            }
        }
        self.memory.show(packet, &mut self.rng);
    }

    /// A forged packet without bytes, that goes where this one goes or back to its sender.
    fn blank(&mut self, packet: &Packet) -> (Packet, bool) {
        let mut made = Packet { bytes: Vec::new(), ..forged(packet) };
        let back = self.rng.chance(0.5);
        if back {
            (made.src, made.dst) = (packet.dst, packet.src);
        }
        (made, back)
    }

    fn replay(&mut self, now: Time, delay: Duration, mut packet: Packet, extra: &mut Extra) {
        packet.origin = Origin::Replayed;
        self.add(now, delay, packet, extra);
    }

    /// Adds a packet, while some are left, and before the end.
    fn add(&mut self, now: Time, delay: Duration, mut packet: Packet, extra: &mut Extra) {
        if self.left > 0 {
            self.left -= 1;
            self.count();
            packet.sent_at = now;
            extra.push((delay.min(self.until.since(now)), packet));
        }
    }

    fn strikes(&mut self, permille: u32) -> bool {
        self.rng.below(1000) < permille.into()
    }

    fn delay(&mut self, up_to: Duration) -> Duration {
        let nanos = u64::try_from(up_to.as_nanos()).unwrap_or(u64::MAX);
        Duration::from_nanos(self.rng.between(0, nanos))
    }

    fn count(&self) {
        self.tally.count(self.act.name());
    }
}

impl Tap for OnPath {
    fn packet(&mut self, now: Time, packet: &mut Packet, extra: &mut Extra) -> Verdict {
        let honest = packet.src < self.honest && packet.dst < self.honest;
        let genuine = packet.origin == Origin::Genuine && !packet.trimmed;
        if now >= self.until || !honest || !genuine {
            return Verdict::Pass;
        }
        match see(&packet.bytes) {
            Some(sight) => self.attack(now, packet, &sight, extra),
            None => Verdict::Pass,
        }
    }

    fn next_timeout(&self) -> Option<Time> {
        self.due
    }

    fn timeout(&mut self, now: Time, extra: &mut Extra) {
        let (Act::Recall { every_us, .. } | Act::ReplayFirst { every_us }) = self.act else {
            return;
        };
        if self.due.is_none_or(|due| due > now) {
            return;
        }
        if matches!(self.act, Act::ReplayFirst { .. }) {
            self.replay_first(now, extra);
        } else if let Some(old) = self.memory.any(&mut self.rng).cloned() {
            self.replay(now, Duration::ZERO, old, extra);
        }
        self.due = self.next_recall(now, every_us);
    }
}

fn at_us(us: u64) -> Time {
    Time::from_nanos(us.saturating_mul(1000))
}

/// A copy of a packet, to become a forgery.
fn forged(packet: &Packet) -> Packet {
    Packet { bytes: packet.bytes.clone(), origin: Origin::Forged, ..*packet }
}

/// Gives a genuine packet other bytes, and says what it is then.
fn take_place(packet: &mut Packet, bytes: Vec<u8>) {
    match likeness(&packet.bytes, &bytes) {
        Likeness::Same => {}
        Likeness::Trimmed => packet.trimmed = true,
        Likeness::Different => packet.origin = Origin::Forged,
    }
    packet.bytes = bytes;
}

/// Sets the origin of what was made, which may have become as the genuine packet.
fn liken(genuine: &Packet, made: &mut Packet) {
    if (genuine.src, genuine.dst) != (made.src, made.dst) {
        return;
    }
    match likeness(&genuine.bytes, &made.bytes) {
        Likeness::Different => {}
        Likeness::Same => made.origin = Origin::Replayed,
        Likeness::Trimmed => {
            made.origin = Origin::Replayed;
            made.trimmed = true;
        }
    }
}

fn turn_ports(bytes: &mut [u8]) {
    if let Some(ports) = bytes.first_chunk_mut::<4>() {
        ports.rotate_left(2);
    }
}

/// Whose packet it is: hosts and ports.
fn place_of(packet: &Packet) -> (u32, u32, [u8; 4]) {
    let ports = packet.bytes.first_chunk().copied().unwrap_or_default();
    (packet.src, packet.dst, ports)
}

#[cfg(test)]
#[path = "on_path_tests.rs"]
mod tests;
