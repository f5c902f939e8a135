//! What an answer means by the contract. Pure.

use serde_json::Value;

use super::http::Answer;
use crate::history::{Call, NOTHING_THERE, OTHER_VERSION, Outcome, Write};

pub(super) fn outcome(call: &Call, answer: &Answer) -> Outcome {
    let nonsense = || Outcome::Nonsense { answer: format!("{answer:?}") };
    let replayed = answer.replayed;
    // Who is told of a version can always ask to see it again.
    if matches!(answer.status, 200 | 204) && answer.token.is_none() {
        return nonsense();
    }
    if (answer.status, call) == (204, &Call::Write(Write::Delete)) {
        let applied = |version| Outcome::Applied { version, state: Value::Null, replayed };
        return answer.version.map_or_else(nonsense, applied);
    }
    let Some(body) = answer.json() else { return nonsense() };
    let code = body["code"].as_str().unwrap_or_default();
    match (answer.status, call) {
        (200, _) => {
            let (Some(version), state) = (body["version"].as_u64(), body["state"].clone()) else { return nonsense() };
            match call {
                _ if state == Value::Null => nonsense(),
                Call::Write(_) => Outcome::Applied { version, state, replayed },
                Call::Read(_) => Outcome::State { version, state },
            }
        }
        (404, Call::Read(_)) if code == "not-found" => Outcome::Absent,
        (410, Call::Read(_)) if code == "deleted" => Outcome::Deleted,
        (404, Call::Write(Write::Delete)) if code == NOTHING_THERE => {
            Outcome::Rejected { reason: code.to_owned(), replayed }
        }
        (412, Call::Write(_)) if code == OTHER_VERSION => Outcome::Rejected { reason: code.to_owned(), replayed },
        (422, Call::Write(_)) if code == "rejected" => {
            let reason = body["reason"].as_str().unwrap_or_default().to_owned();
            Outcome::Rejected { reason, replayed }
        }
        (409 | 429 | 503, _) => Outcome::NotApplied { status: answer.status },
        (504, _) => Outcome::Unknown { why: "504".to_owned() },
        _ => nonsense(),
    }
}
