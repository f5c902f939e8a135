//! The contract of the public port as tables: a request a line, with what must be answered. All lines run in order against
//! one cluster, and everything that is answered otherwise is told at once. A line is added to the table where it belongs;
//! what needs a cluster that is configured otherwise has a test of its own, which gives [`hold`] its tables.
//!
//! Not in here, because a line cannot bring them about: 408, 409, 429, 500, 503 and 504, and what streams send. The gateway's
//! own tests hold those, with nodes that do as they are told; and 401 and 403, at gateways that ask for credentials.

mod calls;
mod conditions;
mod deletions;
mod past;
mod reading;
mod refusals;

use std::collections::HashMap;
use std::time::Duration;

use berth_shared::seam::BootInstant;
use serde_json::Value;

use crate::client::{Answer, Connection};
use crate::program::Local;

/// A request, and what it must come to.
pub(crate) struct Line {
    method: String,
    path: String,
    headers: Vec<(String, String)>,
    body: String,
    status: u16,
    /// Of a problem document; empty where the answer is none.
    code: String,
    /// Places and their contents: `/state/value` is a JSON Pointer into the body and its content JSON, anything else a
    /// header. `*` stands for any content, `-` for none. `=name` keeps the content under a name, and `{name}` stands for it
    /// in paths and headers of later lines.
    expected: Vec<(String, String)>,
}

/// What lines have kept, by name, and since when.
type Kept = HashMap<String, (String, BootInstant)>;

/// A time that was kept can be asked for when it is more than a second ago.
const TIME: &str = "time";
const TIME_AGE_MIN: Duration = Duration::from_millis(1100);

/// `("GET", "/path", [("header", "value")], "body" => 404 "not-found", [("/version", "1")])`
macro_rules! lines {
    ($(($method:expr, $path:expr, [$($header:expr),*], $body:expr => $status:literal $code:expr, [$($expected:expr),*]),)*) => {
        vec![$($crate::contract::line($method, &$path, &[$($header),*], &$body, $status, $code, &[$($expected),*])),*]
    };
}
pub(crate) use lines;

pub(crate) fn line(
    method: &str,
    path: &str,
    headers: &[(&str, &str)],
    body: &str,
    status: u16,
    code: &str,
    expected: &[(&str, &str)],
) -> Line {
    let owned = |pairs: &[(&str, &str)]| pairs.iter().map(|(a, b)| ((*a).to_owned(), (*b).to_owned())).collect();
    let (method, path, body, code) = (method.to_owned(), path.to_owned(), body.to_owned(), code.to_owned());
    Line { method, path, headers: owned(headers), body, status, code, expected: owned(expected) }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_line_of_the_contract_holds() {
    let local = Local::start(&["--ephemeral"]).await;
    let tables = [
        calls::entities(),
        calls::kinds(),
        calls::descriptions(),
        deletions::deletions(),
        deletions::listings(),
        past::states(),
        reading::reads(),
        conditions::headers(),
        refusals::errors(),
    ];
    hold(&local, &tables).await;
    local.stop("INT").await;
}

/// Sends every line, and tells of all that do not hold.
async fn hold(local: &Local, tables: &[Vec<Line>]) {
    let (mut wrong, mut kept) = (Vec::new(), Kept::new());
    for line in tables.iter().flatten() {
        // A connection for each, because some refusals close it.
        let mut gateway = local.gateway().await;
        if let Err(why) = check(&mut gateway, local, line, &mut kept).await {
            let (path, body) = (shown(&line.path), shown(&line.body));
            wrong.push(format!("{} {path} {:?} {body}: {why}", line.method, line.headers));
        }
    }
    assert!(wrong.is_empty(), "{} lines do not hold:\n{}", wrong.len(), wrong.join("\n"));
}

async fn check(gateway: &mut Connection, local: &Local, line: &Line, kept: &mut Kept) -> Result<(), String> {
    let seams = &local.process.seams;
    if line.path.contains("{time}")
        && let Some((_, since)) = kept.get(TIME)
    {
        seams.spawner.sleep(TIME_AGE_MIN.saturating_sub(seams.clock.now().since(*since))).await;
    }
    let path = filled(&line.path, kept);
    let headers: Vec<(&str, String)> =
        line.headers.iter().map(|(name, value)| (name.as_str(), filled(value, kept))).collect();
    let headers: Vec<(&str, &str)> = headers.iter().map(|(name, value)| (*name, value.as_str())).collect();
    let answer = gateway.try_send(&line.method, &path, &headers, &line.body).await;
    let answer = answer.map_err(|error| format!("no answer: {error}"))?;
    if answer.status != line.status {
        return Err(format!("{} instead of {}: {}", answer.status, line.status, shown(answer.text())));
    }
    if !line.code.is_empty() {
        check_problem(&answer, line)?;
    }
    for (place, content) in &line.expected {
        let found = found(&answer, place);
        if let (Some(name), Some(found)) = (content.strip_prefix('='), &found) {
            let text = found.as_str().map_or_else(|| found.to_string(), str::to_owned);
            kept.insert(name.to_owned(), (text, seams.clock.now()));
            continue;
        }
        let fits = match filled(content, kept).as_str() {
            "*" => found.is_some(),
            "-" => found.is_none(),
            content if place.starts_with('/') => found == serde_json::from_str(content).ok(),
            content => found == Some(content.into()),
        };
        if !fits {
            return Err(format!("{place} is {found:?} instead of {content}"));
        }
    }
    Ok(())
}

/// What a problem document always has.
fn check_problem(answer: &Answer, line: &Line) -> Result<(), String> {
    let problem = answer.json();
    let path = line.path.split('?').next().unwrap_or_default();
    let expected = [
        ("type", Value::from(format!("urn:berth:problem:{}", line.code))),
        ("code", line.code.as_str().into()),
        ("status", line.status.into()),
        ("instance", path.into()),
    ];
    for (name, value) in expected {
        if problem[name] != value {
            return Err(format!("{name} is {} instead of {value}", problem[name]));
        }
    }
    let texts =
        ["title", "detail", "traceId"].iter().all(|name| problem[name].as_str().is_some_and(|text| !text.is_empty()));
    if !texts || answer.header("content-type") != "application/problem+json" {
        return Err(format!("not a whole problem document: {problem}"));
    }
    Ok(())
}

/// With what was kept in the place of its names.
fn filled(text: &str, kept: &Kept) -> String {
    kept.iter().fold(text.to_owned(), |text, (name, (value, _))| text.replace(&format!("{{{name}}}"), value))
}

fn found(answer: &Answer, place: &str) -> Option<Value> {
    if place.starts_with('/') {
        return serde_json::from_str::<Value>(answer.text()).ok()?.pointer(place).cloned();
    }
    let header = answer.header(place);
    (!header.is_empty()).then(|| header.into())
}

fn shown(text: &str) -> String {
    text.chars().take(200).collect()
}
