//! An echo server and a client over SMT, with tokio.
//!
//! ```text
//! smt pki dev pki
//! cargo run -p smt --example echo -- server 127.0.0.1:4433 pki
//! cargo run -p smt --example echo -- client 127.0.0.1:4433 pki localhost "hello"
//! ```
//!
//! Needs CAP_NET_RAW; without it, put `udp` in the environment variable `SMT_DATAPATH`.

use std::error::Error;
use std::net::SocketAddr;
use std::path::Path;

use smt::tls::{ClientAuth, ClientTls, Identity, Roots, ServerTls};
use smt::{Builder, DatapathKind};

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match arguments[..] {
        ["server", address, pki] => serve(address.parse()?, Path::new(pki)).await,
        ["client", address, pki, name, text] => {
            call(address.parse()?, Path::new(pki), name, text).await
        }
        _ => Err("usage: echo server ADDR:PORT PKI | echo client ADDR:PORT PKI NAME TEXT".into()),
    }
}

async fn serve(address: SocketAddr, pki: &Path) -> Result<(), Box<dyn Error>> {
    let identity = Identity::from_pem_files(pki.join("server.pem"), pki.join("server.key"))?;
    let clients = Roots::from_pem_file(pki.join("ca.pem"))?;
    let tls = ServerTls::builder(identity).client_auth(ClientAuth::Required(clients)).build()?;
    let endpoint = builder().bind(address.ip()).server(address.port(), tls).endpoint()?;
    println!("listening on {address}");
    while let Some(session) = endpoint.accept().await {
        println!("{} is {:?}", session.remote(), session.peer().dns_names());
        tokio::spawn(async move {
            while let Some(mut request) = session.accept().await {
                let body = request.take_body().into_vec();
                request.reply(body);
            }
        });
    }
    Ok(())
}

async fn call(
    address: SocketAddr,
    pki: &Path,
    name: &str,
    text: &str,
) -> Result<(), Box<dyn Error>> {
    let identity = Identity::from_pem_files(pki.join("client.pem"), pki.join("client.key"))?;
    let roots = Roots::from_pem_file(pki.join("ca.pem"))?;
    let tls = ClientTls::builder(roots).identity(identity).build()?;
    let endpoint = builder().client(tls).endpoint()?;
    let session = endpoint.connect(address, name).await?;
    let response = session.call(text.to_owned()).await?;
    println!("{}", String::from_utf8_lossy(&response));
    endpoint.close().await;
    Ok(())
}

fn builder() -> Builder {
    match std::env::var("SMT_DATAPATH").as_deref() {
        Ok("udp") => Builder::new().datapath(DatapathKind::Udp),
        _ => Builder::new(),
    }
}
