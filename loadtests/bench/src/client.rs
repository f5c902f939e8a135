//! Just enough of HTTP/1.1 to wait for the gateway and to make the counters that are then measured.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use anyhow::{Context, Result, bail};

const TIMEOUT: Duration = Duration::from_secs(10);

/// A connection that is kept for the next request.
pub(crate) struct Connection {
    reader: BufReader<TcpStream>,
}

impl Connection {
    pub(crate) fn open(port: u16) -> Result<Self> {
        let stream = TcpStream::connect_timeout(&SocketAddr::from(([127, 0, 0, 1], port)), TIMEOUT)?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(TIMEOUT))?;
        Ok(Self { reader: BufReader::new(stream) })
    }

    /// Status and body.
    pub(crate) fn send(&mut self, method: &str, path: &str, body: &str) -> Result<(u16, String)> {
        let length = body.len();
        let head = format!("{method} {path} HTTP/1.1\r\nHost: berth\r\nContent-Type: application/json\r\n");
        let request = format!("{head}Content-Length: {length}\r\n\r\n{body}");
        self.reader.get_mut().write_all(request.as_bytes())?;
        self.answer()
    }

    fn answer(&mut self) -> Result<(u16, String)> {
        let first = self.line()?;
        let status = first.split(' ').nth(1).and_then(|status| status.parse().ok());
        let status = status.with_context(|| format!("{first:?} is not how HTTP answers"))?;
        let mut length = 0;
        loop {
            let line = self.line()?;
            if line.is_empty() {
                break;
            }
            let Some((name, value)) = line.split_once(':') else { bail!("{line:?} is no header") };
            if name.eq_ignore_ascii_case("content-length") {
                length = value.trim().parse::<usize>().context("the length of the answer is no number")?;
            }
        }
        let mut body = vec![0; length.min(1 << 20)];
        self.reader.read_exact(&mut body)?;
        Ok((status, String::from_utf8(body)?))
    }

    fn line(&mut self) -> Result<String> {
        let mut line = String::new();
        if self.reader.read_line(&mut line)? == 0 {
            bail!("the connection was closed");
        }
        Ok(line.trim_end().to_owned())
    }
}

/// Makes every counter, so that reads find one; also the proof that every shard answers.
pub(crate) fn create_counters(port: u16, count: u32) -> Result<()> {
    let mut connection = Connection::open(port)?;
    for number in 0..count {
        let path = format!("/v1/entities/counter/bench-{number}/add");
        let (status, body) = connection.send("POST", &path, "{\"by\":1}")?;
        if status != 200 {
            bail!("POST {path} was answered with {status}: {body}");
        }
    }
    Ok(())
}
