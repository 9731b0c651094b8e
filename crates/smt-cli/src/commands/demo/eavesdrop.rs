//! Step 5: what somebody on the link sees.

use std::fs::{self, DirBuilder};
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use serde_json::json;
use smt::proto::wire::{DATA_LEN, Data, FIRST_EPOCH, PacketType, packet_type};

use super::messages::{Part, Report, Task};
use super::screen::{Screen, Told};
use super::stage::Stage;
use crate::commands::Error;
use crate::output::hex;

/// What the client sends and the server echoes.
const SECRET: &str = "Transfer 1,250,000.00 from account 4711 to account 0815, reference PELICAN. The password is \
                      `correct horse battery staple`; nobody but the server may ever read this line.";
/// The shortest piece of it that must not be found in the capture, in bytes.
const PIECE: usize = 8;

const PCAP_HEADER: usize = 24;
const PCAP_RECORD_HEADER: usize = 16;
const IPV4_HEADER: usize = 20;
/// How much of the ciphertext is shown, in bytes.
const SHOWN: usize = 32;

/// Runs the step.
pub(super) fn run(stage: &Stage, screen: &mut Screen) -> Result<(), Error> {
    let title = "what an eavesdropper sees: headers, and nothing else";
    let step = screen.begin("capture", title);
    let outcome = eavesdrop(stage, screen);
    screen.end(step, title, outcome)
}

fn eavesdrop(stage: &Stage, screen: &Screen) -> Result<Told, Error> {
    let dir = PrivateDir::new().map_err(Error::io("cannot make a temporary directory"))?;
    let file = dir.path.join("link.pcap");
    let mut both = stage.start([Part::Server, Part::Client], 0.0, Some(&file))?;
    both.client.tell(&Task::Say { text: SECRET.to_owned() })?;
    both.client.wait_for("the call", |report| matches!(report, Report::Said).then_some(()))?;
    both.finish();
    let capture = fs::read(&file).map_err(Error::io("cannot read the capture"))?;
    let packets = packets(&capture);
    let request = packets.iter().find_map(|packet| Request::find(stage, packet));
    let request =
        request.ok_or_else(|| Error::Failed("the request is not in the capture".to_owned()))?;
    if let Some(piece) = leak(&capture) {
        let text = format!("`{}` is readable in the capture", String::from_utf8_lossy(piece));
        return Err(Error::Failed(text));
    }
    let mut lines = vec![format!(
        "{} packets captured at the server's host; the one with the request:",
        packets.len()
    )];
    lines.extend(request.lines().iter().map(|line| screen.printer.dim(line)));
    lines.push(format!("no {PIECE} bytes in a row of the request and its echo"));
    lines.push(format!("(\"{}...\") are in the capture", &SECRET[..33]));
    let Data { header, message_len, .. } = request.data;
    Ok(Told {
        lines,
        object: json!({
            "packets": packets.len(), "capture_bytes": capture.len(),
            "plaintext_found": false, "plaintext_bytes": SECRET.len(),
            "packet": {
                "hex": hex(request.smt), "type": "DATA", "source_port": header.src_port,
                "destination_port": header.dst_port, "message_id": header.message_id,
                "message_length": message_len,
            },
        }),
    })
}

/// A piece of the secret that the capture contains.
fn leak(capture: &[u8]) -> Option<&'static [u8]> {
    let mut pieces = SECRET.as_bytes().windows(PIECE);
    pieces.find(|piece| capture.windows(PIECE).any(|window| window == *piece))
}

/// The IP packets of a capture file.
fn packets(capture: &[u8]) -> Vec<&[u8]> {
    let mut rest = capture.get(PCAP_HEADER..).unwrap_or_default();
    let mut packets = Vec::new();
    while let Some((head, behind)) = rest.split_first_chunk::<PCAP_RECORD_HEADER>() {
        let [.., a, b, c, d, _, _, _, _] = *head;
        let length = u32::from_ne_bytes([a, b, c, d]) as usize;
        let Some((packet, behind)) = behind.split_at_checked(length) else { break };
        packets.push(packet);
        rest = behind;
    }
    packets
}

/// The packet with the request.
struct Request<'a> {
    ip: &'a [u8],
    smt: &'a [u8],
    data: Data,
}

impl<'a> Request<'a> {
    /// `packet`, if it is the request: DATA of an application epoch, sent by the client, with a request's ID.
    fn find(stage: &Stage, packet: &'a [u8]) -> Option<Request<'a>> {
        let (ip, smt) = packet.split_at_checked(IPV4_HEADER)?;
        let data = Data::parse(smt).ok()?;
        let is_request = packet_type(smt) == Ok(PacketType::Data)
            && u32::from(data.header.epoch) >= FIRST_EPOCH
            && data.header.message_id != 0
            && data.header.message_id & 1 == 0
            && smt.len() > DATA_LEN + SECRET.len();
        let is_clients = ip.get(12..16) == Some(&stage.client_address().octets()[..]);
        (is_request && is_clients).then_some(Request { ip, smt, data })
    }

    /// The packet in hexadecimal, with what each part is.
    fn lines(&self) -> Vec<String> {
        let Data { header, sequence, record_size, segment_size, message_len, incoming, .. } =
            self.data;
        let of_ip = |at: usize| self.ip.get(at).copied().unwrap_or_default();
        let address = |at: usize| [0, 1, 2, 3].map(|i| of_ip(at + i).to_string()).join(".");
        let part = |from: usize, to: usize, text: String| {
            let bytes = self.smt.get(from..to.min(self.smt.len())).unwrap_or_default();
            format!("{from:>4}  {:<23}  {text}", blanks(bytes))
        };
        let mut lines = vec![
            format!("  IP  {} -> {}, protocol {}", address(12), address(16), of_ip(9)),
            part(0, 4, format!("ports {} -> {}", header.src_port, header.dst_port)),
            part(4, 8, format!("sequence {sequence}")),
            part(8, 12, format!("epoch {}, record size {record_size}, type DATA", header.epoch)),
            part(12, 20, format!("header length 52, segment size {segment_size}")),
            part(20, 28, format!("message ID {}: a request", header.message_id)),
            part(28, 36, format!("message length {message_len}, of it without grant {incoming}")),
            part(36, 44, "header tag: nobody has changed the header".to_owned()),
            part(44, 52, "flags, TSO offset".to_owned()),
            part(52, 57, "TLS 1.3 record header".to_owned()),
        ];
        let end = (57 + SHOWN).min(self.smt.len());
        for from in (57..end).step_by(8) {
            lines.push(part(from, (from + 8).min(end), "encrypted".to_owned()));
        }
        let left = self.smt.len().saturating_sub(end);
        lines.push(format!(
            "      ... {left} more bytes, encrypted, the last 16 the record's AEAD tag"
        ));
        lines
    }
}

fn blanks(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect::<Vec<_>>().join(" ")
}

/// A directory that nobody else can look into, removed when this is dropped.
struct PrivateDir {
    path: PathBuf,
}

impl PrivateDir {
    fn new() -> io::Result<PrivateDir> {
        let name = format!("smt-demo-{}", std::process::id());
        let path = std::env::temp_dir().join(name);
        // Whatever has the name already is not ours to use: this fails then.
        DirBuilder::new().mode(0o700).create(&path)?;
        Ok(PrivateDir { path })
    }
}

impl Drop for PrivateDir {
    fn drop(&mut self) {
        remove(&self.path);
    }
}

fn remove(path: &Path) {
    // There is nothing secret in it, and nothing else that could be done.
    let _ = fs::remove_dir_all(path);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_leak_is_found() {
        let mut capture = vec![0; 100];
        assert_eq!(leak(&capture), None);
        capture.extend_from_slice(&SECRET.as_bytes()[20..20 + PIECE]);
        assert_eq!(leak(&capture), Some(&SECRET.as_bytes()[20..20 + PIECE]));
    }

    #[test]
    fn packets_are_found_and_cut_files_do_no_harm() {
        let mut capture = vec![0; PCAP_HEADER];
        for length in [3_u32, 5] {
            capture.extend([0; 8]);
            capture.extend(length.to_ne_bytes());
            capture.extend(length.to_ne_bytes());
            capture.extend(vec![7; length as usize]);
        }
        assert_eq!(packets(&capture), [&[7; 3][..], &[7; 5]]);
        capture.pop();
        assert_eq!(packets(&capture), [&[7; 3][..]]);
        assert!(packets(&[]).is_empty());
    }
}
