//! What a fuzzer tries on what nodes say to each other; see `loadtests/fuzz`. It panics where something that must hold does
//! not.

use berth_shared::peer;
use bytes::Bytes;

use super::SimulatedRuntime;
use super::message::{Answer, Request};
use crate::transport::wire::NodeRequest;

/// A request of a node, and the message to a group in it; also the message alone.
pub fn message(data: &[u8]) {
    if let Ok(request) = peer::decode::<NodeRequest<'_>>(data) {
        let again = peer::encode(&request).expect("what was read can be said");
        assert_eq!(peer::decode::<NodeRequest<'_>>(&again).ok(), Some(request.clone()));
        if let NodeRequest::Raft { message, .. } = request {
            group(message);
        }
    }
    group(data);
    if let Ok(answer) = peer::decode::<Answer>(data) {
        let again = peer::encode(&answer).expect("what was read can be said");
        assert_eq!(peer::decode::<Answer>(&again).ok(), Some(answer));
    }
    let _ = super::decode_membership(data);
}

fn group(data: &[u8]) {
    let message = Bytes::copy_from_slice(data);
    let Ok(request) = peer::decode::<Request<'_>>(&message) else { return };
    let again = peer::encode(&request).expect("what was read can be said");
    assert_eq!(peer::decode::<Request<'_>>(&again).ok(), Some(request.clone()));
    match &request {
        Request::Append(append) => {
            if let Ok(entries) = append.to_raft::<SimulatedRuntime>(&message) {
                assert_eq!(entries.entries.len(), append.entries.len());
            }
        }
        Request::Vote(campaign) | Request::PreVote(campaign) => {
            let _ = campaign.to_raft::<SimulatedRuntime>();
        }
        _ => {}
    }
    let _ = (request.term(), request.sender());
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_corpus_holds() {
        crate::replay::replay("raft_message", super::message);
    }
}
