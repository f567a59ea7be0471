//! What the programs under test say of themselves over HTTP on 127.0.0.1.

use crate::error::{IoContext, LabError, Result};
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

const LIMIT: Duration = Duration::from_secs(1);

/// The answer to a GET, head and all.
///
/// # Errors
/// Nobody answers within a second.
pub fn get(port: u16, path: &str) -> Result<String> {
    let ask = || -> std::io::Result<String> {
        let address = SocketAddr::from(([127, 0, 0, 1], port));
        let mut stream = TcpStream::connect_timeout(&address, LIMIT)?;
        stream.set_read_timeout(Some(LIMIT))?;
        let request = format!("GET {path} HTTP/1.1\r\nHost: lab\r\nConnection: close\r\n\r\n");
        stream.write_all(request.as_bytes())?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        Ok(answer)
    };
    ask().doing(|| format!("get {path} from port {port}"))
}

/// Whether `/readyz` says yes.
#[must_use]
pub fn is_ready(port: u16) -> bool {
    get(port, "/readyz").is_ok_and(|answer| answer.starts_with("HTTP/1.1 200"))
}

/// The value of a metric in `/metrics`; `series` is its name with its labels as they are written.
///
/// # Errors
/// Nobody answers, or there is no such series.
pub fn metric(port: u16, series: &str) -> Result<f64> {
    let page = get(port, "/metrics")?;
    value_in(&page, series)
        .ok_or_else(|| LabError::Check(format!("port {port} exports no metric {series}")))
}

fn value_in(page: &str, series: &str) -> Option<f64> {
    page.lines().find_map(|line| {
        let value = line.strip_prefix(series)?.strip_prefix(' ')?;
        value.trim().parse().ok()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_series_is_found_by_its_whole_name() {
        let page = "# TYPE a gauge\na_b 3\na{x=\"1\"} 2\na 1\n";
        assert_eq!(value_in(page, "a"), Some(1.0));
        assert_eq!(value_in(page, "a{x=\"1\"}"), Some(2.0));
        assert_eq!(value_in(page, "c"), None);
    }
}
