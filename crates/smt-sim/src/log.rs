//! One line of text for each moment of a packet, for people who want to see what happened.
//!
//! ```text
//!        1250 sent      0>1  DATA #2 0+1400 of 3000 p5
//! ```
//! Time in nanoseconds, what happened, sender and receiver, what the packet says, its priority, and
//! what is special about it.

use std::fmt::{self, Display, Formatter};
use std::io::Write;

use smt_proto::Time;
use smt_proto::wire::{self, Control, ControlBody, DATA_LEN, Data, IpVersion, PacketType, Retry};

use crate::packet::{Origin, Packet};
use crate::world::{Moment, Observer};

/// A moment of a packet; displays as a line without its end.
pub struct Line<'a> {
    /// When it was.
    pub now: Time,
    /// What happened.
    pub moment: Moment,
    /// To which packet.
    pub packet: &'a Packet,
}

/// Writes a line for every moment; the first failure ends the log.
#[must_use]
pub fn observer(output: impl Write + 'static) -> Observer {
    let mut output = Some(output);
    Box::new(move |now, moment, packet| {
        if let Some(open) = &mut output
            && writeln!(open, "{}", Line { now, moment, packet }).is_err()
        {
            output = None;
        }
    })
}

impl Display for Line<'_> {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let packet = self.packet;
        let moment = match self.moment {
            Moment::Sent => "sent",
            Moment::Added => "added",
            Moment::Delivered => "received",
            Moment::Dropped(_) => "dropped",
        };
        let nanos = self.now.as_nanos();
        write!(f, "{nanos:>12} {moment:<8} {:>3}>{:<3} ", packet.src, packet.dst)?;
        write_content(f, packet)?;
        write!(f, " p{}", packet.priority)?;
        match packet.origin {
            Origin::Genuine => {}
            Origin::Corrupted => f.write_str(" corrupted")?,
            Origin::Replayed => f.write_str(" replayed")?,
            Origin::Forged => f.write_str(" forged")?,
        }
        for (is, what) in [(packet.trimmed, " trimmed"), (packet.marked, " marked")] {
            if is {
                f.write_str(what)?;
            }
        }
        match self.moment {
            Moment::Dropped(why) => write!(f, ": {why}"),
            _ => Ok(()),
        }
    }
}

/// Writes what a packet says.
fn write_content(f: &mut Formatter<'_>, packet: &Packet) -> fmt::Result {
    let bytes = &packet.bytes;
    match wire::packet_type(bytes) {
        Ok(PacketType::Data) => match Data::parse(bytes) {
            Ok(data) => write_data(f, &data, bytes.len() - DATA_LEN),
            Err(error) => write!(f, "bad DATA, {} bytes: {error}", bytes.len()),
        },
        Ok(PacketType::Retry) => match Retry::parse(bytes) {
            Ok(retry) => write!(f, "RETRY {:016x} for {:016x}", retry.new_token, retry.token),
            Err(error) => write!(f, "bad RETRY, {} bytes: {error}", bytes.len()),
        },
        Ok(_) => match Control::parse(bytes) {
            Ok((control, _)) => write_control(f, &control),
            Err(error) => write!(f, "bad control packet, {} bytes: {error}", bytes.len()),
        },
        Err(_) => write!(f, "{} bytes", bytes.len()),
    }
}

fn write_data(f: &mut Formatter<'_>, data: &Data, len: usize) -> fmt::Result {
    let kind = if data.header.epoch == 0 { "FLIGHT" } else { "DATA" };
    write!(f, "{kind} #{} ", data.header.message_id)?;
    match wire::payload_offset(data, len, IpVersion::V4 { id: 0 }) {
        Some(offset) => write!(f, "{offset}+{len} of {}", data.message_len)?,
        None => write!(f, "?+{len} of {}", data.message_len)?,
    }
    if data.retransmit {
        f.write_str(" again")?;
    }
    if data.pinned {
        f.write_str(" pinned")?;
    }
    Ok(())
}

fn write_control(f: &mut Formatter<'_>, control: &Control) -> fmt::Result {
    let id = control.header.message_id;
    match &control.body {
        ControlBody::Grant { offset, priority } => {
            write!(f, "GRANT #{id} to {offset} at p{priority}")
        }
        ControlBody::Resend { offset, length, priority, pinned } => {
            let pinned = if *pinned { " pinned" } else { "" };
            write!(f, "RESEND #{id} {offset}+{length} at p{priority}{pinned}")
        }
        ControlBody::Unknown(code) => write!(f, "UNKNOWN #{id} {code:?}"),
        ControlBody::Busy => write!(f, "BUSY #{id}"),
        ControlBody::Cutoffs { version, .. } => write!(f, "CUTOFFS version {version}"),
        ControlBody::NeedAck => write!(f, "NEEDACK #{id}"),
        ControlBody::Ack(ranges) => write!(f, "ACK {ranges:?}"),
        ControlBody::Cancel(code) => write!(f, "CANCEL #{id} {code:?}"),
        ControlBody::Update { epoch } => write!(f, "UPDATE from epoch {epoch}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::world::Why;
    use smt_proto::wire::Header;

    fn line(moment: Moment, packet: &Packet) -> String {
        Line { now: Time::from_nanos(1250), moment, packet }.to_string()
    }

    fn control(body: ControlBody) -> Packet {
        let header = Header { src_port: 1, dst_port: 2, epoch: 3, message_id: 8 };
        let mut bytes = vec![0; wire::MAX_CONTROL_LEN];
        let len = Control { header, body, number: 1 }.emit(&mut bytes);
        bytes.truncate(len);
        Packet { bytes, src: 12, dst: 3, priority: 7, ..Packet::default() }
    }

    #[test]
    fn lines_say_what_packets_say() {
        let grant = control(ControlBody::Grant { offset: 60_000, priority: 4 });
        assert_eq!(
            line(Moment::Sent, &grant),
            "        1250 sent      12>3   GRANT #8 to 60000 at p4 p7"
        );
        let mut resend =
            control(ControlBody::Resend { offset: 5, length: 9, priority: 1, pinned: true });
        resend.origin = Origin::Replayed;
        assert_eq!(
            line(Moment::Added, &resend),
            "        1250 added     12>3   RESEND #8 5+9 at p1 pinned p7 replayed"
        );
        resend.bytes.pop();
        assert!(line(Moment::Delivered, &resend).contains("bad control packet, 55 bytes"));
    }

    #[test]
    fn what_is_no_packet_of_ours_is_shown_too() {
        let packet = Packet { bytes: vec![1; 9], src: 0, dst: 1, ..Packet::default() };
        assert_eq!(
            line(Moment::Dropped(Why::Full), &packet),
            "        1250 dropped    0>1   9 bytes p0: buffer full"
        );
    }
}
