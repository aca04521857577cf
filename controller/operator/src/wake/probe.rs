//! Whether a replica serves, asked of itself: the kubelet's word comes up to a second later.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::{sleep, timeout};

/// How often it is asked.
const INTERVAL: Duration = Duration::from_millis(3);
/// One question takes no longer, or is asked anew: a packet may be lost while the pod's network comes up.
const PATIENCE: Duration = Duration::from_millis(250);

/// Asks for `path` at `port` until it is answered with 200.
pub(crate) async fn until_ready(address: IpAddr, port: u16, path: &str) {
    let address = SocketAddr::new(address, port);
    loop {
        if let Ok(Ok(true)) = timeout(PATIENCE, is_ready(address, path)).await {
            return;
        }
        sleep(INTERVAL).await;
    }
}

async fn is_ready(address: SocketAddr, path: &str) -> std::io::Result<bool> {
    let mut stream = TcpStream::connect(address).await?;
    stream.set_nodelay(true)?;
    let request = format!("GET {path} HTTP/1.1\r\nhost: {address}\r\nconnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await?;
    let mut head = [0; 12];
    stream.read_exact(&mut head).await?;
    Ok(&head == b"HTTP/1.1 200")
}

#[cfg(test)]
mod tests {
    use tokio::net::TcpListener;

    use super::*;

    /// Would fail if a replica that still loads were taken for one that serves.
    #[tokio::test]
    async fn a_replica_is_asked_until_it_says_yes() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let server = tokio::spawn(async move {
            let answers = [
                "",
                "HTTP/1.1 503 Service Unavailable\r\n\r\n",
                "HTTP/1.1 200 OK\r\n\r\n",
            ];
            for answer in answers {
                let (mut stream, _) = listener.accept().await.unwrap();
                let mut request = [0; 64];
                let _ = stream.read(&mut request).await.unwrap();
                stream.write_all(answer.as_bytes()).await.unwrap();
            }
        });
        timeout(
            Duration::from_secs(10),
            until_ready(address.ip(), address.port(), "/readyz"),
        )
        .await
        .unwrap();
        server.await.unwrap();
    }
}
