//! Serves an empty cluster: `cargo run -p overlane-apiserver --example serve -- 127.0.0.1:8001`, then
//! `kubectl -s http://127.0.0.1:8001 get namespaces`.

use overlane_apiserver::ApiServer;

#[tokio::main]
async fn main() -> std::io::Result<()> {
    let address = std::env::args().nth(1).unwrap_or_else(|| "127.0.0.1:8001".to_owned());
    let listener = std::net::TcpListener::bind(&address)?;
    println!("kubectl -s http://{} get namespaces", listener.local_addr()?);
    ApiServer::new().serve(listener, std::future::pending()).await
}
