//! `smt ticket`: the tickets by which first requests travel with the first packet.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use clap::{Args, Subcommand};
use serde_json::{Value, json};
use smt::Event;
use smt::ticket::dns::{TicketResolver, TicketServer, TicketZone};
use smt::ticket::{Ticket, TicketError};
use smt::tls::{ClientTls, Roots};

use super::Error;
use super::early::write_ticket;
use super::options::{Client, DEFAULT_PORT, Transport, suite_name};
use super::serve::address_and_port;
use crate::output::{Printer, hex};
use crate::stop::{LOOK_EVERY, Stop};

const ABOUT: &str = "\
Look at, verify, fetch and publish tickets for early data (0-RTT)

A ticket is a public key that a server has signed with its certificate's key. A client that has one sends its first \
request with the first packet, encrypted to it. Tickets are no secret and live for an hour at most; they come from a \
file that the server keeps (smt serve --early --ticket-file), from DNS, or from the server at the end of a handshake.";

const EXAMPLES: &str = "\
Examples:
  What is in a ticket, and whether it is the word of that server:
    smt ticket show ticket
    smt ticket verify ticket --ca certs/ca.pem --name localhost

  Get one of the server itself, or from DNS:
    smt ticket fetch 127.0.0.1 --ca certs/ca.pem --output ticket
    smt ticket fetch server.example --dns 10.0.0.53 \\
        --ca certs/ca.pem --output ticket

  Publish the ticket that `smt serve` keeps in a file, in DNS under the name
  _4433._smt.server.example (clients ask for it with --ticket-dns):
    smt ticket serve --ticket-file ticket --host server.example \\
        --listen 10.0.0.53:53

Exit status: 0 done, 1 failed (verify: the ticket is not to be trusted), 2 wrong usage, 3 no session with the server.

JSON events: ticket, verified, fetched {id, not_before, not_after, kem, suite, alpn, max_early, certificates, bytes}, \
times in seconds since 1970; listening {address, name}; error {exit_status, text}.";

/// The arguments of `smt ticket`.
#[derive(Debug, Args)]
#[command(about = "Look at, verify, fetch and publish tickets for early data", long_about = ABOUT, after_help = EXAMPLES)]
pub struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
#[allow(clippy::large_enum_variant, reason = "one is parsed per run")]
enum Command {
    /// Say what is in a ticket, without verifying it
    Show {
        /// The ticket
        file: PathBuf,
        #[command(flatten)]
        style: Style,
    },
    /// Check a ticket as a client does: certificate, name, signature, time
    Verify {
        /// The ticket
        file: PathBuf,
        /// Certificates of the authorities that may vouch for the server (PEM)
        #[arg(long, value_name = "FILE")]
        ca: PathBuf,
        /// What clients call the server
        #[arg(long)]
        name: String,
        #[command(flatten)]
        style: Style,
    },
    /// Get a server's ticket, of itself or from DNS, and verify it
    Fetch {
        #[command(flatten)]
        client: Client,
        /// Ask this DNS server instead of the server itself; `system` is the one of this host
        #[arg(long, value_name = "ADDR[:PORT]")]
        dns: Option<String>,
        /// Where the ticket goes
        #[arg(long, short, value_name = "FILE")]
        output: PathBuf,
        #[command(flatten)]
        transport: Transport,
    },
    /// Publish the ticket in a file by DNS, as an authoritative server for that one name, until Ctrl-C
    Serve {
        /// The ticket; looked at again for each question
        #[arg(long, value_name = "FILE")]
        ticket_file: PathBuf,
        /// What clients call the server
        #[arg(long, value_name = "NAME")]
        host: String,
        /// The server's SMT port
        #[arg(long, value_name = "PORT", default_value_t = DEFAULT_PORT)]
        port: u16,
        /// Address and port to answer DNS at, over UDP and TCP
        #[arg(long, value_name = "ADDR:PORT", default_value = "0.0.0.0:53", value_parser = address_and_port)]
        listen: SocketAddr,
        #[command(flatten)]
        style: Style,
    },
}

#[derive(Debug, Args)]
struct Style {
    /// One JSON object per line on standard output, for programs
    #[arg(long)]
    json: bool,
}

impl Arguments {
    /// Whether programs read what is said.
    #[must_use]
    pub fn is_json(&self) -> bool {
        match &self.command {
            Command::Show { style, .. }
            | Command::Verify { style, .. }
            | Command::Serve { style, .. } => style.json,
            Command::Fetch { transport, .. } => transport.json,
        }
    }
}

/// Does what `arguments` ask for.
///
/// # Errors
/// A ticket that cannot be had or is not to be trusted, or a file that cannot be written.
pub fn run(arguments: &Arguments) -> Result<(), Error> {
    let printer = Printer::new(arguments.is_json());
    match &arguments.command {
        Command::Show { file, .. } => {
            let ticket = Ticket::from_file(file).map_err(failed)?;
            Ok(printer.say(text_of(&ticket), &object_of("ticket", &ticket))?)
        }
        Command::Verify { file, ca, name, .. } => {
            let ticket = Ticket::from_file(file).map_err(failed)?;
            let tls = ClientTls::builder(Roots::from_pem_file(ca)?).build()?;
            tls.verify_ticket(&ticket, name, SystemTime::now()).map_err(failed)?;
            let text = format!("the ticket is the word of {name}\n{}", text_of(&ticket));
            Ok(printer.say(text, &object_of("verified", &ticket))?)
        }
        Command::Fetch { client, dns, output, transport } => {
            fetch(client, dns.as_deref(), output, transport, printer)
        }
        Command::Serve { ticket_file, host, port, listen, .. } => {
            serve(ticket_file, host, *port, *listen, printer)
        }
    }
}

fn failed(error: TicketError) -> Error {
    Error::Failed(error.to_string())
}

fn fetch(
    client: &Client,
    dns: Option<&str>,
    output: &Path,
    transport: &Transport,
    printer: Printer,
) -> Result<(), Error> {
    let ticket = match dns {
        Some(server) => {
            let (name, port) = client.server_name_and_port()?;
            let ticket = fetch_from_dns(server, &name, port)?.map_err(failed)?;
            let tls = client.tls(transport)?;
            tls.verify_ticket(&ticket, &name, SystemTime::now()).map_err(failed)?;
            ticket
        }
        None => fetch_from_server(client, transport)?,
    };
    write_ticket(output, &ticket)?;
    Ok(printer.say(text_of(&ticket), &object_of("fetched", &ticket))?)
}

/// How long a server's ticket may take after the handshake.
const TICKET_PATIENCE: Duration = Duration::from_secs(2);

fn fetch_from_server(client: &Client, transport: &Transport) -> Result<Ticket, Error> {
    let stop = Stop::on_signals().map_err(Error::io("cannot handle signals"))?;
    let connected = client.connect(transport, &stop)?;
    let mut engine = connected.ok_or_else(|| Error::Failed("interrupted".to_owned()))?.engine;
    let until = Instant::now() + TICKET_PATIENCE;
    let mut found = None;
    while found.is_none() && Instant::now() < until && !stop.is_set() {
        let event = engine.next(Some(LOOK_EVERY)).map_err(Error::io("the datapath failed"))?;
        if let Some(Event::NewTicket { ticket, .. }) = event {
            found = Some(ticket.ticket().clone());
        }
    }
    let _ = engine.close_all(Duration::from_millis(200));
    let none = "the server has sent no ticket: does it run with --early?";
    found.ok_or_else(|| Error::Failed(none.to_owned()))
}

/// Asks a DNS server, or `system`, for the ticket of a server.
///
/// # Errors
/// The DNS server cannot be meant. Whatever else is wrong is in the inner result.
pub(super) fn fetch_from_dns(
    dns_server: &str,
    server_name: &str,
    port: u16,
) -> Result<Result<Ticket, TicketError>, Error> {
    let resolver = match dns_server {
        "system" => TicketResolver::from_system(),
        text => {
            let address = text
                .parse()
                .or_else(|_| text.parse().map(|ip| SocketAddr::new(ip, 53)))
                .map_err(|_| Error::Usage(format!("`{text}` is not `system` or ADDR[:PORT]")))?;
            TicketResolver::with_servers(&[address])
        }
    };
    let resolver = match resolver {
        Ok(resolver) => resolver,
        Err(error) => return Ok(Err(error)),
    };
    let found = runtime()?.block_on(resolver.lookup(server_name, port));
    Ok(found.and_then(|tickets| {
        let none = || TicketError::NoRecord { name: server_name.to_owned() };
        tickets.into_iter().next().ok_or_else(none)
    }))
}

fn runtime() -> Result<tokio::runtime::Runtime, Error> {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(Error::io("cannot make a runtime"))
}

fn serve(
    ticket_file: &Path,
    host: &str,
    port: u16,
    listen: SocketAddr,
    printer: Printer,
) -> Result<(), Error> {
    let stop = Stop::on_signals().map_err(Error::io("cannot handle signals"))?;
    // What is wrong with the file is told now, not with the first question.
    let ticket = Ticket::from_file(ticket_file).map_err(failed)?;
    let file = ticket_file.to_owned();
    let zone = TicketZone::new()
        .serve(host, port, move |_| Ticket::from_file(&file).ok())
        .map_err(failed)?;
    runtime()?.block_on(async {
        let cannot = format!("cannot answer DNS at {listen}");
        let server = TicketServer::bind(listen, zone).await.map_err(Error::io(cannot))?;
        let (name, address) = (format!("_{port}._smt.{host}"), server.local_addr());
        let text = format!("answering {name} at {address}; Ctrl-C ends\n{}", text_of(&ticket));
        printer.say(text, &json!({"event": "listening", "address": address, "name": name}))?;
        let stopped = async {
            while !stop.is_set() {
                tokio::time::sleep(LOOK_EVERY).await;
            }
        };
        tokio::select! {
            failed = server.run() => failed.map_err(Error::io("the DNS server failed")),
            () = stopped => Ok(()),
        }
    })
}

fn text_of(ticket: &Ticket) -> String {
    let (from, until) = ticket.validity();
    let left = until.saturating_sub(now());
    let left = if left == 0 { "expired".to_owned() } else { format!("{left} s left") };
    let lines = [
        ("ticket", hex(ticket.id())),
        ("valid", format!("for {} s, {left}", until.saturating_sub(from))),
        ("key", format!("{:?}", ticket.kem())),
        ("cipher suite", suite_name(ticket.suite()).to_owned()),
        ("application protocol", String::from_utf8_lossy(ticket.alpn()).into_owned()),
        ("early requests", format!("{} bytes at most", ticket.max_early())),
        ("certificates", ticket.certificates().count().to_string()),
        ("size", format!("{} bytes", ticket.bytes().len())),
    ];
    let lines = lines.map(|(what, text)| format!("  {what:21}{text}"));
    lines.join("\n")
}

fn object_of(event: &str, ticket: &Ticket) -> Value {
    let (from, until) = ticket.validity();
    json!({
        "event": event, "id": hex(ticket.id()), "not_before": from, "not_after": until,
        "kem": format!("{:?}", ticket.kem()), "suite": suite_name(ticket.suite()),
        "alpn": String::from_utf8_lossy(ticket.alpn()), "max_early": ticket.max_early(),
        "certificates": ticket.certificates().count(), "bytes": ticket.bytes().len(),
    })
}

fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}
