//! The metrics address: a page for Prometheus and nothing else.

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::Context;
use cairn::Exporter;
use cairn_env::{Env, TaskSet};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

/// Longest request taken, bytes.
const REQUEST_MAX: usize = 8 << 10;
/// A client that says nothing for this long is left.
const PATIENCE: Duration = Duration::from_secs(10);
/// Clients served at a time; more wait in the kernel's queue.
const CLIENTS_MAX: u64 = 16;

/// Serves `exporter` at `address`, or at another port of the same host if that is taken. Returns
/// the address.
pub(crate) async fn start(env: &Env, tasks: &TaskSet, address: &str, exporter: Exporter) -> anyhow::Result<SocketAddr> {
    let listener = match TcpListener::bind(address).await {
        Err(e) if e.kind() == std::io::ErrorKind::AddrInUse => {
            let host = address.rsplit_once(':').map_or(address, |(host, _)| host);
            TcpListener::bind(format!("{host}:0")).await
        }
        bound => bound,
    }
    .with_context(|| format!("listen on {address} for metrics"))?;
    let bound = listener.local_addr()?;
    let (env, all) = (env.clone(), tasks.clone());
    tasks.spawn(async move {
        let clients = cairn_env::Budget::new(CLIENTS_MAX);
        loop {
            let place = clients.acquire(1).await;
            let stream = tokio::select! {
                () = all.stopping() => return,
                accepted = listener.accept() => accepted,
            };
            match stream {
                Ok((stream, _)) => {
                    let (exporter, served) = (exporter.clone(), env.clone());
                    env.spawn(async move {
                        let _place = place;
                        if let Ok(Err(e)) = served.timeout(PATIENCE, serve(stream, &exporter)).await {
                            tracing::debug!(error = %e, "metrics client left");
                        }
                    });
                }
                Err(e) => {
                    // Out of descriptors, most likely: breathe instead of spinning.
                    tracing::warn!(error = %e, "metrics address does not accept");
                    if !all.rest(PATIENCE).await {
                        return;
                    }
                }
            }
        }
    });
    Ok(bound)
}

async fn serve(mut stream: TcpStream, exporter: &Exporter) -> std::io::Result<()> {
    let mut request = Vec::new();
    while !request.windows(4).any(|w| w == b"\r\n\r\n") {
        if request.len() > REQUEST_MAX || stream.read_buf(&mut request).await? == 0 {
            return Ok(());
        }
    }
    let line = request.split(|b| *b == b'\r').next().unwrap_or_default();
    let answer = respond(&String::from_utf8_lossy(line), || exporter.open_metrics());
    stream.write_all(answer.as_bytes()).await?;
    stream.shutdown().await
}

/// The answer to a request line.
fn respond(line: &str, metrics: impl FnOnce() -> String) -> String {
    let mut words = line.split(' ');
    let (method, target) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
    let path = target.split('?').next().unwrap_or_default();
    let (status, kind, body) = match (method, path) {
        ("GET" | "HEAD", "/metrics") => {
            ("200 OK", "application/openmetrics-text; version=1.0.0; charset=utf-8", metrics())
        }
        ("GET" | "HEAD", _) => ("404 Not Found", "text/plain", "metrics are at /metrics\n".to_owned()),
        _ => ("405 Method Not Allowed", "text/plain", "only GET\n".to_owned()),
    };
    let length = body.len();
    let body = if method == "HEAD" { "" } else { &body };
    format!("HTTP/1.1 {status}\r\nContent-Type: {kind}\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n{body}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_metrics_page_exists() {
        assert!(respond("GET /metrics HTTP/1.1", || "x 1\n".into()).ends_with("\r\n\r\nx 1\n"));
        assert!(
            respond("HEAD /metrics?a HTTP/1.1", || "x 1\n".into())
                .ends_with("Content-Length: 4\r\nConnection: close\r\n\r\n")
        );
        assert!(respond("GET / HTTP/1.1", String::new).starts_with("HTTP/1.1 404"));
        assert!(respond("POST /metrics HTTP/1.1", String::new).starts_with("HTTP/1.1 405"));
    }
}
