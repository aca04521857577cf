//! Debian's nginx in the gateway's place: as many workers, connections kept on both sides, a request id, no log.

use std::net::SocketAddr;
use std::path::Path;
use std::process::Command;

use anyhow::{Context as _, Result};

/// What starts it on `listen`, before `upstream`.
pub(crate) fn command(
    folder: &Path,
    listen: SocketAddr,
    upstream: SocketAddr,
    workers: usize,
) -> Result<Command> {
    let folder = folder.join("nginx");
    std::fs::create_dir_all(&folder)?;
    let path = folder.display();
    let config = format!(
        "daemon off; worker_processes {workers}; pid {path}/pid; error_log {path}/error.log error;
events {{ worker_connections 4096; }}
http {{
  access_log off; server_tokens off;
  client_body_temp_path {path}/body; proxy_temp_path {path}/proxy; fastcgi_temp_path {path}/f; uwsgi_temp_path {path}/u; scgi_temp_path {path}/s;
  keepalive_requests 100000000;
  upstream function {{ server {upstream}; keepalive 256; keepalive_requests 100000000; }}
  server {{
    listen {listen} reuseport backlog=1024;
    location / {{
      proxy_pass http://function; proxy_http_version 1.1;
      proxy_set_header Connection \"\"; proxy_set_header Host $host;
      proxy_set_header X-Forwarded-For $proxy_add_x_forwarded_for; proxy_set_header X-Forwarded-Proto $scheme;
      proxy_set_header X-Request-Id $request_id; add_header X-Request-Id $request_id;
    }}
  }}
}}
"
    );
    let file = folder.join("nginx.conf");
    std::fs::write(&file, config)?;
    let program = ["/usr/sbin/nginx", "/usr/local/sbin/nginx"]
        .into_iter()
        .find(|path| Path::new(path).exists())
        .context("nginx is missing: it is a package of Debian's")?;
    let mut command = Command::new(program);
    command.arg("-c").arg(&file).arg("-p").arg(&folder);
    Ok(command)
}
