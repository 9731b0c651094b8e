//! `smt ping`: how long a round trip takes.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use clap::Args;
use serde_json::json;
use smt::{Body, CallError, CallOptions, Event};

use super::Error;
use super::options::{Client, Connected, Transport, peer_name, seconds, suite_name};
use crate::output::{self, Printer, nanoseconds, time};
use crate::stop::{LOOK_EVERY, Stop};
use crate::times::Times;

const ABOUT: &str = "\
Measure round trips to a server that echoes

Sends a request every second, compares the response with it and says how long that took, from before the request is \
sealed until after the response is opened; until --count are done or Ctrl-C is pressed. Then it tells how many were \
lost, and the shortest, the median, the 99th percentile and the longest time. Lost packets are sent again by the \
transport, so an RPC is lost only if its deadline passes.";

const EXAMPLES: &str = "\
Examples:
  Five, one a second:
    smt ping 127.0.0.1 -c 5 --ca certs/ca.pem

  A thousand of 1 KB, each as soon as the one before is answered, both ends
  spinning (smt serve --wait spin):
    smt ping 10.0.0.2 -c 1000 -i 0 -s 1024 -q --wait spin \\
        --ca certs/ca.pem --name localhost

  A server that asks for a certificate also wants --cert and --key:
    smt ping 127.0.0.1 --ca certs/ca.pem \\
        --cert certs/client.pem --key certs/client.key

Exit status: 0 if every RPC was answered, 1 if one was lost or nothing could be sent, 2 for wrong usage, 3 if there is no session.

JSON events: connected {remote, peer, suite, handshake_ns}; response {rpc, bytes, time_ns}; lost {rpc, text}; closed; \
summary {sent, answered, lost, count, min_ns, p50_ns, p99_ns, max_ns}; error {exit_status, text}.";

/// How long the session may take to end.
const PATIENCE: Duration = Duration::from_millis(200);

/// The arguments of `smt ping`.
#[derive(Debug, Args)]
#[command(about = "Measure round trips to a server that echoes", long_about = ABOUT, after_help = EXAMPLES)]
pub struct Arguments {
    #[command(flatten)]
    client: Client,
    /// Stop after this many
    #[arg(long, short, value_name = "N")]
    count: Option<u64>,
    /// Seconds from one request to the next; 0: as soon as the one before is over
    #[arg(long, short, value_name = "SECONDS", default_value_t = 1.0, value_parser = interval)]
    interval: f64,
    /// Bytes in each request
    #[arg(long, short, value_name = "BYTES", default_value_t = 64)]
    size: u32,
    /// Only the summary
    #[arg(long, short)]
    quiet: bool,
    /// After how long an RPC is given up, in seconds
    #[arg(long, short = 'W', value_name = "SECONDS", default_value_t = 10.0, value_parser = seconds)]
    deadline: f64,
    /// Options of the transport.
    #[command(flatten)]
    pub transport: Transport,
}

fn interval(text: &str) -> Result<f64, String> {
    if text.parse() == Ok(0.0) { Ok(0.0) } else { seconds(text) }
}

/// Pings until enough are done or a signal comes.
///
/// # Errors
/// No session, or RPCs that were not answered.
pub fn run(arguments: &Arguments) -> Result<(), Error> {
    let stop = Stop::on_signals().map_err(Error::io("cannot handle signals"))?;
    let printer = Printer::new(arguments.transport.json);
    let interrupted = || Error::Failed("interrupted before there was a session".to_owned());
    let connected =
        arguments.client.connect(&arguments.transport, &stop)?.ok_or_else(interrupted)?;
    greet(arguments, &printer, &connected)?;
    let mut pinger = Pinger::new(arguments, printer, connected);
    pinger.work(&stop)?;
    pinger.finish()
}

fn greet(arguments: &Arguments, printer: &Printer, connected: &Connected) -> Result<(), Error> {
    let Connected { engine, info, handshake, .. } = connected;
    let (peer, suite) = (peer_name(&info.peer), suite_name(info.suite));
    let carried = arguments.transport.carrier_text(engine);
    Ok(printer.say(
        format!(
            "{peer} at {} over {carried}: {suite}, handshake {}",
            info.remote,
            output::duration(*handshake)
        ),
        &json!({
            "event": "connected", "remote": info.remote, "peer": peer, "suite": suite,
            "handshake_ns": nanoseconds(*handshake),
        }),
    )?)
}

struct Pinger<'a> {
    arguments: &'a Arguments,
    printer: Printer,
    connected: Connected,
    /// When requests that are not answered yet were sent.
    waiting: HashMap<u64, Instant>,
    sent: u64,
    lost: u64,
    times: Times,
    closed: bool,
}

impl<'a> Pinger<'a> {
    fn new(arguments: &'a Arguments, printer: Printer, connected: Connected) -> Pinger<'a> {
        Pinger {
            arguments,
            printer,
            connected,
            waiting: HashMap::new(),
            sent: 0,
            lost: 0,
            times: Times::default(),
            closed: false,
        }
    }

    fn work(&mut self, stop: &Stop) -> Result<(), Error> {
        let interval = Duration::from_secs_f64(self.arguments.interval);
        let mut due = Instant::now();
        while !stop.is_set() && !self.closed {
            let more = self.arguments.count.is_none_or(|count| self.sent < count);
            if !more && self.waiting.is_empty() {
                break;
            }
            let now = Instant::now();
            let free = !interval.is_zero() || self.waiting.is_empty();
            if more && free && now >= due {
                self.send()?;
                due = (due + interval).max(now);
            }
            let patience =
                if more { due.saturating_duration_since(now).min(LOOK_EVERY) } else { LOOK_EVERY };
            let patience = if interval.is_zero() { LOOK_EVERY } else { patience };
            let event = self.connected.engine.next(Some(patience));
            match event.map_err(Error::io("the datapath failed"))? {
                Some(Event::Response { user, result, .. }) => self.receive(user, result)?,
                Some(Event::Closed { .. }) => self.closed = true,
                _ => {}
            }
        }
        Ok(())
    }

    fn send(&mut self) -> Result<(), Error> {
        let number = self.sent;
        self.sent += 1;
        let deadline = Some(Duration::from_secs_f64(self.arguments.deadline));
        let options = CallOptions { deadline, user: number };
        let body = body(number, self.arguments.size);
        let start = Instant::now();
        match self.connected.engine.call(self.connected.session, body, options) {
            Ok(_) => {
                self.waiting.insert(number, start);
                Ok(())
            }
            Err(error) => self.lose(number, &CallError::from(error).to_string()),
        }
    }

    fn receive(&mut self, number: u64, result: Result<Body, CallError>) -> Result<(), Error> {
        let Some(start) = self.waiting.remove(&number) else { return Ok(()) };
        let elapsed = start.elapsed();
        match result {
            Ok(response) if response[..] == body(number, self.arguments.size) => {
                self.times.add(elapsed);
                if self.arguments.quiet {
                    return Ok(());
                }
                let ns = nanoseconds(elapsed);
                let bytes = response.len();
                Ok(self.printer.say(
                    format!("{bytes} bytes: rpc={} time={}", number + 1, time(ns)),
                    &json!({
                        "event": "response", "rpc": number + 1, "bytes": bytes, "time_ns": ns,
                    }),
                )?)
            }
            Ok(_) => self.lose(number, "the response is not the request; does the server echo?"),
            Err(error) => self.lose(number, &error.to_string()),
        }
    }

    fn lose(&mut self, number: u64, why: &str) -> Result<(), Error> {
        self.lost += 1;
        Ok(self.printer.say(
            format!("rpc={} lost: {why}", number + 1),
            &json!({"event": "lost", "rpc": number + 1, "text": why}),
        )?)
    }

    fn finish(mut self) -> Result<(), Error> {
        if self.closed {
            let text = "the server has closed the session, or is gone";
            self.printer.say(text, &json!({"event": "closed"}))?;
        } else {
            // The user did not wait for these.
            self.sent -= self.waiting.len() as u64;
        }
        // Nothing hangs on whether the server hears of it.
        let _ = self.connected.engine.close_all(PATIENCE);
        let answered = self.times.count();
        let lost = self.sent - answered;
        let mut object = self.times.to_json();
        object["event"] = json!("summary");
        object["sent"] = json!(self.sent);
        object["answered"] = json!(answered);
        object["lost"] = json!(lost);
        let percent = 100.0 * lost as f64 / self.sent.max(1) as f64;
        let [min, p50, p99, max] = [
            self.times.min_ns(),
            self.times.quantile_ns(0.50),
            self.times.quantile_ns(0.99),
            self.times.max_ns(),
        ]
        .map(time);
        self.printer.say(
            format!(
                "\n{} sent, {answered} answered, {percent:.1} % lost\n\
                 round trip min {min}, p50 {p50}, p99 {p99}, max {max}",
                self.sent
            ),
            &object,
        )?;
        if lost == 0 && !self.closed {
            return Ok(());
        }
        Err(Error::Failed(format!("{lost} of {} RPCs were not answered", self.sent)))
    }
}

/// What RPC `number` carries: its number, then bytes that differ from their neighbours.
fn body(number: u64, size: u32) -> Vec<u8> {
    let mut body: Vec<u8> = (0..=250).collect();
    body.splice(0..0, number.to_be_bytes());
    let size = size as usize;
    while body.len() < size {
        body.extend_from_within(..body.len().min(size - body.len()));
    }
    body.truncate(size);
    body
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bodies_have_their_size_and_differ() {
        assert_eq!([0, 1, 8, 1000].map(|size| body(7, size).len()), [0, 1, 8, 1000]);
        assert_ne!(body(1, 64), body(2, 64));
    }

    #[test]
    fn an_interval_may_be_zero() {
        assert_eq!(interval("0"), Ok(0.0));
        assert_eq!(interval("0.2"), Ok(0.2));
        assert!(interval("-1").is_err());
    }
}
