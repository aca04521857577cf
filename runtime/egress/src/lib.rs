//! Outbound HTTP for guests: an allow-list checked on resolved addresses and a pooled client.
