//! `smt call`: one RPC.

use std::fs::{self, File};
use std::io::{self, IsTerminal, Read, Write};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime};

use bytes::Bytes;
use clap::Args;
use indicatif::{ProgressBar, ProgressStyle};
use serde_json::json;
use smt::tls::ClientTls;
use smt::{Body, CallError, CallOptions, Engine, Event, RpcId, SessionId};

use super::Error;
use super::early::{ClientOptions, EarlyRequest, write_ticket};
use super::options::{Client, Connected, Transport, seconds};
use crate::output::{Printer, hex, nanoseconds};
use crate::stop::Stop;

const ABOUT: &str = "\
Send one request and write its response

The request is TEXT, a file (--input FILE) or standard input (--input -); the response goes to standard output or to a \
file. Both may be long: a bar on standard error then shows how far they are, if that is a terminal.";

const EXAMPLES: &str = "\
Examples:
  A server that lets everybody in:
    smt call 127.0.0.1 hello --ca certs/ca.pem

  One that asks for a certificate (smt serve --client-ca), over UDP:
    date | smt call 127.0.0.1 --input - --datapath udp --ca certs/ca.pem \\
        --cert certs/client.pem --key certs/client.key

  With the first packet, to a server that runs with --early; from the second
  time on there is a ticket:
    smt call 127.0.0.1 hello --early --ticket-store mine --ca certs/ca.pem

  The same with a ticket from the server's own file, or from DNS:
    smt call 127.0.0.1 hello --early --ticket ticket --ca certs/ca.pem
    smt call server.example hello --early --ticket-dns system \\
        --ca certs/ca.pem

  A file, to a server whose certificate does not hold its address:
    smt call 10.0.0.2:4433 --input backup.tar --output echo.tar \\
        --ca certs/ca.pem --name localhost

Exit status:
  0  there is a response, and it was written whole
  1  no response (refused, deadline passed, ...), or it could not be written
  2  wrong usage
  3  no session with the server

With --json, standard output gets one object: response {request_bytes, response_bytes, time_ns, handshake_ns, early, \
resumed, forward_secret}, with --early not_early and why if the request did not go with the first packet, and, unless \
--output is given, the response itself as `text`, or as `hex` if it is not UTF-8 (with --early, time_ns counts from \
the first packet); or error {exit_status, text}. What keeps a request from going early, or a ticket from being kept, \
is told on standard error and changes nothing else.";

/// Bodies from this size on, in bytes, are worth a progress bar.
const LONG: u64 = 1 << 20;
/// How long the session may take to end.
const PATIENCE: Duration = Duration::from_millis(200);
/// How long the server's ticket may take after its response.
const TICKET_PATIENCE: Duration = Duration::from_millis(300);
/// How often it moves.
const REDRAW: Duration = Duration::from_millis(50);

/// The arguments of `smt call`.
#[derive(Debug, Args)]
#[command(about = "Send one request and write its response", long_about = ABOUT, after_help = EXAMPLES)]
pub struct Arguments {
    #[command(flatten)]
    client: Client,
    /// The request
    #[arg(value_name = "TEXT", required_unless_present = "input")]
    text: Option<String>,
    /// Take the request from this file; `-` is standard input
    #[arg(long, short, value_name = "FILE", conflicts_with = "text")]
    input: Option<PathBuf>,
    /// Write the response to this file; `-` is standard output
    #[arg(long, short, value_name = "FILE")]
    output: Option<PathBuf>,
    /// How long the call may take, in seconds
    #[arg(long, value_name = "SECONDS", default_value_t = 30.0, value_parser = seconds)]
    deadline: f64,
    #[command(flatten)]
    early: ClientOptions,
    /// Options of the transport.
    #[command(flatten)]
    pub transport: Transport,
}

/// Makes the call.
///
/// # Errors
/// Whatever keeps the response from being written.
pub fn run(arguments: &Arguments) -> Result<(), Error> {
    let request = request(arguments)?;
    let request_bytes = request.len();
    let stop = Stop::on_signals().map_err(Error::io("cannot handle signals"))?;
    let interrupted = || Error::Failed("interrupted".to_owned());
    let request = Bytes::from(request);
    let deadline = Duration::from_secs_f64(arguments.deadline);
    let early = arguments.early.early.then(|| EarlyRequest {
        options: &arguments.early,
        body: request.clone(),
        deadline,
    });
    let connected = arguments
        .client
        .connect_calling(&arguments.transport, &stop, early.as_ref())?
        .ok_or_else(interrupted)?;
    let handshake_ns = nanoseconds(connected.handshake);
    let Connected { mut engine, session, info, early: first, tls, name, start, no_ticket, .. } =
        connected;
    let not_early = (arguments.early.early && !info.early)
        .then(|| no_ticket.unwrap_or_else(|| "the server did not take it".to_owned()));
    if let Some(why) = &not_early {
        eprintln!("smt: not in the first packet: {why}");
    }
    let (result, time_ns) = match (first, arguments.early.early) {
        (Some((result, time)), _) => (result.map(Some).map_err(Error::from), nanoseconds(time)),
        (None, true) => {
            let result = wait(&mut engine, None, &stop);
            (result, nanoseconds(start.elapsed()))
        }
        (None, false) => {
            let start = Instant::now();
            let result = call(&mut engine, session, request, deadline, &stop);
            (result, nanoseconds(start.elapsed()))
        }
    };
    if let Some(file) = &arguments.early.ticket_store {
        // The response is worth more than the next one's haste.
        if let Err(error) = keep_ticket(&mut engine, &tls, &name, info.remote.port(), file) {
            eprintln!("smt: the server's ticket is not kept: {}", error.explain());
        }
    }
    // Nothing hangs on whether the server learns at once that we are gone.
    let _ = engine.close_all(PATIENCE);
    let response = result?.ok_or_else(interrupted)?;
    let mut object = json!({
        "event": "response", "request_bytes": request_bytes, "response_bytes": response.len(),
        "time_ns": time_ns, "handshake_ns": handshake_ns, "early": info.early,
        "resumed": info.resumed, "forward_secret": info.forward_secret,
    });
    if let Some(why) = not_early {
        object["not_early"] = json!(why);
    }
    let printer = Printer::new(arguments.transport.json);
    match &arguments.output {
        Some(file) if file.as_os_str() != "-" => {
            fs::write(file, &response[..])
                .map_err(Error::io(format!("cannot write {}", file.display())))?;
        }
        _ if printer.is_json() => match std::str::from_utf8(&response) {
            Ok(text) => object["text"] = json!(text),
            Err(_) => object["hex"] = json!(hex(&response)),
        },
        _ => {
            let mut out = io::stdout().lock();
            out.write_all(&response)?;
            if out.is_terminal() && !response.ends_with(b"\n") {
                writeln!(out)?;
            }
            out.flush()?;
        }
    }
    Ok(printer.object(&object)?)
}

fn request(arguments: &Arguments) -> Result<Vec<u8>, Error> {
    let Some(file) = &arguments.input else {
        return Ok(arguments.text.clone().unwrap_or_default().into_bytes());
    };
    let mut bytes = Vec::new();
    let read = if file.as_os_str() == "-" {
        io::stdin().lock().read_to_end(&mut bytes)
    } else {
        File::open(file).and_then(|mut file| file.read_to_end(&mut bytes))
    };
    read.map_err(Error::io(format!("cannot read {}", file.display())))?;
    Ok(bytes)
}

/// The response; `None` if the user stopped it.
fn call(
    engine: &mut Engine,
    session: SessionId,
    request: Bytes,
    deadline: Duration,
    stop: &Stop,
) -> Result<Option<Body>, Error> {
    let options = CallOptions { deadline: Some(deadline), user: 0 };
    let rpc = engine.call(session, request, options).map_err(CallError::from)?;
    wait(engine, Some(rpc), stop)
}

/// Waits for the response to the only call there is; `rpc` names it if it is to be shown and, when the user
/// stops it, cancelled.
fn wait(engine: &mut Engine, rpc: Option<RpcId>, stop: &Stop) -> Result<Option<Body>, Error> {
    let mut bar = Bar::default();
    let mut result = None;
    while result.is_none() && !stop.is_set() {
        match engine.next(Some(REDRAW)).map_err(Error::io("the datapath failed"))? {
            Some(Event::Response { result: ended, .. }) => result = Some(ended),
            Some(Event::EarlyCallFailed { error, .. }) => result = Some(Err(error)),
            _ => bar.show(rpc.and_then(|rpc| engine.progress(rpc))),
        }
    }
    bar.clear();
    if let (None, Some(rpc)) = (&result, rpc) {
        engine.cancel(rpc);
    }
    Ok(result.transpose()?)
}

/// Waits a little for the ticket that the server may send, and keeps it.
fn keep_ticket(
    engine: &mut Engine,
    tls: &ClientTls,
    name: &str,
    port: u16,
    file: &Path,
) -> Result<(), Error> {
    let until = Instant::now() + TICKET_PATIENCE;
    loop {
        if let Some(ticket) = tls.tickets().get(name, port, SystemTime::now()) {
            return write_ticket(file, ticket.ticket());
        }
        let Some(left) = until.checked_duration_since(Instant::now()) else { return Ok(()) };
        engine.next(Some(left)).map_err(Error::io("the datapath failed"))?;
    }
}

/// A bar on standard error, of requests while they go and of responses while they come.
#[derive(Default)]
struct Bar {
    bar: Option<ProgressBar>,
    of_response: bool,
}

impl Bar {
    /// Shows an engine's progress of a call: request sent, in all, response received, in all.
    fn show(&mut self, progress: Option<[u32; 4]>) {
        let Some([sent, request, received, response]) = progress else { return };
        let of_response = response > 0;
        let (done, all) = if of_response { (received, response) } else { (sent, request) };
        if u64::from(all) < LONG || !io::stderr().is_terminal() {
            return;
        }
        if self.of_response != of_response {
            self.clear();
            self.of_response = of_response;
        }
        let bar = self.bar.get_or_insert_with(|| {
            let what = if of_response { "receiving" } else { "sending" };
            ProgressBar::new(u64::from(all)).with_style(style()).with_message(what)
        });
        bar.set_position(u64::from(done));
    }

    fn clear(&mut self) {
        if let Some(bar) = self.bar.take() {
            bar.finish_and_clear();
        }
    }
}

fn style() -> ProgressStyle {
    let template = "{msg:9} {bar:30} {bytes}/{total_bytes} {bytes_per_sec} {eta}";
    ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar())
}
