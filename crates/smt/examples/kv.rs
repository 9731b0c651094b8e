//! A small key-value service: the server runs an [`smt::Engine`] on one thread, without a runtime
//! and without locks; the client uses tokio and many calls at once.
//!
//! ```text
//! smt pki dev pki
//! cargo run -p smt --example kv -- server 127.0.0.1:4434 pki
//! cargo run -p smt --example kv -- client 127.0.0.1:4434 pki localhost set colour blue
//! cargo run -p smt --example kv -- client 127.0.0.1:4434 pki localhost get colour
//! cargo run -p smt --example kv -- client 127.0.0.1:4434 pki localhost fill 10000
//! ```
//!
//! A request is one byte (`G`, `S` or `D`), the key's length as a byte, the key, and for `S` the
//! value. Clients need the certificate of the same CA; the application protocol is `smt/1+kv`.

use std::collections::HashMap;
use std::error::Error;
use std::net::SocketAddr;
use std::path::Path;
use std::time::Instant;

use smt::tls::{ClientAuth, ClientTls, Identity, Roots, ServerTls};
use smt::{Builder, CallError, DatapathKind, Event, Session};

/// The service's own error code.
const NOT_FOUND: u32 = 256;
/// The request makes no sense.
const BAD_REQUEST: u32 = 257;
const ALPN: &str = "smt/1+kv";

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match arguments[..] {
        ["server", address, pki] => serve(address.parse()?, Path::new(pki)),
        ["client", address, pki, name, ref command @ ..] => {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
            runtime.block_on(client(address.parse()?, Path::new(pki), name, command))
        }
        _ => Err("usage: kv server ADDR:PORT PKI | kv client ADDR:PORT PKI NAME COMMAND".into()),
    }
}

fn serve(address: SocketAddr, pki: &Path) -> Result<(), Box<dyn Error>> {
    let identity = Identity::from_pem_files(pki.join("server.pem"), pki.join("server.key"))?;
    let clients = Roots::from_pem_file(pki.join("ca.pem"))?;
    let tls = ServerTls::builder(identity)
        .client_auth(ClientAuth::Required(clients))
        .application_protocols([ALPN])
        .build()?;
    let mut engine = builder().bind(address.ip()).server(address.port(), tls).engine()?;
    println!("listening on {address}");
    let mut store: HashMap<Vec<u8>, Vec<u8>> = HashMap::new();
    while let Some(event) = engine.next(None)? {
        if let Event::Request { rpc, body, .. } = event {
            match execute(&mut store, &body) {
                Ok(value) => engine.reply(rpc, value),
                Err((code, text)) => engine.refuse(rpc, code, text),
            };
        }
    }
    Ok(())
}

fn execute(
    store: &mut HashMap<Vec<u8>, Vec<u8>>,
    request: &[u8],
) -> Result<Vec<u8>, (u32, &'static str)> {
    let bad = (BAD_REQUEST, "not a request");
    let (&[operation, key_len], rest) = request.split_first_chunk().ok_or(bad)?;
    let (key, value) = rest.split_at_checked(key_len.into()).ok_or(bad)?;
    let absent = (NOT_FOUND, "no such key");
    match operation {
        b'G' => store.get(key).cloned().ok_or(absent),
        b'S' => {
            store.insert(key.to_vec(), value.to_vec());
            Ok(Vec::new())
        }
        b'D' => store.remove(key).map(|_| Vec::new()).ok_or(absent),
        _ => Err(bad),
    }
}

async fn client(
    address: SocketAddr,
    pki: &Path,
    name: &str,
    command: &[&str],
) -> Result<(), Box<dyn Error>> {
    let identity = Identity::from_pem_files(pki.join("client.pem"), pki.join("client.key"))?;
    let roots = Roots::from_pem_file(pki.join("ca.pem"))?;
    let tls = ClientTls::builder(roots).identity(identity).application_protocols([ALPN]).build()?;
    let endpoint = builder().client(tls).endpoint()?;
    let session = endpoint.connect(address, name).await?;
    match command {
        ["get", key] => match request(&session, b'G', key, "").await {
            Ok(value) => println!("{}", String::from_utf8_lossy(&value)),
            Err(CallError::Refused(reply)) if reply.code == NOT_FOUND => println!("(not found)"),
            Err(error) => return Err(error.into()),
        },
        ["set", key, value] => drop(request(&session, b'S', key, value).await?),
        ["delete", key] => drop(request(&session, b'D', key, "").await?),
        ["fill", count] => fill(&session, count.parse()?).await?,
        _ => return Err("commands: get KEY, set KEY VALUE, delete KEY, fill COUNT".into()),
    }
    endpoint.close().await;
    Ok(())
}

async fn request(
    session: &Session,
    operation: u8,
    key: &str,
    value: &str,
) -> Result<smt::Body, CallError> {
    let call = session.call_with(|body| {
        // Longer keys than 255 bytes are refused by the server as making no sense.
        body.extend([operation, u8::try_from(key.len()).unwrap_or(u8::MAX)]);
        body.extend(key.as_bytes());
        body.extend(value.as_bytes());
    });
    call.await
}

/// Sets `count` keys with 64 calls at once: messages do not wait for each other.
async fn fill(session: &Session, count: u32) -> Result<(), Box<dyn Error>> {
    let start = Instant::now();
    let mut running = tokio::task::JoinSet::new();
    for number in 0..count {
        let session = session.clone();
        running.spawn(async move {
            request(&session, b'S', &format!("key-{number}"), "value").await.map(drop)
        });
        if running.len() >= 64
            && let Some(done) = running.join_next().await
        {
            done??;
        }
    }
    while let Some(done) = running.join_next().await {
        done??;
    }
    println!("{count} keys set in {:?}", start.elapsed());
    Ok(())
}

fn builder() -> Builder {
    match std::env::var("SMT_DATAPATH").as_deref() {
        Ok("udp") => Builder::new().datapath(DatapathKind::Udp),
        _ => Builder::new(),
    }
}
