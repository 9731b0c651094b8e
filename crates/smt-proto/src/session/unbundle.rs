//! Bundles of the peer's (spec 4.5): opened once, then each message is taken as if it had come whole in a
//! packet of its own.

use alloc::vec;

use bytes::Bytes;

use super::calls::parse_error_body;
use super::data::Packet;
use super::distrust::answers_another;
use super::early::Openers;
use super::{Session, Which};
use crate::endpoint::Shared;
use crate::message::Body;
use crate::record::{self, RECORD_OVERHEAD};
use crate::rpc::{InRpc, InState};
use crate::time::Time;
use crate::wire::{BUNDLE_HEAD_LEN, BundleEntry, BundleHead, Kind, PREAMBLE_LEN, Preamble};

/// A message of a bundle.
struct Entry {
    head: BundleEntry,
    body: Bytes,
}

impl Entry {
    /// Its plaintext and its wire stream in bytes, had it come for itself.
    fn lengths(&self) -> (u32, u32) {
        let plain = PREAMBLE_LEN as u32 + u32::from(self.head.app_len);
        (plain, plain + RECORD_OVERHEAD)
    }
}

/// A bundle that has opened.
struct Opened {
    epoch: u32,
    head: BundleHead,
    /// Bytes that each of its messages keeps from being freed.
    plain_len: u32,
    /// Something in it was new.
    is_fresh: bool,
}

impl Opened {
    /// The preamble that a message would have had for itself.
    fn preamble(&self, entry: &Entry) -> Preamble {
        let BundleHead { highest_peer_epoch, oldest_epoch, ack_floor, ack_bitmap, .. } = self.head;
        Preamble {
            kind: entry.head.kind,
            record_size: 0,
            app_len: entry.head.app_len.into(),
            wire_len: entry.lengths().1,
            highest_peer_epoch,
            oldest_epoch,
            response_limit: entry.head.response_limit,
            ack_floor,
            ack_bitmap,
        }
    }
}

impl Session {
    /// A bundle, authentic by its tag.
    pub(super) fn on_bundle(&mut self, cx: &mut Shared, now: Time, packet: Packet<'_>) {
        let Packet { data, payload, .. } = packet;
        let id = data.header.message_id;
        if payload.len() != data.message_len as usize {
            // Nothing is known of what was in it; silence tells.
            cx.stats.trimmed += u64::from(payload.is_empty());
            cx.stats.dropped_unexpected += u64::from(!payload.is_empty());
            return;
        }
        let comes_from_peer = self.rpc_of(id).is_some_and(|which| which.ours == which.response);
        let number = record::bundle_sequence_number(cx.config.nonce_id(id), self.peer.id_bits);
        let mut keys = Openers { early: self.early.as_deref_mut(), app: self.keys.as_deref_mut() };
        let (Some(number), Some(epoch), true) =
            (number, keys.epoch(data.header.epoch), comes_from_peer)
        else {
            cx.stats.dropped_unexpected += 1;
            return;
        };
        let Some(epoch_keys) = keys.of(&mut cx.stats, epoch) else {
            return keys.failed(cx, now, self.id, (epoch, 0));
        };
        let plain_len = u32::from(data.record_size);
        // One byte more, that the inner type spills into.
        let mut plain = vec![0; plain_len as usize + 1];
        if record::open(epoch_keys, number, payload, &mut plain).is_err() {
            return keys.failed(cx, now, self.id, (epoch, 1));
        }
        let plain = Bytes::from(plain);
        let text = plain.get(..plain_len as usize).unwrap_or_default();
        let first = BundleEntry::parse(text, BUNDLE_HEAD_LEN);
        let head = match (BundleHead::parse(text), first) {
            (Ok(head), Ok((first, _))) if first.message_id == id && head.oldest_epoch <= epoch => {
                head
            }
            _ => return self.violation_under(cx, now, epoch),
        };
        cx.stats.records_opened += 1;
        cx.stats.bundles_received += 1;
        cx.stats.bundled_received += u64::from(head.count);
        cx.granter.meter.arrived(now, payload.len());
        let mut bundle = Opened { epoch, head, plain_len, is_fresh: false };
        let mut at = BUNDLE_HEAD_LEN;
        while let Ok((head, bytes)) = BundleEntry::parse(text, at)
            && at < text.len()
        {
            at = bytes.end;
            let entry = Entry { head, body: plain.slice(bytes) };
            if !self.on_entry(cx, now, &mut bundle, entry) {
                return self.violation_under(cx, now, epoch);
            }
        }
    }

    /// Takes one message of a bundle. False: the peer contradicts itself.
    fn on_entry(&mut self, cx: &mut Shared, now: Time, bundle: &mut Opened, entry: Entry) -> bool {
        match self.rpc_of(entry.head.message_id) {
            Some(Which { ours: true, response: true, number }) => {
                self.on_bundled_response(cx, now, number, bundle, entry)
            }
            Some(Which { ours: false, response: false, number }) => {
                self.on_bundled_request(cx, now, number, bundle, entry)
            }
            _ => {
                cx.stats.dropped_unexpected += 1;
                true
            }
        }
    }

    /// What is said of the sender counts once, and not if nothing else in the bundle is new: it may have been
    /// recorded and sent again. False: the peer contradicts itself.
    fn learn(&mut self, cx: &mut Shared, now: Time, bundle: &mut Opened, entry: &Entry) -> bool {
        if core::mem::replace(&mut bundle.is_fresh, true) {
            return true;
        }
        let mut keys = Openers { early: self.early.as_deref_mut(), app: self.keys.as_deref_mut() };
        keys.opened(cx, now, self.id, bundle.epoch);
        self.heard(cx, now, bundle.epoch);
        self.on_preamble(cx, &bundle.preamble(entry), bundle.epoch)
    }

    fn on_bundled_request(
        &mut self,
        cx: &mut Shared,
        now: Time,
        number: u64,
        bundle: &mut Opened,
        entry: Entry,
    ) -> bool {
        if self.inc.contains(number) {
            // Beginning to come in a packet of its own, or here.
            cx.stats.duplicates += 1;
            return true;
        }
        if self.seen.contains(number) {
            cx.stats.dropped_replayed_request += 1;
            return true;
        }
        let (plain_len, wire_len) = entry.lengths();
        if self.is_beyond_window(cx, number) || !self.is_lawful_length(cx, plain_len) {
            return false;
        }
        // While the application has it, it keeps the buffer of all.
        let charge = bundle.plain_len.max(plain_len);
        if !self.has_room(cx, entry.head.message_id, charge) {
            return true;
        }
        self.seen.insert(number);
        let preamble = bundle.preamble(&entry);
        if !self.is_lawful_request(cx, &preamble, bundle.epoch)
            || !self.learn(cx, now, bundle, &entry)
        {
            return false;
        }
        cx.note_size(wire_len, wire_len);
        let charge = u64::from(charge);
        self.charge(cx, charge);
        let response_limit = preamble.response_limit;
        let rpc = InRpc { response_limit, ..InRpc::new(InState::Executing, charge) };
        self.inc.insert(number, rpc);
        self.hand_out(cx, number, &preamble, bundle.epoch, Body::shared(entry.body));
        true
    }

    fn on_bundled_response(
        &mut self,
        cx: &mut Shared,
        now: Time,
        number: u64,
        bundle: &mut Opened,
        entry: Entry,
    ) -> bool {
        let Some(rpc) = self.out.get(number) else {
            match number < self.next_number {
                true => cx.stats.duplicates += 1,
                false => cx.stats.dropped_unexpected += 1,
            }
            return true;
        };
        if rpc.cancelling || rpc.request.sent() == 0 {
            cx.stats.dropped_unexpected += 1;
            return true;
        }
        if rpc.response.is_some() {
            // It has begun to come in packets of its own, and goes on in them.
            cx.stats.duplicates += 1;
            return true;
        }
        let (sent_at, request) = (rpc.sent_at, rpc.request.epoch());
        let (plain_len, wire_len) = entry.lengths();
        if !self.is_lawful_length(cx, plain_len) {
            return false;
        }
        if !self.has_room(cx, entry.head.message_id, plain_len) {
            return true;
        }
        if let Some(sent_at) = sent_at.filter(|_| !bundle.is_fresh) {
            self.rtt.sample(now, now.since(sent_at));
        }
        let preamble = bundle.preamble(&entry);
        if !self.learn(cx, now, bundle, &entry) {
            return false;
        }
        cx.note_size(wire_len, wire_len);
        if answers_another(request, &preamble, bundle.epoch) {
            self.spoiled(cx, now, number);
            return true;
        }
        let body = Body::shared(entry.body);
        match entry.head.kind {
            Kind::Application => self.finish(cx, number, Ok(body)),
            Kind::Error => self.finish(cx, number, Err(parse_error_body(&body))),
            Kind::Post => return false,
        }
        true
    }
}
